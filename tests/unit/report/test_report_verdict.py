"""The verdict says what the intervals support, and the first thing that speaks against a model decides."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.report.sample import BASE, CHAMPION, OURS, evaluation, report_data, sha

from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import GateFinding, GateReport, Interval
from stepforge.report.data import AttemptView, Reference, ReportData
from stepforge.report.sections_training import kl
from stepforge.report.verdict import difference, lineage_checks, verdict


def champion(scores: dict[str, tuple[float, float]]) -> tuple[Reference, ...]:
    return (Reference(role="champion", name="facial/6", evaluation=evaluation("old", scores)),)


def between(low: float, high: float) -> Interval:
    return Interval(mean=(low + high) / 2, low=low, high=high, count=10)


def test_intervals_that_touch_are_too_close_to_call() -> None:
    assert difference(between(0.5, 0.7), between(0.3, 0.5)) == "no difference supported"
    assert difference(between(0.51, 0.7), between(0.3, 0.5)) == "higher"
    assert difference(between(0.1, 0.29), between(0.3, 0.5)) == "lower"


@pytest.mark.parametrize(
    ("theirs", "tone", "words"),
    [
        (CHAMPION, "good", "Better than the champion on 4 of 6 held-out scores, worse on none"),
        (OURS, "caution", "No difference from the champion that the intervals support"),
        (BASE | {"test_known": (1.0, 1.0)}, "bad", "Worse than the champion on 2 of 6 held-out scores"),
    ],
    ids=["better", "same", "worse-on-one-split"],
)
def test_the_champions_scores_decide(theirs: dict[str, tuple[float, float]], tone: str, words: str) -> None:
    said = verdict(report_data(references=champion(theirs)))
    assert (said.tone, said.headline) == (tone, words)


def test_signs_of_reward_hacking_come_first_and_nothing_is_good_with_them() -> None:
    data = report_data(references=champion(CHAMPION))
    last = data.stages[-1]
    games = {"length_ratio": ((20.0, 1.0), (40.0, 2.5)), "repetition_change": ((40.0, 0.0),)}
    told = last.model_copy(update={"curves": {**last.curves, **games}})
    said = verdict(data.model_copy(update={"stages": (*data.stages[:-1], told)}))
    assert (said.tone, said.headline) == ("caution", verdict(data).headline)
    sign = "completions are 2.5 times as long as the initial policy's"
    assert said.reasons[0] == f"Sign of reward hacking in the stage {last.stage}: {sign}."
    assert said.reasons[1:] == verdict(data).reasons


def test_a_stage_that_kept_other_weights_than_it_was_told_to_is_named_first() -> None:
    data = report_data(references=champion(CHAMPION))
    last = data.stages[-1]
    why = "all 2 evaluations found the KL over the cap"
    report = last.report.model_copy(update={"choices": {**last.report.choices, "kept_because": why}})
    changed = data.model_copy(update={"stages": (*data.stages[:-1], last.model_copy(update={"report": report}))})
    said = verdict(changed)
    sentence = f"The model of the stage {last.stage} is not what its settings ask for: {why}."
    assert (said.tone, said.reasons[0]) == ("caution", sentence)
    assert said.reasons[1:] == verdict(data).reasons
    assert sentence in str(kl(changed))
    assert sentence not in str(kl(data))


def test_signs_that_were_looked_for_and_not_found_are_said_and_without_a_look_nothing_is() -> None:
    data = report_data(references=champion(CHAMPION))
    looked = data.stages[-1].model_copy(update={"curves": {"hacking_signs": ((20.0, 1.0), (40.0, 0.0))}})
    blind = data.stages[-1].model_copy(update={"curves": {}})
    said, unsaid = (verdict(data.model_copy(update={"stages": (stage,)})).reasons for stage in (looked, blind))
    assert said[-1] == (
        f"No sign of reward hacking at the last of 2 checkpoints of the stage {looked.stage} (1 before it had some)."
    )
    assert said[:-1] == unsaid


def test_a_split_that_only_the_champion_was_scored_on_makes_them_incomparable() -> None:
    ours = evaluation("rlvr", {split: value for split, value in OURS.items() if split != "test_retained"})
    said = verdict(report_data(evaluation=ours, references=champion(CHAMPION)))
    assert said.tone == "caution"
    assert any("not evaluated on test_retained greedy, test_retained sampled" in reason for reason in said.reasons)


def test_without_a_champion_the_scores_stand_alone() -> None:
    said = verdict(report_data(references=(), comparison=Comparison(better=True, reasons=("first",))))
    assert (said.tone, said.headline) == ("neutral", "First of its group: judge it by its own scores")


def test_a_first_model_that_solves_nothing_somewhere_is_no_neutral_matter() -> None:
    data = report_data(evaluation=evaluation("rlvr", OURS | {"test_new": (0.0, 0.0)}), references=(), comparison=None)
    said = verdict(data)
    assert (said.tone, said.headline) == ("caution", "First of its group, and without success on 2 of 6 scores")
    assert "No completion was accepted on new kinds (greedy), new kinds (sampled)." in said.reasons


def test_a_champion_whose_scores_are_gone_leaves_the_gates_own_word() -> None:
    said = verdict(report_data(references=()))
    assert said.tone == "caution"
    assert "better on test_new/greedy" in said.reasons


def test_other_test_data_is_said() -> None:
    other = evaluation("old", CHAMPION).model_copy(update={"manifest_sha256": sha("other data")})
    said = verdict(report_data(references=(Reference(role="champion", name="facial/6", evaluation=other),)))
    assert any("different test data" in reason for reason in said.reasons)


def test_a_refused_gate_outweighs_everything_and_names_record_and_rule() -> None:
    finding = GateFinding(check="leak", record="facial-17", rule="group", message="stands in train and in test_new")
    gate = GateReport(manifest_sha256=sha("dataset"), passed=False, checked={"leak": 9}, findings=(finding,))
    said = verdict(report_data(gate=gate))
    assert said.tone == "bad"
    assert "facial-17" in said.reasons[0]
    assert "group" in said.reasons[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dataset": {"sha256": sha("other")}}, "the gate looked at the dataset that was trained on"),
        ({"evaluation": evaluation("another model", OURS)}, "the evaluation scored the model of the last stage"),
    ],
    ids=["gate-of-other-data", "evaluation-of-another-model"],
)
def test_a_broken_lineage_forbids_approval(change: dict[str, Any], text: str) -> None:
    data = report_data(**change)
    assert text in [check.text for check in lineage_checks(data) if not check.holds]
    said = verdict(data)
    assert (said.tone, said.headline) == ("bad", "Do not approve: the lineage does not hold")


def test_a_stage_with_other_parents_breaks_the_lineage() -> None:
    data = report_data()
    last = data.stages[-1]
    orphan = last.model_copy(update={"report": last.report.model_copy(update={"parents": (sha("x"),) * 3})})
    broken = [
        c.text for c in lineage_checks(data.model_copy(update={"stages": (*data.stages[:-1], orphan)})) if not c.holds
    ]
    assert broken == ["the last stage descends from the stages before it"]


def test_a_whole_lineage_holds() -> None:
    checks = lineage_checks(report_data())
    assert len(checks) == 4
    assert all(check.holds for check in checks)


def unfinished(status: str, **attempt: Any) -> ReportData:
    data = report_data(evaluation=None, later=("evaluate",), status="RUNNING" if status == "InProgress" else "FAILED")
    job = data.jobs[5].model_copy(
        update={
            "status": status,
            "artifact": None,
            "attempts": (AttemptView(name="j", arn="a", status=status, **attempt),),
        }
    )
    return data.model_copy(update={"jobs": (*data.jobs[:5], job), "stages": data.stages[:3]})


def test_a_failed_job_is_named_with_its_reason() -> None:
    said = verdict(unfinished("Failed", failure="AlgorithmError: out of memory"))
    assert said.tone == "bad"
    assert "rlvr is Failed: AlgorithmError: out of memory" in said.reasons[0]


def test_a_run_under_way_says_where_it_is() -> None:
    said = verdict(unfinished("InProgress"))
    assert (said.tone, said.reasons) == ("neutral", ("The stage rlvr is InProgress.", "Still to come: evaluate."))
