"""What the numbers support, in words. Pure: ReportData in, sentences out.

Two scores differ where their 95 % intervals do not touch; a difference that could be chance is called none. That is
the champion gate's rule too, and stricter than a paired test would be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from stepforge.contracts.hacking import signs
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import TEST_SPLITS, Split
from stepforge.contracts.reports import Decoding, EvaluationReport, Interval, Scored
from stepforge.contracts.work import TRAINING
from stepforge.report.data import Reference, ReportData

Tone = Literal["good", "caution", "bad", "neutral"]
Difference = Literal["higher", "lower", "no difference supported"]
ACCEPTED = "accepted"
DECODINGS: tuple[Decoding, ...] = ("greedy", "sampled")
SPLIT_NAMES: dict[Split, str] = {
    "corpus": "Corpus",
    "train": "Demonstrations",
    "rl": "Problems for RL",
    "test_known": "New problems of known kinds",
    "test_new": "New kinds",
    "test_retained": "Retained skills",
}


@dataclass(frozen=True)
class Verdict:
    tone: Tone
    headline: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """One link of the lineage: does what one job read agree with what another wrote?"""

    holds: bool
    text: str


def score(evaluation: Scored, split: Split, decoding: Decoding, metric: str = ACCEPTED) -> Interval | None:
    try:
        return evaluation.score(split, decoding, metric)
    except KeyError:
        return None


def cells(evaluation: Scored) -> list[tuple[Split, Decoding, Interval]]:
    """Every split and decoding that the evaluation has a score for, in the order of the splits."""
    found = []
    for split in TEST_SPLITS:
        for decoding in DECODINGS:
            if (value := score(evaluation, split, decoding)) is not None:
                found.append((split, decoding, value))
    return found


def difference(ours: Interval, theirs: Interval) -> Difference:
    if ours.above(theirs):
        return "higher"
    return "lower" if theirs.above(ours) else "no difference supported"


def differences(evaluation: EvaluationReport, reference: Reference) -> dict[tuple[Split, Decoding], Difference]:
    """For every cell that both have."""
    found = {}
    for split, decoding, ours in cells(evaluation):
        if (theirs := score(reference.evaluation, split, decoding)) is not None:
            found[split, decoding] = difference(ours, theirs)
    return found


def lineage_checks(data: ReportData) -> list[Check]:
    """The links that can be checked from what there is."""
    checks = []
    dataset, gate, evaluation = data.dataset, data.gate, data.evaluation
    if gate is not None and dataset is not None:
        holds = gate.manifest_sha256 == dataset.sha256
        checks.append(Check(holds, "the gate looked at the dataset that was trained on"))
    models = [job.artifact for job in data.jobs if job.type in TRAINING and job.artifact is not None]
    if evaluation is not None and models:
        holds = evaluation.model_sha256 == models[-1].sha256
        checks.append(Check(holds, "the evaluation scored the model of the last stage"))
    if evaluation is not None and dataset is not None:
        holds = evaluation.manifest_sha256 == dataset.sha256
        checks.append(Check(holds, "the evaluation used the held-out splits of this dataset"))
    if data.stages and models:
        expected = tuple(ref.sha256 for ref in models[: len(data.stages) - 1])
        last = data.stages[-1].report.parents
        holds = last[len(last) - len(expected) :] == expected
        checks.append(Check(holds, "the last stage descends from the stages before it"))
    return checks


def verdict(data: ReportData) -> Verdict:
    """The decision that the report supports; the first thing that speaks against the model decides."""
    if data.gate is not None and not data.gate.passed:
        return Verdict("bad", "The gate refused the data: there is no model to approve", (_refusal(data),))
    if broken := [check.text for check in lineage_checks(data) if not check.holds]:
        return Verdict(
            "bad",
            "Do not approve: the lineage does not hold",
            tuple(f"It does not hold that {text}." for text in broken),
        )
    failed = [job for job in data.jobs if job.status in ("Failed", "Stopped")]
    if failed or data.status in ("FAILED", "TIMED_OUT", "ABORTED"):
        return _ended_early(data)
    evaluation = data.evaluation
    if evaluation is None:
        doing = [job for job in data.jobs if job.status != "Completed"]
        now = ""
        if doing:
            state = "has not started" if doing[0].status == "Absent" else f"is {doing[0].status}"
            now = f"The stage {doing[0].stage} {state}."
        rest = f"Still to come: {', '.join(data.later)}." if data.later else ""
        return Verdict("neutral", "Not finished: nothing to decide yet", tuple(filter(None, (now, rest))))
    return _with_signs(_compared(data, evaluation), data)


def hacking_signs(data: ReportData) -> list[str]:
    """Signs of reward hacking at each stage's last checkpoint, a sentence each."""
    return [
        f"Sign of reward hacking in the stage {stage.stage}: {sign}."
        for stage in data.stages
        for sign in signs({name: curve[-1][1] for name, curve in stage.curves.items() if curve})
    ]


