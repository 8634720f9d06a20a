"""Criteria in files: what an advisor writes, and what is said where it cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stepforge.cli import main
from stepforge.contracts.decisions import Decision, Question
from stepforge.economics.decide import decide
from stepforge.economics.files import read_criteria, read_question
from stepforge.economics.show import verdict_markdown
from stepforge.errors import InvalidInput
from tests.unit.economics.asking import arm, question

DOCS = Path(__file__).resolve().parents[3] / "docs"


def two() -> Question:
    return question(arm("a"), arm("b"))


GOOD: dict[str, Any] = {"name": "independence", "weight_usd": 10, "scores": {"a": 1}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"criteria": [{**GOOD, "weight_usd": -5}]}, r"0.weight_usd'.*equal to 0 .*\(given: -5\).*weight_usd \(US"),
        ({"criteria": [{**GOOD, "weight_usd": "much"}]}, r"valid number.*\(given: 'much'\)"),
        ({"criteria": [{**GOOD, "weight_usd": "NaN"}]}, r"finite number .*\(given: 'NaN'\)"),
        ({"criteria": [{**GOOD, "scores": {"a": 1.5}}]}, r"scores.a'.*equal to 1 .*\(given: 1.5\)"),
        ({"criteria": [{**GOOD, "scores": {"aa": 1}}]}, r"arm in criterion 'independence' 'aa': did you mean 'a'"),
        ({"criteria": [{"name": "x", "weight_usd": 1}]}, r"0.scores': Field required.*scores \(by arm, 0 to 1\)"),
        ({"criteria": [GOOD, GOOD]}, r"criterion 'independence' is given twice: .* keep one"),
        ({"criteria": []}, r"at least 1 item"),
        ({"criterion": [GOOD]}, r"no such field; did you mean 'criteria'"),
        ([GOOD], r"holds no criteria"),
        ({"criteria": [GOOD], "question": "another"}, r"for the question 'another', and this one is 'support bot'"),
        ("{", r"cannot be read"),
        (b"\xff\xfe", r"cannot be read"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)  # fmt: skip
def test_criteria_that_cannot_be_read_say_what_was_given_and_what_is_allowed(
    given: Any, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(given if isinstance(given, bytes) else (given if given == "{" else json.dumps(given)).encode())
    with pytest.raises(InvalidInput, match=said) as caught:
        read_criteria(path, two())
    assert str(path) in str(caught.value)


def test_criteria_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"there is no file .*absent.toml.*give criteria as .toml or .json"):
        read_criteria(tmp_path / "absent.toml", two())


def test_the_same_criteria_are_read_from_toml_and_json(tmp_path: Path) -> None:
    plain = {"name": "independence", "weight_usd": 2_000, "reason": "it matters", "scores": {"b": 0.9}}
    written = {"question": "support bot", "criteria": [plain]}
    # The schema is for whoever writes one in another language.
    jsonschema.validate(written, json.loads((DOCS / "schemas" / "Criteria.json").read_text()))
    (tmp_path / "c.json").write_text(json.dumps(written))
    (tmp_path / "c.toml").write_text(
        'question = "support bot"\n[[criteria]]\nname = "independence"\nweight_usd = 2_000\nreason = "it matters"\n'
        "scores = { b = 0.9 }\n"
    )
    assert read_criteria(tmp_path / "c.json", two()) == read_criteria(tmp_path / "c.toml", two())


def test_the_worked_criteria_turn_the_worked_verdict_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "finetune.md").read_text()
    path, criteria = DOCS / "decision" / "question-after-pilot.toml", DOCS / "decision" / "criteria.toml"
    assert criteria.read_text().strip() in page
    without = decide(read_question(path))
    assert main(["finetune", "decide", str(path), "--criteria", str(criteria), "--json"]) == 0
    told = Decision.model_validate_json(capsys.readouterr().out)
    assert (without.action, told.action) == ("launch", "launch")
    assert (without.arm, told.arm) == ("Nova Micro tuned on Bedrock", "better prompt")
    assert told.sentence in " ".join(page.split())
    assert "is expected to bring $3,291" in without.sentence
    assert all(f"- {line}" in verdict_markdown(told) for line in told.criteria)
