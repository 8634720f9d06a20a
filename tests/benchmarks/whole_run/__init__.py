"""A whole SRL -> RLVR run beside TRL's GRPOTrainer, on the reproduction's tasks: the same prompts, rewards and steps."""
