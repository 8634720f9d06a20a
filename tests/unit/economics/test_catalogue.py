from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stepforge.economics.catalogue import STALE_DAYS, Catalogue, ModelPrice, TeacherPrices, warnings_of
from stepforge.economics.price_list import look_up
from stepforge.errors import InvalidInput, UnknownName, UnknownPrice

NOVA = "bedrock/amazon.nova-micro-v1:0"
TODAY = date(2026, 11, 22)

ROW = """
version = 1
[[models]]
id = "openai/gpt-x"
provider = "openai"
tunable = ["sft"]
as_of = 2026-11-01
source = "a price page"
"""


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_what_ships_has_a_source_a_day_and_a_positive_value_for_every_price() -> None:
    rows = Catalogue.load().rows.values()
    assert len(rows) >= 15
    assert {row.provider for row in rows} >= {"openai", "azure", "vertex", "bedrock", "sagemaker"}
    for row in rows:
        for price in row.prices:
            assert price.usd > 0
            assert price.source
            assert price.as_of <= TODAY


def test_gemini_3_has_no_tuning_price_and_asking_for_it_says_what_to_do() -> None:
    with pytest.raises(UnknownPrice, match=r"Read it from the provider's price page and give it"):
        Catalogue.load().price("vertex/gemini-3.5-flash", "training_tokens")


def test_a_price_per_token_does_not_depend_on_its_unit() -> None:
    price = Catalogue.load().price(NOVA, "training_tokens")
    assert price.usd_each * 8_000_000 == Decimal(8)


@pytest.mark.parametrize(
    ("model", "method", "said"),
    [
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "sft", "takes no new tunes .* since 2026-09-10"),
        ("openai/o4-mini-2025-04-16", "sft", "cannot be tuned by sft: the catalogue knows rft"),
        (NOVA, "managed", None),
        (NOVA, "prompt", None),
    ],
    ids=["closed", "other method", "managed", "prompt"],
)
def test_what_cannot_be_launched_is_refused_with_dates_and_ways(model: str, method: Any, said: str | None) -> None:
    reasons = Catalogue.load().refusals(model, method, TODAY)
    if said is None:
        assert reasons == []
    else:
        with pytest.raises(ValueError, match=said):
            raise ValueError("; ".join(reasons))


def test_openai_takes_tunes_until_the_sixth_of_january() -> None:
    catalogue, model = Catalogue.load(), "openai/gpt-4.1-2025-04-14"
    assert catalogue.refusals(model, "sft", date(2027, 1, 6)) == []
    assert catalogue.refusals(model, "sft", date(2027, 1, 7)) != []


def test_an_unknown_model_is_told_its_neighbour() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'bedrock/amazon\.nova-lite-v1:0'"):
        Catalogue.load().row("bedrock/amazon.nova-lite-v1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({'"openai/gpt-x"': '"azure/gpt-x"'}, "does not begin with the provider"),
        ({'"sft"': '"sfft"'}, "tunable"),
        ({"2026-11-01": "yesterday"}, "is no TOML"),
        ({"source": "sauce"}, "did you mean 'source'|sauce"),
        (
            {'"a price page"': '"a price page"\nlaunches_until = 2027-02-01\nshuts_down = 2027-01-01'},
            "launches_until 2027-02-01 is after shuts_down 2027-01-01",
        ),
    ],
    ids=["provider", "method", "toml", "misspelt", "dates"],
)
def test_a_wrong_row_is_refused_when_it_is_loaded(tmp_path: Path, change: dict[str, str], said: str) -> None:
    text = ROW
    for old, new in change.items():
        text = text.replace(old, new)
    with pytest.raises(InvalidInput, match=said):
        Catalogue.load(own(tmp_path, text))


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ('kind = "training_tokens"\nusd = 0\nunit = "1M tokens"', "usd"),
        ('kind = "training_tokens"\nusd = 1\nunit = "hour"', "is per 1M tokens or 1K tokens, not per hour"),
    ],
    ids=["zero", "unit"],
)
def test_a_price_of_zero_or_of_the_wrong_unit_is_refused(tmp_path: Path, price: str, said: str) -> None:
    more = f'{ROW}[[models.prices]]\n{price}\nas_of = 2026-11-01\nsource = "a price page"\nconfidence = "given"\n'
    with pytest.raises(InvalidInput, match=said):
        Catalogue.load(own(tmp_path, more))


def test_a_row_of_ones_own_takes_the_place_of_the_one_that_ships(tmp_path: Path) -> None:
    text = ROW.replace("openai/gpt-x", "openai/gpt-4.1-2025-04-14")
    assert Catalogue.load(own(tmp_path, text)).row("openai/gpt-4.1-2025-04-14").shuts_down is None


def test_stale_prices_and_rows_are_flagged_and_only_those() -> None:
    catalogue = Catalogue.load()
    row = catalogue.row(NOVA)
    fresh = Catalogue({NOVA: row.model_copy(update={"prices": (), "as_of": TODAY - timedelta(days=STALE_DAYS)})})
    assert fresh.stale(TODAY) == []
    assert fresh.stale(TODAY + timedelta(days=1)) == [f"{NOVA}: was checked on {TODAY - timedelta(days=STALE_DAYS)}"]
    assert any("the price of training_tokens is of 2026-04-16" in line for line in catalogue.stale(TODAY))


def test_prices_at_second_hand_are_told() -> None:
    told = warnings_of(Catalogue.load(), ["openai/gpt-4.1-2025-04-14"], TODAY)
    assert any("the price of training_tokens is secondary" in line for line in told)


