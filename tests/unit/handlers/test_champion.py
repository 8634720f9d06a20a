"""The champion gate decides by intervals, and says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.contracts.previews import CompletionRow
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport, Interval, Score
from stepforge.machines.champion import FEWEST_PAIRS, cells_of, compare, mean_interval

CELLS = [(split, decoding) for split in TEST_SPLITS for decoding in ("greedy", "sampled")]


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, mean, high = sorted(draw(st.floats(0, 1)) for _ in range(3))
    return Interval(mean=mean, low=low, high=high, count=100)


def report(values: list[Interval], model: str = "a") -> EvaluationReport:
    scores = (
        Score(split=split, decoding=decoding, metric="accepted", value=value)  # type: ignore[arg-type]
        for (split, decoding), value in zip(CELLS, values, strict=False)
    )
    return EvaluationReport(
        spec_sha256="0" * 64, model_sha256=model * 64, manifest_sha256="2" * 64, scores=tuple(scores)
    )


def at(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.05, high=mean + 0.05, count=100)


reports = st.lists(intervals(), min_size=6, max_size=6)


@given(reports, reports)
def test_better_is_exactly_nowhere_worse_and_somewhere_better(ours: list[Interval], theirs: list[Interval]) -> None:
    worse = any(a.high < b.low for a, b in zip(ours, theirs, strict=True))
    better = any(a.low > b.high for a, b in zip(ours, theirs, strict=True))
    assert compare(report(ours), report(theirs, "b")).better == (better and not worse)


@given(reports, reports)
def test_two_models_are_never_each_better_than_the_other(ours: list[Interval], theirs: list[Interval]) -> None:
    assert not (compare(report(ours), report(theirs, "b")).better and compare(report(theirs, "b"), report(ours)).better)


@given(reports)
def test_a_model_is_not_better_than_one_that_scores_the_same(values: list[Interval]) -> None:
    assert not compare(report(values), report(values, "b")).better


@given(reports, reports)
def test_every_decision_has_a_reason_and_every_difference_is_in_range(a: list[Interval], b: list[Interval]) -> None:
    decision = compare(report(a), report(b, "b"), champion_arn="arn")
    assert decision.reasons
    assert decision.champion == "arn"
    assert all(-1 <= value <= 1 for value in decision.differences.values())
    assert len(decision.differences) == len(CELLS)


def test_the_first_model_of_a_group_is_better_than_nothing() -> None:
    assert compare(report([at(0.1)] * 6), None).better


def test_a_champion_without_an_evaluation_is_not_said_to_be_absent() -> None:
    decision = compare(report([at(0.9)] * 6), None, champion_arn="arn")
    assert (decision.better, decision.champion) == (False, "arn")
    assert "no evaluation" in decision.reasons[0]


def test_forgetting_what_was_known_is_not_paid_for_by_learning_something_new() -> None:
    ours = report([at(0.9), at(0.9), at(0.9), at(0.9), at(0.5), at(0.9)])
    decision = compare(ours, report([at(0.6)] * 4 + [at(0.9)] * 2, "b"))
    assert not decision.better
    assert any(reason.startswith("worse on test_retained/greedy: 0.500") for reason in decision.reasons)


def test_a_challenger_that_skipped_a_split_is_not_comparable() -> None:
    decision = compare(report([at(0.9)] * 5), report([at(0.1)] * 6, "b"))
    assert not decision.better
    assert "test_retained/sampled" in decision.reasons[0]


def test_other_test_data_is_said() -> None:
    other = report([at(0.1)] * 6, "b").model_copy(update={"manifest_sha256": "3" * 64})
    assert "different test data" in compare(report([at(0.9)] * 6), other).reasons[0]


KEY = "test_new/greedy"


def rows(accepted: list[bool], split: str = "test_new") -> list[CompletionRow]:
    return [
        CompletionRow(record=f"r{n}", split=split, completion="", accepted=a)  # type: ignore[arg-type]
        for n, a in enumerate(accepted)
    ]


def pair(ours: list[bool], theirs: list[bool]) -> Comparison:
    """Two models on one split, by reports whose intervals touch."""
    reports_ = [
        EvaluationReport(
            spec_sha256="0" * 64, model_sha256=model * 64, manifest_sha256="2" * 64,
            scores=(Score(split="test_new", decoding="greedy", metric="accepted", value=Interval(
                mean=sum(values) / len(values), low=0.0, high=1.0, count=len(values))),),
        )
        for model, values in (("a", ours), ("b", theirs))
    ]  # fmt: skip
    return compare(*reports_, cells=(cells_of(rows(ours)), cells_of(rows(theirs))))


def test_a_pair_sees_what_two_intervals_cannot() -> None:
    # 100 records, of which both get 40; the challenger gets 10 more, and loses none.
    ours, theirs = [n < 50 for n in range(100)], [n < 40 for n in range(100)]
    found = pair(ours, theirs)
    assert found.better
    assert found.paired[KEY].mean == 0.1
    assert "on the same 100 records" in found.reasons[0]
    assert not pair(theirs, ours).better
    assert "worse on test_new/greedy" in pair(theirs, ours).reasons[0]
    # As many got and lost is no difference, however the records are.
    assert not pair([n % 2 == 0 for n in range(100)], [n % 2 == 1 for n in range(100)]).better


def test_a_pair_needs_the_same_records_and_enough_of_them() -> None:
    few = pair([True] * (FEWEST_PAIRS - 1), [False] * (FEWEST_PAIRS - 1))
    assert (few.better, few.paired) == (False, {})
    enough = pair([True] * FEWEST_PAIRS, [False] * FEWEST_PAIRS)
    assert enough.better
    assert pair([True] * 30, [False] * 40).paired == {}


def test_completions_of_one_record_are_averaged_and_other_splits_left_out() -> None:
    sampled = [
        CompletionRow(record="r", split="test_new", decoding="sampled", completion="", accepted=a)
        for a in (True, False, False, False)
    ]
    assert cells_of([*sampled, *rows([True], split="train")]) == {"test_new/sampled": {"r": 0.25}}


def test_the_interval_is_that_of_the_evaluations_bootstrap() -> None:
    bootstrap = pytest.importorskip("stepforge_jobs.evaluation.bootstrap", reason="numpy is not installed")
    values = [(-1.0, 0.0, 0.25, 1.0)[n % 4] for n in range(200)]
    found, reference = mean_interval(values), bootstrap.interval(values, resamples=20_000)
    assert (found.mean, found.count) == (reference.mean, reference.count)
    assert abs(found.low - reference.low) < 0.01
    assert abs(found.high - reference.high) < 0.01
    assert mean_interval(values) == found


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    # 200 samples of 100 records from a population whose mean difference is 0.1.
    import random

    population, draw = [1.0] * 25 + [-1.0] * 15 + [0.0] * 60, random.Random(1)
    covered = 0
    for seed in range(200):
        found = mean_interval(draw.choices(population, k=100), resamples=400, seed=seed)
        covered += found.low <= 0.1 <= found.high
    assert 0.90 < covered / 200 < 0.985