def _no_signs(data: ReportData) -> list[str]:
    """That they were looked for, where they were: silence says neither yes nor no."""
    found = []
    for stage in data.stages:
        counts = [count for _, count in stage.curves.get(Metric.HACKING_SIGNS, ())]
        if counts:
            passed = sum(count > 0 for count in counts)
            before = f" ({passed} before it had some)" if passed else ""
            looks = f"the last of {len(counts)} checkpoints of the stage {stage.stage}"
            found.append(f"No sign of reward hacking at {looks}{before}.")
    return found


def other_weights(data: ReportData) -> list[str]:
    """Stages whose model is not that of the weights which their settings name, a sentence each."""
    return [
        f"The model of the stage {stage.stage} is not what its settings ask for: {str(why).rstrip('.')}."
        for stage in data.stages
        if (why := stage.report.choices.get("kept_because"))
    ]


def _with_signs(found: Verdict, data: ReportData) -> Verdict:
    """With signs of hacking, or a stage that kept other weights, nothing is better than a case for a second look."""
    signs_found = hacking_signs(data)
    warnings = [*other_weights(data), *signs_found]
    reasons = (*warnings, *found.reasons, *([] if signs_found else _no_signs(data)))
    tone: Tone = found.tone if found.tone == "bad" or not warnings else "caution"
    return replace(found, tone=tone, reasons=reasons)


def _ended_early(data: ReportData) -> Verdict:
    reasons = []
    for job in data.jobs:
        if job.status in ("Failed", "Stopped"):
            why = job.attempts[-1].failure if job.attempts else ""
            reasons.append(f"The job {job.name} of the stage {job.stage} is {job.status}{': ' + why if why else '.'}")
    if data.error or data.cause:
        reasons.append(f"The run ended as {data.status}: {data.error} {data.cause}".strip())
    if data.evaluation is not None:
        reasons.append("Its evaluation was done before that, and is shown below.")
    return Verdict("bad", "The run did not succeed: there is nothing to approve", tuple(reasons))


def _compared(data: ReportData, evaluation: EvaluationReport) -> Verdict:
    reasons = []
    for reference in data.references:
        reasons.append(_against(evaluation, reference))
    if data.gate is not None:
        checked = ", ".join(data.gate.checked) or "no check is named"
        reasons.append(f"The data passed the gate: no finding ({checked}).")
    else:
        reasons.append("The report of the gate is missing.")
    champion = next((r for r in data.references if r.role == "champion"), None)
    if champion is None:
        if data.comparison is not None and data.comparison.champion is not None:
            recorded = "better" if data.comparison.better else "not better"
            return Verdict(
                "caution",
                f"The champion gate found it {recorded} than the champion, whose scores cannot be shown",
                (*data.comparison.reasons, *reasons),
            )
        reasons.insert(0, "No champion served in its group when it was compared: its scores stand alone.")
        if unsolved := [f"{SPLIT_NAMES[s].lower()} ({d})" for s, d, value in cells(evaluation) if value.mean == 0]:
            reasons.insert(1, f"No completion was accepted on {', '.join(unsolved)}.")
            headline = f"First of its group, and without success on {len(unsolved)} of {len(cells(evaluation))} scores"
            return Verdict("caution", headline, tuple(reasons))
        return Verdict("neutral", "First of its group: judge it by its own scores", tuple(reasons))
    found = differences(evaluation, champion)
    missing = [key for key in ((s, d) for s, d, _ in cells(champion.evaluation)) if key not in found]
    if missing:
        listed = ", ".join(f"{split} {decoding}" for split, decoding in missing)
        reasons.append(f"It was not evaluated on {listed}, where the champion was.")
    counts = {word: list(found.values()).count(word) for word in ("higher", "lower")}
    if counts["lower"]:
        tone: Tone = "bad"
        headline = f"Worse than the champion on {counts['lower']} of {len(found)} held-out scores"
    elif counts["higher"] and not missing:
        tone, headline = (
            "good",
            f"Better than the champion on {counts['higher']} of {len(found)} held-out scores, worse on none",
        )
    elif missing:
        tone, headline = "caution", "Not comparable with the champion on every held-out score"
    else:
        tone, headline = "caution", "No difference from the champion that the intervals support"
    return Verdict(tone, headline, tuple(reasons))


def _against(evaluation: EvaluationReport, reference: Reference) -> str:
    found = differences(evaluation, reference)
    who = f"the {reference.role}" + (f" ({reference.name})" if reference.name != reference.role else "")
    if not found:
        return f"It shares no held-out score with {who}."
    words = []
    for word, said in (
        ("higher", "higher on"),
        ("lower", "lower on"),
        ("no difference supported", "too close to call on"),
    ):
        of_split: dict[Split, list[Decoding]] = {}
        for (split, decoding), value in found.items():
            if value == word:
                of_split.setdefault(split, []).append(decoding)
        if of_split:
            names = [f"{SPLIT_NAMES[split].lower()} ({' and '.join(held)})" for split, held in of_split.items()]
            words.append(f"{said} {', '.join(names)}")
    text = f"Against {who}: {'; '.join(words)}."
    if evaluation.manifest_sha256 != reference.evaluation.manifest_sha256:
        text += " The two were evaluated on different test data."
    return text


def _refusal(data: ReportData) -> str:
    assert data.gate is not None
    text = data.gate.refusal or "the gate named no finding"
    return text[0].upper() + text[1:] + "."