class PriceList:
    """AWS's price list, as GetProducts answers: JSON texts, two pages."""

    def __init__(self, usd: dict[str, tuple[str, ...]]) -> None:
        self.usd = usd

    def get_products(self, *, ServiceCode: str, Filters: list[dict[str, str]], NextToken: str = "") -> dict[str, Any]:
        assert ServiceCode == "AmazonBedrock"
        wanted = {one["Field"]: one["Value"] for one in Filters}
        assert all(one["Type"] == "TERM_MATCH" for one in Filters)
        assert wanted["regionCode"] == "us-east-1"
        if not NextToken:
            return {"PriceList": [], "NextToken": "more"}
        products = [
            json.dumps({"terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": {"pricePerUnit": {"USD": usd}}}}}}})
            for usd in self.usd.get(wanted["usagetype"], ())
        ]
        return {"PriceList": products}


def test_a_refresh_takes_what_the_price_list_has_and_tells_what_it_has_not() -> None:
    client = PriceList({"USE1-NovaMicro-input-tokens": ("0.0000400000",), "USE1-NovaMicro-output-tokens": ("1", "2")})
    catalogue, missing = Catalogue.load().refreshed(look_up(client), TODAY)
    fresh = catalogue.price(NOVA, "input")
    assert (fresh.usd, fresh.as_of, fresh.confidence) == (Decimal("0.0000400000"), TODAY, "documented")
    assert catalogue.price(NOVA, "output") == Catalogue.load().price(NOVA, "output")
    assert any(line.startswith(f"{NOVA}: output was not found") for line in missing)
    assert any(line.startswith(f"{NOVA}: training_tokens is in no price list") for line in missing)


def test_an_older_price_does_not_take_the_place_of_a_newer_one() -> None:
    catalogue = Catalogue.load()
    now = catalogue.price(NOVA, "input")
    older = ModelPrice.model_validate({**now.model_dump(), "usd": 1, "as_of": now.as_of - timedelta(days=1)})
    assert catalogue.with_prices([(NOVA, older)]).price(NOVA, "input") == now


# ── Who may teach whom ───────────────────────────────────────────────────────────────────────────


def test_every_pair_that_ships_says_who_says_so_and_is_of_models_with_rows() -> None:
    catalogue = Catalogue.load()
    assert all(pairs.source and pairs.confidence != "given" and pairs.as_of <= TODAY for pairs in catalogue.pairs)
    students = {row.id for row in catalogue.rows.values() if "distillation" in row.tunable}
    assert students == {student for pairs in catalogue.pairs for student in pairs.students}
    assert {student.partition("/")[0] for student in students} == {"bedrock", "vertex"}


@pytest.mark.parametrize(
    "teacher",
    [
        "bedrock/amazon.nova-pro-v1:0",
        "amazon.nova-pro-v1:0",
        "us.amazon.nova-pro-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0",
        "arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.amazon.nova-pro-v1:0",
    ],
)
def test_a_teacher_is_found_however_bedrock_is_told_of_it(teacher: str) -> None:
    catalogue = Catalogue.load()
    assert catalogue.refusals(NOVA, "distillation", TODAY, teacher=teacher) == []
    assert catalogue.pair(NOVA, teacher).confidence == "documented"


def test_the_newest_statement_about_a_pair_counts_and_prices_keep_the_pairs(tmp_path: Path) -> None:
    older = PAIR.replace("2026-11-01", "2020-01-01")
    for text, source in ((PAIR, "a documentation page"), (older, "AWS, Amazon Nova")):
        newer = text.replace("2026-11-01", "2026-11-23")
        found = Catalogue.load(own(tmp_path, f"version = 1\n{newer}")).pair(NOVA, "amazon.nova-pro-v1:0")
        assert found.source.startswith(source)
    catalogue = Catalogue.load()
    again = catalogue.with_prices([(NOVA, catalogue.price(NOVA, "input"))])
    assert again.pairs == catalogue.pairs != ()


PAIR = """
[[pairs]]
students = ["bedrock/amazon.nova-micro-v1:0"]
teachers = ["bedrock/amazon.nova-pro-v1:0"]
as_of = 2026-11-01
source = "a documentation page"
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nova-pro": "nova-9"}, "pairs 'bedrock/amazon.nova-9-v1:0', which has no row"),
        ({"bedrock/amazon.nova-pro-v1:0": "openai/gpt-4.1-2025-04-14"}, "of one provider, not of bedrock and openai"),
        ({"nova-pro": "nova-micro"}, "is its own teacher"),
        ({"nova-micro": "nova-2-lite"}, "its row is not tunable by distillation"),
        ({'source = "a documentation page"': ""}, "source"),
    ],
    ids=["no row", "two providers", "itself", "no student", "no source"],
)
def test_a_wrong_pair_is_refused_when_it_is_loaded(tmp_path: Path, change: dict[str, str], said: str) -> None:
    text = f"version = 1\n{PAIR}"
    for old, new in change.items():
        text = text.replace(old, new)
    with pytest.raises(InvalidInput, match=said):
        Catalogue.load(own(tmp_path, text))


def test_teachers_prices_are_of_input_and_output_and_belong_to_a_training() -> None:
    catalogue = Catalogue.load()
    read, said = (catalogue.price("bedrock/amazon.nova-pro-v1:0", kind) for kind in ("input", "output"))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="prices of input and output"):
        TeacherPrices(model="m", input=said, output=said)
    rates = TeacherPrices(model="m", input=read, output=said)
    with pytest.raises(ValidationError, match="belongs to the price of a training"):
        ModelPrice.model_validate({**read.model_dump(), "teacher": rates.model_dump()})
