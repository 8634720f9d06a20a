"""Names of metrics. A training job writes them to metrics.jsonl, one object a line with `step`."""

from __future__ import annotations

from enum import StrEnum


class Metric(StrEnum):
    LOSS = "loss"
    REWARD = "reward"
    REWARD_STD = "reward_std"
    ZERO_SPREAD = "zero_spread"
    """Share of groups whose rewards are all equal: they carry no signal."""
    FORMAT_FAILURES = "format_failures"
    SIMILARITY = "similarity"
    """Mean over the steps whose format holds."""
    ACCEPTED = "accepted"
    PARTIAL = "partial"
    KL = "kl"
    """Exact, in nats a token, to the stage's initial policy on fixed prompts."""
    KL_K3 = "kl_k3"
    """Estimate on the batch, where a penalty is on."""
    VALIDATION = "validation"
    """Mean verifier reward of greedy completions of held-out problems, at checkpoints, where the best one is kept."""
    ENTROPY = "entropy"
    GRADIENT_NORM = "gradient_norm"
    COMPLETION_TOKENS = "completion_tokens"
    LEARNING_RATE = "learning_rate"
    SECONDS = "seconds"
