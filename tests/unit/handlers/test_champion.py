"""The champion gate decides by intervals, and says why."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepforge.champion import compare
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.reports import EvaluationReport, Interval, Score

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
