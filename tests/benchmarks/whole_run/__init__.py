"""A whole SRL -> RLVR run beside TRL's GRPOTrainer, on the reproduction's tasks: same prompts, rewards and steps."""
