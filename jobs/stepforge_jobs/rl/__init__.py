"""The mathematics of reinforcement learning, apart from loops: rewards, advantages, KL."""
