"""The worlds and policies that the evaluator is measured with. Their figures: tests/benchmarks/finetune_regret.py."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.benchmarks import finetune_regret
from tests.benchmarks.finetune import baselines, ours
from tests.benchmarks.finetune.worlds import HELD_BACK, KINDS, TUNED_ON, world


def test_there_are_enough_kinds_and_one_is_held_back() -> None:
    assert len(TUNED_ON) >= 6
    assert HELD_BACK not in TUNED_ON
    assert not any("_" in kind for kind in KINDS)


@pytest.mark.parametrize("kind", TUNED_ON)
def test_a_world_is_the_same_each_time_and_another_by_another_number(kind: str) -> None:
    one, again, other = world(kind, 3, 7), world(kind, 3, 7), world(kind, 3, 8)
    assert (one.seen, one.values, one.pilot_scores) == (again.seen, again.values, again.pilot_scores)
    assert one.values != other.values


def test_pilots_are_paid_for_and_staying_is_worth_nothing() -> None:
    given = world("wellspecified", 0, 1)
    assert given.payoff(None) == 0
    price = {arm.name: arm.pilot_usd for arm in given.seen.arms}
    assert given.payoff("sft", ("own", "rft")) == given.values["sft"] - price["own"] - price["rft"]
    assert given.best >= max(given.payoff(name) for name in (None, *given.values))


def test_a_pilot_shows_the_true_gain_on_average() -> None:
    shown, true = [], []
    for number in range(150):
        given = world("wellspecified", 1, number)
        base = sum(given.seen.base_scores) / len(given.seen.base_scores)
        for arm in given.seen.arms:
            scores = given.pilot(arm.name)
            shown.append((sum(scores) / len(scores) - base) / arm.pilot_fidelity)
            true.append(given.gains[arm.name])
    assert sum(shown) / len(shown) == pytest.approx(sum(true) / len(true), abs=0.006)


def test_the_evaluator_and_the_baselines_agree_on_a_net_value_without_doubt() -> None:
    """Two implementations: the verdict's closed form, and the sum that the policies use."""
    from stepforge.economics.decide import decide

    given = world("wellspecified", 2, 5)
    sure = replace(given.seen, requests_relative_sd=0.0, base_scores=(0.0, 1.0) * 200)
    sure = replace(sure, arms=tuple(replace(arm, gain_mean=0.05, gain_sd=1e-6) for arm in sure.arms))
    verdict = decide(ours.question(sure, {}).model_copy(update={"prior_doubt": 0.0}))
    found = {arm.name: arm.net_usd.mean for arm in verdict.arms}
    expected = {arm.name: baselines.net_value(sure, arm, 0.05) for arm in sure.arms}
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_benchmark_prints_a_line_for_each_kind_and_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finetune_regret, "SEEDS", 1)
    monkeypatch.setattr(finetune_regret, "WORLDS", 2)
    finetune_regret.kind_of_world("smallvolume")
    lines = capsys.readouterr().out.splitlines()
    names = [found[1] for line in lines if (found := re.match(r"BENCH regret_smallvolume_([a-z]+) -?\d+ usd ", line))]
    assert sorted(names) == sorted(["ours", *baselines.BASELINES])
    assert any(line.startswith("BENCH coverage_smallvolume") for line in lines)
