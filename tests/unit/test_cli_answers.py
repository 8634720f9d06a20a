"""What `predict`, `registry` and `report` print and write."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stepforge.cli import _predict, _registry, _scores, main
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport, Interval, Score
from stepforge.contracts.rewards import RuleResult, Verdict
from stepforge.contracts.serving import Exported, InvokeResponse
from stepforge.errors import IntegrityError, InvalidInput
from tests.unit.test_registry import package

SHA = "0" * 64
GOOD = Verdict(
    accepted=True,
    reward=0.9,
    partial=0.95,
    rules=(
        RuleResult(rule="time.fade", score=0.8, hard=False, message="fades late"),
        RuleResult(rule="rig.jaw", score=1, hard=True),
    ),
)
BAD = Verdict(
    accepted=False,
    reward=0,
    partial=0.5,
    rules=(
        RuleResult(rule="units.smile", score=0, hard=True, message="a smile is missing"),
        RuleResult(rule="time.pace", score=0.5, hard=True, message="too slow"),
        RuleResult(rule="time.fade", score=0, hard=False, message="fades late"),
    ),
)
UNREADABLE = Verdict(accepted=False, reward=0, partial=0, reason="step 1 names no action unit")
ANSWER = InvokeResponse(
    model_sha256=SHA,
    completions=("a ;\nb ;", "c ;", ""),
    verdicts=(GOOD, BAD, UNREADABLE),
    readings=("An A\nB: b", "C", "D"),
)


def ask(answer: InvokeResponse, *, as_json: bool = False, export: str | None = None, out: Path = Path("out")) -> None:
    prompts = [f"p{number}" for number in range(len(answer.completions))]
    client: Any = SimpleNamespace(registry=SimpleNamespace(predict=lambda *_, **__: answer))
    _predict.predict(client, "facial", prompts, temperature=0, seed=0, export=export, out=out, as_json=as_json)


def test_an_answer_is_shown_with_the_rules_word_and_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    ask(ANSWER)
    assert capsys.readouterr().out.splitlines() == [
        "1. p0",
        "   accepted, reward 0.90 (time.fade: fades late)",
        "   An A",
        "   B: b",
        "   answer: a ;",
        "           b ;",
        "2. p1",
        "   REFUSED: units.smile: a smile is missing; time.pace: too slow",
        "   C",
        "   answer: c ;",
        "3. p2",
        "   REFUSED: step 1 names no action unit",
        "   D",
        "   answer: (empty)",
        "(weights 000000000000)",
    ]


def test_json_holds_the_whole_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    ask(ANSWER, as_json=True)
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [Verdict.model_validate(a["verdict"]) for a in answers] == [GOOD, BAD, UNREADABLE]
    assert answers[0] | {"verdict": None} == {
        "prompt": "p0", "completion": "a ;\nb ;", "verdict": None, "reading": "An A\nB: b"
    }  # fmt: skip


def test_an_answer_that_nobody_judged_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    ask(InvokeResponse(model_sha256=SHA, completions=("c",)))
    assert (
        "(not judged: prompts of 'facial' do not say all that its rules read, or a provider answered)"
        in capsys.readouterr().out
    )


def test_exports_of_two_formats_stand_side_by_side(tmp_path: Path) -> None:
    for format in ("arkit-json", "openxr-json", "livelink-csv"):
        exported = ANSWER.model_copy(update={"completions": ("a",), "exports": (Exported(content=format),)})
        ask(exported, export=format, out=tmp_path / "faces")
    found = {path.name: path.read_text() for path in (tmp_path / "faces").iterdir()}
    assert found == {
        "facial-1.arkit.json": "arkit-json",
        "facial-1.openxr.json": "openxr-json",
        "facial-1.livelink.csv": "livelink-csv",
    }


def test_a_refused_export_ends_with_exit_code_4_after_the_others_were_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports = (Exported(content="{}"), Exported(refusal="no"), Exported(refusal="no"))
    with pytest.raises(typer.Exit) as ended:
        ask(ANSWER.model_copy(update={"exports": exports}), export="arkit-json", out=tmp_path)
    assert ended.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["facial-1.arkit.json"]
    assert capsys.readouterr().out.count("not exported") == 2


@pytest.mark.parametrize("out", ["fodler/faces", "file"])
def test_a_mistyped_folder_for_exports_is_refused_before_the_model_is_asked(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidInput, match="is no folder"):
        _predict.predict(
            SimpleNamespace(),
            "facial",
            ["p"],
            temperature=0,
            seed=0,
            export="arkit-json",
            out=tmp_path / out,
            as_json=False,
        )  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ── Scores ───────────────────────────────────────────────────────────────────────────────────────


def report(*scores: tuple[Any, Any, float]) -> EvaluationReport:
    values = [
        Score(split=s, decoding=d, metric="accepted", value=Interval(mean=m, low=m / 2, high=(1 + m) / 2, count=200))
        for s, d, m in scores
    ]
    return EvaluationReport(spec_sha256=SHA, model_sha256=SHA, manifest_sha256=SHA, scores=tuple(values))


def test_a_split_or_decoding_that_was_not_scored_is_no_number() -> None:
    found = report(("test_known", "greedy", 0.865), ("test_known", "sampled", 0.5), ("test_new", "greedy", 0.0))
    head, known, new, note = _scores.lines(found)
    assert head.split()[:4] == ["ACCEPTED", "ON", "GREEDY", "SAMPLED"]
    assert known.split("  ")[1].strip() == "86.5 % (43.2–93.2)"
    assert known.endswith("new problems of known kinds")
    assert " -  " in new
    assert "95 %" in note
    assert _scores.short(found) == ["86.5 / 50.0", "0.0 / -", "- / -"]
    assert _scores.short(None) == ["- / -"] * 3
    assert _scores.lines(report()) == ["the evaluation holds no score of accepted completions on a test split"]


def test_scores_without_width_leave_room_for_doubt_and_a_model_that_solves_nothing_is_told() -> None:
    of_few = Interval(mean=0.0, low=0.0, high=0.0, count=6)
    kept = Interval(mean=0.9, low=0.8, high=1.0, count=6)
    scores = [
        Score(split="test_known", decoding="greedy", metric="accepted", value=of_few),
        Score(split="test_retained", decoding="greedy", metric="accepted", value=kept),
    ]
    found = report().model_copy(update={"scores": tuple(scores)})
    assert "6 of a kind leave room for about 50.0 % of the other" in _scores.lines(found)[-1]
    assert _scores.solves_nothing(found)
    assert not _scores.solves_nothing(report(("test_known", "greedy", 0.0), ("test_new", "sampled", 0.1)))


def test_the_champion_gate_is_told_in_a_sentence() -> None:
    champion = "arn:aws:sagemaker:us-east-1:000000000000:model-package/stepforge-my-sums/3"
    better = Comparison(better=True, champion=champion, reasons=("better on a", "and b"))
    assert _scores.against_champion(better) == "champion: better than my-sums/3 (better on a; and b)"
    assert "not better than my-sums/3" in _scores.against_champion(better.model_copy(update={"better": False}))
    assert "none to compare with" in _scores.against_champion(better.model_copy(update={"champion": None}))


# ── Registry and report ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("domain", [None, "sums"])
def test_an_empty_registry_says_what_makes_a_model(domain: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    registry = SimpleNamespace(packages=lambda _: [])
    client: Any = SimpleNamespace(connection=SimpleNamespace(name="dev"), registry=registry)
    _registry.print_packages(client, domain, as_json=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"`stepforge run train --domain {domain or 'facial'} --env dev` makes one" in said.err
    _registry.print_packages(client, domain, as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_one_evaluation_that_was_altered_hides_no_other_model(capsys: pytest.CaptureFixture[str]) -> None:
    def evaluation(given: Any) -> EvaluationReport:
        if given.version == 2:
            raise IntegrityError("evaluation.json was altered")
        return report(("test_new", "greedy", 0.5))

    held = [package("Approved"), dataclasses.replace(package("Rejected"), version=2)]
    client: Any = SimpleNamespace(registry=SimpleNamespace(packages=lambda _: held, evaluation=evaluation))
    _registry.print_packages(client, None, as_json=False)
    said = capsys.readouterr()
    assert "50.0 / -" in said.out
    assert "facial/2" in said.out
    assert "warning: the scores of facial/2 cannot be read: evaluation.json was altered" in said.err


@pytest.mark.parametrize(("target", "reason"), [(".", "is a folder"), ("fodler/r.html", "does not exist")])
def test_a_report_is_refused_before_any_environment_is_started(
    tmp_path: Path, target: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    assert main(["report", "--out", str(tmp_path / target)]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("opens", "words"), [(False, "no browser was found here: open file://"), (True, "")])
def test_without_a_browser_the_address_is_said(
    tmp_path: Path, opens: bool, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SimpleNamespace(name="train-0")
    fake = SimpleNamespace(pipelines=SimpleNamespace(get=lambda _: run))
    monkeypatch.setattr("stepforge.client.Client", lambda _: fake)
    monkeypatch.setattr("stepforge.report.write_report", lambda _, path: path)
    monkeypatch.setattr("webbrowser.open", lambda _: opens)
    assert main(["report", "--open", "--out", str(tmp_path / "r.html")]) == 0
    err = capsys.readouterr().err
    assert err == "" if not words else words in err
