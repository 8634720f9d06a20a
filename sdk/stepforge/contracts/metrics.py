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
    KL = "kl"
    ENTROPY = "entropy"
    GRADIENT_NORM = "gradient_norm"
    COMPLETION_TOKENS = "completion_tokens"
    LEARNING_RATE = "learning_rate"
    SECONDS = "seconds"
