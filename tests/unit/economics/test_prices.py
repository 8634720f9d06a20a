"""The price table: dated, sourced, refreshable, and never zero for what is not known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from importlib.resources import files
from typing import Any

import pytest

from stepforge.contracts.economics import Price, PriceTable
from stepforge.economics import prices
from stepforge.economics.prices import Prices
from stepforge.errors import InvalidInput, UnknownPrice


def row(usd: float, day: int, *, instance: str = "ml.g5.xlarge", **more: Any) -> Price:
    plain = {"region": "us-east-1", "source": "test", "confidence": "list", **more}
    return Price(instance_type=instance, usd_per_hour=usd, as_of=date(2026, 1, day), **plain)


def product(usage: str, usd: str, *, unit: str = "Hrs", sku: str = "S") -> str:
    """An element of PriceList, in the shape that the API's own examples have."""
    return json.dumps(
        {
            "product": {
                "productFamily": "ML Instance",
                "attributes": {"usagetype": usage, "regionCode": "us-east-1", "platoinstancetype": "Training"},
                "sku": sku,
            },
            "serviceCode": "AmazonSageMaker",
            "terms": {
                "OnDemand": {
                    f"{sku}.J": {
                        "priceDimensions": {
                            f"{sku}.J.6": {"unit": unit, "pricePerUnit": {"USD": usd}, "description": "an hour"}
                        },
                        "sku": sku,
                        "effectiveDate": "2026-08-01T00:00:00Z",
                    }
                }
            },
            "version": "20260901182201",
            "publicationDate": "2026-09-01T18:22:01Z",
        }
    )


class FakePricing:
    """GetProducts with these pages."""

    def __init__(self, *pages: list[str]) -> None:
        self.pages = pages
        self.asked: list[dict[str, Any]] = []

    def get_paginator(self, operation: str) -> FakePricing:
        assert operation == "get_products"
        return self

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(request)
        yield from ({"FormatVersion": "aws_v1", "PriceList": page} for page in self.pages)


def test_the_shipped_table_is_sound() -> None:
    table = PriceTable.model_validate_json(files("stepforge.economics").joinpath("prices.json").read_bytes())
    keys = [(r.region, r.instance_type) for r in table.rows]
    assert len(set(keys)) == len(keys) > 50
    assert all(r.source and r.confidence != "given" for r in table.rows)


def test_what_is_not_priced_is_an_error_with_advice() -> None:
    with pytest.raises(UnknownPrice, match=r"Did you mean 'ml\.g5\.xlarge'.*prices refresh.*prices set"):
        prices.shipped().get("ml.g5.xlage", "us-east-1")
    with pytest.raises(UnknownPrice, match=r"no type is priced there, only in \['us-east-1', 'us-west-2'\]"):
        prices.shipped().get("ml.g5.xlarge", "eu-north-1")


def test_a_day_has_the_price_that_was_in_force() -> None:
    table = Prices((row(1.0, 1), row(2.0, 10), row(3.0, 20)))
    found = [table.get("ml.g5.xlarge", "us-east-1", on=date(2026, 1, d)).usd_per_hour for d in (1, 9, 10, 25)]
    assert found == [1.0, 1.0, 2.0, 3.0]
    assert table.get("ml.g5.xlarge", "us-east-1").usd_per_hour == 3.0


def test_before_the_first_row_its_price_is_the_nearest_that_is_known() -> None:
    assert Prices((row(2.0, 10),)).get("ml.g5.xlarge", "us-east-1", on=date(2025, 1, 1)).usd_per_hour == 2.0


def test_a_row_is_stale_after_half_a_year() -> None:
    old = row(1.0, 1)
    assert not prices.stale(old, old.as_of + timedelta(days=prices.STALE_DAYS))
    assert prices.stale(old, old.as_of + timedelta(days=prices.STALE_DAYS + 1))


