from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError

from stepforge.cli import main
from stepforge.contracts.decisions import Decision
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.catalogue_file import as_toml
from stepforge.economics.decide import decide
from stepforge.economics.files import read_question
from stepforge.economics.show import tornado
from stepforge.errors import EnvironmentUnavailable, InvalidInput, UnknownPrice

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


class Priced:
    """AWS's price list with one price."""

    def get_products(self, *, Filters: list[dict[str, str]], **_: object) -> dict[str, object]:
        if not any(one["Value"] == "USE1-NovaMicro-input-tokens" for one in Filters):
            return {"PriceList": []}
        dimensions = {"A.B.C": {"pricePerUnit": {"USD": "0.0000400001"}}}
        return {"PriceList": [json.dumps({"terms": {"OnDemand": {"A.B": {"priceDimensions": dimensions}}}})]}


OWN = """
version = 1
[[models]]
id = "openai/gpt-x"
provider = "openai"
tunable = ["sft"]
as_of = 2020-01-01
source = "a \\"page\\" of \\u00e9"
limits = { examples_min = 10 }
"""


def test_a_refreshed_catalogue_is_written_and_read_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = tmp_path / "mine.toml", tmp_path / "own.toml"
    own.write_text(OWN)
    monkeypatch.setattr("boto3.Session.client", lambda *_, **__: Priced())
    assert main(["catalogue", "--refresh", "--catalogue", str(own), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fresh"] == ["bedrock/amazon.nova-micro-v1:0: input is 0.0000400001 USD / 1K tokens"]
    assert any(line.startswith("bedrock/amazon.nova-pro-v1:0: input was not found") for line in said["missing"])
    assert "openai/gpt-x: was checked on 2020-01-01" in said["stale"]
    before, found = Catalogue.load(own), Catalogue.load(out)
    price = found.price("bedrock/amazon.nova-micro-v1:0", "input")
    assert (str(price.usd), price.confidence, price.as_of) == ("0.0000400001", "documented", datetime.now(UTC).date())
    assert found == before.with_prices([("bedrock/amazon.nova-micro-v1:0", price)])
    with pytest.raises(UnknownPrice, match="give it"):
        found.price("openai/gpt-x", "training_tokens")


def test_a_catalogue_whose_every_row_is_ones_own_is_written_whole(tmp_path: Path) -> None:
    shipped, path = Catalogue.load(), tmp_path / "all.toml"
    pair = shipped.pairs[0].model_copy(update={"note": "mine"})
    rows = {name: row.model_copy(update={"note": f"{row.note} # mine"}) for name, row in shipped.rows.items()}
    changed = Catalogue(rows, (*shipped.pairs, pair))
    path.write_text(as_toml(changed), encoding="utf-8")
    assert Catalogue.load(path) == changed


def test_a_price_list_that_cannot_be_read_makes_nothing_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> object:
        raise NoCredentialsError

    monkeypatch.setattr("boto3.Session.client", unreachable)
    out = tmp_path / "own.toml"
    assert main(["catalogue", "--refresh", "--out", str(out)]) == EnvironmentUnavailable.exit_code
    assert "was not read (NoCredentialsError): no price is newer" in capsys.readouterr().err
    assert not out.exists()
