"""Where the price of a launch comes from: the plan, else the catalogue, never nowhere."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stepforge.contracts.records import Provenance, Record
from stepforge.economics.catalogue import Catalogue
from stepforge.errors import InvalidInput, ModelGone, Throttled, UnknownPrice
from stepforge.finetune import TuneSpec, datasets
from stepforge.finetune.datasets import Pair, read_rows, write
from stepforge.finetune.job import estimate
from stepforge.finetune.pairs import heldout, read_items, trained
from stepforge.finetune.plan import Plan
from tests.unit.finetune.conftest import BUDGETS, PRICE

TODAY = date(2026, 11, 22)
BEDROCK = {"type": "bedrock", "role_arn": "arn:aws:iam::1:role/r", "folder_uri": "s3://bucket/tunes"}


def plan(**given: Any) -> Plan:
    budgets = BUDGETS.model_dump()
    base = {"environment": "dev", "method": "sft", "provider": BEDROCK, "budgets": budgets}
    return Plan.model_validate({"base_model": "amazon.nova-micro-v1:0", **base, **given})


def test_a_plan_without_a_price_has_the_catalogue_s() -> None:
    terms = plan().terms(Catalogue.load(), TODAY)
    assert (terms.price.usd, terms.price.unit, terms.price.as_of) == (Decimal("0.001"), "1K tokens", date(2026, 4, 16))
    assert any(line.startswith("stale") for line in terms.warnings)
    assert plan().booked_at(Catalogue.load()) == terms.price


def test_a_plan_s_own_price_goes_before_the_catalogue_s() -> None:
    assert plan(price=PRICE).terms(Catalogue.load(), TODAY).price == PRICE


def test_a_price_by_the_hour_is_found_for_a_reinforcement_tune() -> None:
    azure = {"type": "openai", "base_url": "https://me.openai.azure.com/openai/v1"}
    asked = plan(
        provider=azure,
        base_model="o4-mini",
        method="rft",
        catalogue_model="azure/o4-mini-2025-04-16",
        grader={"type": "string_check"},
    )
    price = asked.terms(Catalogue.load(), TODAY).price
    assert (price.kind, price.usd, price.unit) == ("training_hours", Decimal(100), "hour")


@pytest.mark.parametrize(
    "given",
    [
        {"hours": (-5, -2)},
        {"hours": (0, 0)},
        {"hours": ("NaN", 2)},
        {"price": {**PRICE.model_dump(), "usd": "1e30"}},
        {"budgets": {**BUDGETS.model_dump(), "job_usd": "Infinity"}},
    ],
    ids=str,
)
def test_amounts_that_are_none_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plan(**given)


def test_a_plan_says_before_an_upload_that_the_machine_would_find_no_key() -> None:
    for given, lacks in (({}, True), ({"api_key_secret": "s"}, False), ({"base_url": "http://127.0.0.1:9"}, False)):
        asked = plan(provider={"type": "openai", **given})
        assert asked.lacks_secret() == lacks
        if lacks:
            with pytest.raises(InvalidInput, match="api_key_secret"):
                asked.provider.provider(lambda _: "sk-test")
    assert not plan().lacks_secret()


@pytest.mark.parametrize("secrets", [None, lambda _: "never asked"], ids=["here", "machine"])
def test_a_local_server_wants_neither_key_nor_credentials(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for given in (
        {"type": "openai", "base_url": "http://127.0.0.1:9"},
        {**BEDROCK, "role_arn": "arn:aws:iam::111122223333:role/r", "endpoint_url": "http://127.0.0.1:9"},
    ):
        provider = plan(provider=given).provider.provider(secrets)
        assert provider.local
        with pytest.raises(Throttled, match="could not be reached"):  # it was about to be asked
            provider.status("j")


def test_hours_are_the_fewest_and_the_most(spec: TuneSpec) -> None:
    by_hour = PRICE.model_copy(update={"kind": "training_hours", "unit": "hour"})
    with pytest.raises(InvalidInput, match="the fewest and the most"):
        estimate(spec, by_hour, hours=(Decimal(5), Decimal("0.01")))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"base_model": "amazon.nova-9-v1:0"}, UnknownPrice, r"give \[price\]"),
        ({"base_model": "meta.llama3-1-8b-instruct-v1:0"}, UnknownPrice, r"no price of training_tokens .* \[price\]"),
        ({"base_model": "anthropic.claude-3-haiku-20240307-v1:0"}, ModelGone, "no new tunes .* since 2026-09-10"),
        ({"base_model": "amazon.nova-lite-v1:0", "method": "rft"}, ModelGone, "cannot be tuned by rft"),
    ],
    ids=["no row", "no price", "ended", "method"],
)
def test_what_has_no_price_or_no_future_is_refused_with_advice(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan(**given).terms(Catalogue.load(), TODAY)


def test_the_base_model_s_end_comes_from_the_catalogue() -> None:
    openai = {"type": "openai"}
    asked = plan(provider=openai, base_model="gpt-4.1-mini-2025-04-14")
    assert asked.terms(Catalogue.load(), TODAY).shutdown == date(2027, 1, 14)


def test_a_price_of_requests_is_no_price_of_training(spec: TuneSpec) -> None:
    with pytest.raises(InvalidInput, match="price of input"):
        estimate(spec, PRICE.model_copy(update={"kind": "input"}))


def test_no_price_that_ships_is_given_by_nobody() -> None:
    prices = [price for row in Catalogue.load().rows.values() for price in row.prices]
    assert len(prices) > 20
    assert all(price.confidence != "given" for price in prices)


def test_vertex_counts_the_prompt_of_a_preference_pair_twice(tmp_path: Any) -> None:
    record = Record(
        id="r", domain="d", source="user", split="rl", group="g", prompt="a b c", answer="d", verifier="d@1",
        provenance=Provenance(generator="d@1"),
    )  # fmt: skip
    pair = Pair(record=record, preferred="d", rejected="e f")

    def count(text: str) -> tuple[int, int]:
        return len(text.split()), len(text.split())

    tokens = {
        provider: write([pair] * 10, tmp_path, provider=provider, method="dpo", counter=count).tokens.low
        for provider in ("openai", "vertex")
    }
    assert tokens == {"openai": 10 * (3 + 1 + 2), "vertex": 10 * (2 * 3 + 1 + 2)}


def rows(count: int, *, groups: int) -> list[Record]:
    about = {"domain": "records", "source": "user", "split": "rl", "verifier": "records@1"}
    made = {"provenance": Provenance(generator="user@1"), **about}
    return [Record(id=f"r{n}", group=f"g{n % groups}", prompt=f"{n}?", answer="1", **made) for n in range(count)]


VERTEX = {"type": "vertex", "project": "demo", "location": "us-central1", "folder_uri": "gs://bucket/tunes"}


def test_a_validation_file_has_groups_of_its_own_and_none_where_it_was_not_asked_for(tmp_path: Path) -> None:
    records = rows(200, groups=100)
    spec = plan(validation="split").spec(records, tmp_path)
    assert spec.validation is not None
    training, validation = (
        {row["messages"][0]["content"][0]["text"] for row in read_rows(tmp_path / file.filename)}
        for file in (spec.training, spec.validation)
    )
    assert (len(training) + len(validation), training & validation) == (200, set())
    group = {record.prompt: record.group for record in records}
    assert not {group[prompt] for prompt in training} & {group[prompt] for prompt in validation}
    alone = plan().spec(records, tmp_path)
    assert (alone.validation, alone.training.rows) == (None, 200)


def test_a_validation_split_keeps_the_provider_s_limits_or_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.VALIDATION_ROWS["vertex"] == 5_000
    monkeypatch.setitem(datasets.VALIDATION_ROWS, "vertex", 15)
    records = rows(400, groups=400)
    assert len(datasets.split_by_group(records)[1]) > 15
    spec = plan(provider=VERTEX, base_model="gemini-2.5-flash", validation="split").spec(records, tmp_path)
    assert spec.validation is not None
    assert (0 < spec.validation.rows <= 15, spec.training.rows + spec.validation.rows) == (True, 400)
    few = next(n for n in range(1, 99) if not datasets.split_by_group(rows(n, groups=n))[1])
    with pytest.raises(InvalidInput, match="no group falls to validation"):
        plan(validation="split").spec(rows(few, groups=few), tmp_path)
    uneven = [record.model_copy(update={"group": records[0].group}) for record in records]
    held = datasets.split_by_group(records)[1][0].group
    uneven = [record.model_copy(update={"group": held}) if n % 2 else record for n, record in enumerate(records)]
    with pytest.raises(InvalidInput, match="30% may"):
        plan(validation="split").spec(uneven, tmp_path)
    with pytest.raises(InvalidInput, match="its own"):
        plan(validation="split", method="distillation").spec(records, tmp_path)


def test_lines_with_two_completions_are_pairs_and_dpo_takes_nothing_else(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt": "a", "preferred": "yes", "rejected": "no"},
        {"prompt": "a", "preferred": "yes", "rejected": "never"},
        {"prompt": "b", "answer": "1", "split": "test_new"},
    ]
    data.write_text("\n".join(json.dumps(line) for line in lines))
    items = read_items(data, "records")
    pairs = [item for item in trained(items) if isinstance(item, Pair)]
    assert [(p.record.prompt, p.preferred, p.rejected) for p in pairs] == [("a", "yes", "no"), ("a", "yes", "never")]
    assert [record.prompt for record in heldout(items)] == ["b"]
    openai = {"provider": {"type": "openai"}, "base_model": "gpt-4.1-mini"}
    with pytest.raises(InvalidInput, match="takes pairs"):
        plan(**openai, method="sft").spec(pairs, tmp_path)
    with pytest.raises(InvalidInput, match="takes pairs"):
        plan(**openai, method="dpo").spec(rows(20, groups=20), tmp_path)
    many = [pair.model_copy(update={"rejected": str(n)}) for n, pair in enumerate(pairs * 10)]
    assert plan(**openai, method="dpo").spec(many, tmp_path).training.rows == 20


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "a", "preferred": "yes"}, "line 2: field 'rejected'"),
        ({"prompt": "a", "preferred": " ", "rejected": "no"}, "line 2: field 'preferred'"),
        ({"prompt": "a", "preferred": "y", "rejected": "n", "split": "test_new"}, "line 2: field 'split'"),
        ({"preferred": "y", "rejected": "n"}, "line 2: field 'prompt'"),
        ({"prompt": "a", "preferred": "y", "rejected": "n", "worse": "n"}, "line 2: field 'worse'"),
        ({"prompt": "first", "preferred": "yes", "rejected": "no"}, "line 2: field 'id'"),
    ],
)
def test_a_pair_that_is_malformed_is_named_by_its_line(line: dict[str, Any], words: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "first", "preferred": "yes", "rejected": "no"}) + "\n" + json.dumps(line))
    with pytest.raises(InvalidInput, match=words):
        read_items(data, "records")