def test_the_price_list_is_read_page_by_page_and_only_for_training() -> None:
    fake = FakePricing(
        [product("USE1-Train:ml.g5.xlarge", "1.4080000000"), product("USE1-Host:ml.g5.xlarge", "1.5")],
        [product("Train:ml.m5.large", "0.115"), product("Train:ml.m5.large", "0.0"), product("Train:ml.x", "1")],
        [product("USE1-Train:ml.m4.xlarge", "0.1", unit="GB-Mo")],
    )  # fmt: skip
    found = {r.instance_type: r.usd_per_hour for r in prices.read_price_list(fake, "us-east-1")}
    assert found == {"ml.g5.xlarge": 1.408, "ml.m5.large": 0.115}
    assert {f["Field"]: f["Value"] for f in fake.asked[0]["Filters"]} == {
        "regionCode": "us-east-1",
        "platoinstancetype": "Training",
    }


def test_what_is_read_is_of_today_and_names_its_sku() -> None:
    (read,) = prices.read_price_list(FakePricing([product("Train:ml.m5.large", "0.115", sku="JM")]), "us-east-1")
    assert (read.as_of, read.confidence) == (prices.today(), "list")
    assert "JM" in read.source


def test_the_request_is_one_that_botocore_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from botocore.stub import Stubber

    pricing = boto3.Session("a", "b", region_name=prices.PRICE_LIST_REGION).client("pricing")
    with Stubber(pricing) as stub:
        stub.add_response("get_products", {"PriceList": [product("Train:ml.m5.large", "0.115")]})
        assert len(list(prices.read_price_list(pricing, "us-east-1"))) == 1


def test_a_region_without_training_prices_is_told() -> None:
    with pytest.raises(InvalidInput, match="no training prices for 'moon-1'"):
        list(prices.read_price_list(FakePricing([]), "moon-1"))


def test_keeping_the_same_price_again_keeps_its_first_and_last_day() -> None:
    table = Prices(()).plus(row(1.0, d) for d in (1, 2, 3, 4)).plus([row(2.0, 5)])
    assert [(r.as_of.day, r.usd_per_hour) for r in table.compact().rows] == [(1, 1.0), (4, 1.0), (5, 2.0)]


def test_a_price_that_cannot_be_one_says_how_to_write_it() -> None:
    with pytest.raises(InvalidInput, match=r"prices set ml\.g5\.xlarge 1\.408"):
        prices.given("g5.xlarge", "us-east-1", 1.0)
    with pytest.raises(InvalidInput, match="usd_per_hour"):
        prices.given("ml.g5.xlarge", "us-east-1", 0.0)


def test_a_given_price_goes_before_the_lists_until_it_is_replaced_or_withdrawn() -> None:
    contract = prices.given("ml.g5.xlarge", "us-east-1", 0.7, on=date(2026, 1, 5))
    table = Prices((row(1.0, 1),)).plus([contract]).plus([row(1.1, 5), row(1.2, 9)]).compact()

    def on(day: int | None, of: Prices = table) -> float:
        found = of.find("ml.g5.xlarge", "us-east-1", on=None if day is None else date(2026, 1, day))
        assert found is not None
        return found.usd_per_hour

    assert [on(day) for day in (1, 5, 9, None)] == [1.0, 0.7, 0.7, 0.7]
    replaced = table.plus([prices.given("ml.g5.xlarge", "us-east-1", 0.6, on=date(2026, 1, 7))])
    assert [on(day, replaced) for day in (5, 9, None)] == [0.7, 0.6, 0.6]
    withdrawn = replaced.without_given("ml.g5.xlarge", "us-east-1", on=date(2026, 1, 9)).compact()
    assert [on(day, withdrawn) for day in (5, 8, 9, None)] == [0.7, 0.6, 1.2, 1.2]
    with pytest.raises(UnknownPrice, match=r"no price was given for 'ml\.g5\.xlarge'"):
        withdrawn.without_given("ml.g5.xlarge", "us-east-1", on=date(2026, 1, 9))


def test_of_two_lists_of_one_day_the_surer_one_stays_in_whichever_order_they_come() -> None:
    quoted, listed = row(1.0, 1, confidence="quoted"), row(2.0, 1)
    for rows in ([quoted, listed], [listed, quoted]):
        assert Prices(()).plus(rows).get("ml.g5.xlarge", "us-east-1").usd_per_hour == 2.0
