from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepforge.cli import main
from stepforge.contracts.decisions import Decision
from stepforge.economics.decide import decide
from stepforge.economics.files import read_question
from stepforge.economics.show import tornado
from stepforge.errors import InvalidInput

DOCS = Path(__file__).resolve().parents[3] / "docs"
BEFORE, AFTER = DOCS / "decision" / "question.toml", DOCS / "decision" / "question-after-pilot.toml"


def test_the_worked_example_tries_and_then_launches_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "decision.md").read_text()
    said = []
    for path in (BEFORE, AFTER):
        assert main(["finetune", "decide", str(path), "--json"]) == 0
        said.append(Decision.model_validate_json(capsys.readouterr().out))
    assert [(one.action, one.arm) for one in said] == [
        ("pilot", "Nova Micro tuned on Bedrock"),
        ("launch", "Nova Micro tuned on Bedrock"),
    ]
    flat = " ".join(page.split())
    assert all(one.sentence in flat for one in said)


@pytest.mark.parametrize(("path", "plot"), [(BEFORE, "before-the-pilot.svg"), (AFTER, "after-the-pilot.svg")])
def test_the_committed_plots_are_those_of_the_examples(path: Path, plot: str) -> None:
    assert (DOCS / "decision" / plot).read_text() == tornado(decide(read_question(path)))


def test_a_verdict_is_written_as_page_and_plot_beside_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, page = tmp_path / "t.svg", tmp_path / "v.md"
    assert main(["finetune", "decide", str(AFTER), "--plot", str(plot), "--page", str(page)]) == 0
    assert capsys.readouterr().out.startswith("Launch Nova Micro tuned on Bedrock")
    assert plot.read_text().startswith("<svg")
    assert "](t.svg)" in page.read_text()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.toml", "name = ", "cannot be read"),
        ("q.json", '{"nome": 1}', "did you mean 'name'"),
        ("absent.toml", None, "there is no file"),
    ],
)
def test_a_question_that_cannot_be_read_says_why(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_question(path)


def test_the_catalogue_is_listed_and_shown_with_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["provider"] for row in rows} >= {"openai", "vertex", "bedrock"}
    assert main(["catalogue", "openai/gpt-4.1-2025-04-14"]) == 0
    shown = capsys.readouterr().out
    assert "launches until 2027-01-06" in shown
    assert "shuts down: 2027-01-14" in shown
    assert main(["catalogue", "vertex/gemini-3.5-flash"]) == 0
    assert "prices: none is known; give them" in capsys.readouterr().out


def test_an_unknown_model_ends_with_2_and_a_catalogue_of_ones_own_has_to_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["catalogue", "openai/gpt-5"]) == 2
    assert "unknown model of the catalogue" in capsys.readouterr().err
    assert main(["catalogue", "--catalogue", "absent.toml"]) == 2
    assert "there is no catalogue 'absent.toml'" in capsys.readouterr().err
