"""What --dry-run shows is what a stage is trained with, and what does less than it seems to is said."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.cli._runs import _settings
from stepforge.contracts.work import Dpo, KlControl, Ppo, RlvrWork, SftWork, SrlWork


@pytest.mark.parametrize(
    ("given", "clips", "divisor"),
    [
        ({}, (0.2, 0.2), "group"),
        ({"loss": "dapo"}, (0.2, 0.28), "group"),
        ({"loss": "dapo", "clip": 0.1}, (0.1, 0.1), "group"),
        ({"loss": "dr_grpo", "clip_high": 0.3}, (0.2, 0.3), "none"),
        ({"algorithm": "ppo"}, (0.2, 0.2), "none"),
        ({"algorithm": "ppo", "normalisation": "running"}, (0.2, 0.2), "running"),
    ],
    ids=str,
)
def test_the_range_of_the_ratio_and_the_divisor_are_those_that_the_loss_has(
    given: dict[str, Any], clips: tuple[float, float], divisor: str
) -> None:
    shown = RlvrWork(updates_per_batch=2, **given).effective()
    assert ((shown["clip"], shown["clip_high"]), shown["normalisation"]) == (clips, divisor)


def test_what_an_algorithm_takes_by_default_is_shown_and_what_nothing_reads_is_not() -> None:
    assert RlvrWork(algorithm="ppo").effective()["ppo"] == Ppo().model_dump()
    dpo = RlvrWork(algorithm="dpo", beta=0.1).effective()
    assert dpo["dpo"] == Dpo().model_dump()
    assert not {"clip", "clip_high", "normalisation", "loss", "kl_penalty"} & set(dpo)
    assert "clip" not in RlvrWork().effective()
    assert "clip" in RlvrWork(algorithm="ppo").effective()
    assert "horizon" not in RlvrWork(kl=KlControl()).effective()["kl"]
    assert "memory" not in SrlWork(kl=KlControl(controller="ziegler")).effective()["kl"]


def test_the_line_of_a_dry_run_has_the_effective_values() -> None:
    line = _settings(RlvrWork(algorithm="ppo"))
    assert 'ppo {"gamma": 1.0, "lam": 0.95, "value_clip": 0.2, "value_step": 0.1}' in line
    assert "clip 0.2, clip_high 0.2" in line
    assert "null" not in line


@pytest.mark.parametrize(("steps", "said"), [(10, 1), (11, 0)])
def test_a_warm_up_that_outlasts_the_stage_is_said(steps: int, said: int) -> None:
    cautions = SftWork(steps=steps, warmup_steps=10).cautions()
    assert len(cautions) == said
    assert all("warmup_steps 10 is not below steps" in caution for caution in cautions)
