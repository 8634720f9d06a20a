"""The package of a promotion in the tests of what serves it."""

from __future__ import annotations

from typing import Any

from stepforge.contracts.registry import Promotion
from stepforge.contracts.reports import Interval, Score
from stepforge.contracts.serving import Fleet
from stepforge.machines.deployment import (
    Deployment,
    verify,
)
from tests.fakes import FakeSageMaker

GROUP = "stepforge-facial"
FLEET = Fleet(instance_type="ml.m5.large")
FILES = {"model.safetensors": b"weights", "config.json": b"{}"}
ROWS = [
    {"decoding": decoding, "prompt": f"p{n}", "completion": f"c{n}", "tokens": n + 1}
    for n in range(20)
    for decoding in ("greedy", "sampled")
]


SCORES = (
    Score(
        split="test_new", decoding="greedy", metric="accepted", value=Interval(mean=0.5, low=0.4, high=0.6, count=20)
    ),
)


def verified(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> Deployment:
    return verify(sagemaker, s3, promotion, FLEET, poll_seconds=1)
