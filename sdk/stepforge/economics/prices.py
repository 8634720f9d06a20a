"""The dated price table of SageMaker training instances: what ships, and what an environment holds beside it.

An instance without a row has no price, and that is an error with advice: an unknown price is never zero. A refresh
adds rows and keeps the old ones, so what was paid last year stays priced as it was then.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from botocore.exceptions import ClientError as AwsError
from pydantic import ValidationError

from stepforge.artifacts import write_json
from stepforge.contracts.base import first_problem
from stepforge.contracts.economics import Price, PriceTable
from stepforge.contracts.names import Keys
from stepforge.errors import InvalidInput, UnknownPrice

STALE_DAYS = 180
PRICE_LIST_REGION = "us-east-1"
"""The Price List API answers in few regions, and for all of them:
https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html"""
_TRAINING_USAGE = re.compile(r"(?:^|-)Train:(ml\.[a-z0-9-]+\.[a-z0-9-]+)$")
"""Usage types of training on demand: `USE1-Train:ml.g5.xlarge`."""


def today() -> date:
    return datetime.now(UTC).date()


@dataclass(frozen=True)
class Prices:
    """Prices by instance type, region and day."""

    rows: tuple[Price, ...]

    def find(self, instance_type: str, region: str, *, on: date | None = None) -> Price | None:
        """The newest row that is in force `on` a day, else the oldest after it; None where there is no row.

        A price that was given goes before every list's, older or newer, from its day until it is replaced or withdrawn.
        """
        rows = sorted(
            (row for row in self.rows if (row.instance_type, row.region) == (instance_type, region)),
            key=lambda row: row.as_of,
        )
        earlier = [row for row in rows if on is None or row.as_of <= on]
        # A row that took a given one's place ends it, and so does its withdrawal, as of its own day.
        contract = [row for row in earlier if row.confidence == "given"][-1:]
        if contract and (contract[0].until is None or (on is not None and on < contract[0].until)):
            return contract[0]
        listed = [row for row in earlier if row.confidence != "given"]
        later = (row for row in rows if on is not None and row.as_of > on)
        return listed[-1] if listed else next(later, None)

    def get(self, instance_type: str, region: str, *, on: date | None = None) -> Price:
        """As `find`. Raises UnknownPrice with what to do."""
        row = self.find(instance_type, region, on=on)
        if row is None:
            raise UnknownPrice(self._missing(instance_type, region))
        return row

    def _missing(self, instance_type: str, region: str) -> str:
        here = sorted({row.instance_type for row in self.rows if row.region == region})
        near = difflib.get_close_matches(instance_type, here, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = f"{len(here)} types are priced there" if here else f"no type is priced there, only in {self.regions}"
        return (
            f"{instance_type!r} has no training price in {region!r} ({known}).{hint} Read it from AWS with `stepforge "
            f"prices refresh`, or give it: `stepforge prices set {instance_type} USD_PER_HOUR`"
        )

    @property
    def regions(self) -> list[str]:
        return sorted({row.region for row in self.rows})

    @property
    def listed(self) -> Prices:
        """Without what somebody gave."""
        return Prices(tuple(row for row in self.rows if row.confidence != "given"))

    def plus(self, rows: Iterable[Price]) -> Prices:
        """With more rows. Of two lists' for the same instance, region and day the one of more confidence stays, of two
        that agree in it the later one; what was given stands beside them."""
        merged: dict[tuple[Any, ...], Price] = {}
        for row in (*self.rows, *rows):
            key = _order(row)
            if key not in merged or _TRUST.index(row.confidence) >= _TRUST.index(merged[key].confidence):
                merged[key] = row
        return Prices(tuple(merged[key] for key in sorted(merged)))

    def without_given(self, instance_type: str, region: str, *, on: date) -> Prices:
        """With the given price of an instance withdrawn from a day on. Raises UnknownPrice where none is in force."""
        row = self.find(instance_type, region)
        if row is None or row.confidence != "given":
            raise UnknownPrice(
                f"no price was given for {instance_type!r} in {region!r}: `stepforge prices list` shows all"
            )
        return self.plus([row.model_copy(update={"until": max(on, row.as_of)})])

    def compact(self) -> Prices:
        """Without rows between two that agree with them: the first says since when a price holds, the last until."""
        kept: list[Price] = []
        for row in sorted(self.rows, key=_order):
            same = [k for k in kept[-2:] if _what(k) == _what(row)]
            if len(same) == 2:
                kept.pop()
            kept.append(row)
        return Prices(tuple(kept))


def _order(row: Price) -> tuple[str, str, bool, date]:
    return row.region, row.instance_type, row.confidence == "given", row.as_of


def _what(row: Price) -> tuple[Any, ...]:
    return row.region, row.instance_type, row.confidence == "given", row.usd_per_hour, row.until


_TRUST = ("undated", "quoted", "list", "given")
"""Of two rows of one day the later one here counts."""


def stale(row: Price, on: date | None = None) -> bool:
    """Whether a row is so old that it should be read anew."""
    return ((on or today()) - row.as_of).days > STALE_DAYS


@cache
def shipped() -> Prices:
    """The table that comes with the package."""
    return Prices(PriceTable.model_validate_json(files(__package__).joinpath("prices.json").read_bytes()).rows)


def load(s3: Any, *, bucket: str) -> Prices:
    """What ships, with what the environment holds. Raises InvalidInput where that is malformed."""
    return shipped().plus(held(s3, bucket=bucket).rows)


def held(s3: Any, *, bucket: str) -> Prices:
    """The rows of the environment alone."""
    try:
        body = s3.get_object(Bucket=bucket, Key=Keys.prices())["Body"].read()
    except AwsError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return Prices(())
        raise
    try:
        return Prices(PriceTable.model_validate_json(body).rows)
    except ValidationError as error:
        raise InvalidInput(
            f"s3://{bucket}/{Keys.prices()} is no price table: {first_problem(error)}. Delete it, and run `stepforge "
            "prices refresh`"
        ) from error


def keep(s3: Any, rows: Iterable[Price], *, bucket: str, key_arn: str) -> Prices:
    """Add rows to the environment's, for everyone who plans in it. Returns all of its own rows."""
    return _put(s3, held(s3, bucket=bucket).plus(rows).compact(), bucket=bucket, key_arn=key_arn)


def withdraw(s3: Any, instance_type: str, region: str, *, bucket: str, key_arn: str) -> Prices:
    """End the price that was given for an instance, from today on: then the lists' holds again.

    What ran while it held stays priced by it. Raises UnknownPrice where none is in force.
    """
    rows = held(s3, bucket=bucket).without_given(instance_type, region, on=today())
    return _put(s3, rows, bucket=bucket, key_arn=key_arn)


def _put(s3: Any, merged: Prices, *, bucket: str, key_arn: str) -> Prices:
    write_json(s3, PriceTable(rows=merged.rows), bucket=bucket, key=Keys.prices(), key_arn=key_arn)
    return merged


def given(instance_type: str, region: str, usd_per_hour: float, *, on: date | None = None) -> Price:
    """A row that somebody types. Raises InvalidInput for what cannot be one."""
    try:
        return Price(
            instance_type=instance_type,
            region=region,
            usd_per_hour=usd_per_hour,
            as_of=on or today(),
            source="stepforge prices set",
            confidence="given",
        )
    except ValidationError as error:
        raise InvalidInput(
            f"{first_problem(error)} (given {instance_type!r} {usd_per_hour!r} in {region!r}): write it as "
            "`stepforge prices set ml.g5.xlarge 1.408 --region us-east-1`"
        ) from error


def read_price_list(pricing: Any, region: str) -> Iterator[Price]:
    """Training prices of a region from AWS's price list. `pricing` is a client in PRICE_LIST_REGION.

    https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html; each element of
    PriceList is a product with its terms as JSON text. Raises InvalidInput where the region has no training price.
    """
    pages = pricing.get_paginator("get_products").paginate(
        ServiceCode="AmazonSageMaker",
        FormatVersion="aws_v1",
        Filters=[
            {"Type": "TERM_MATCH", "Field": "regionCode", "Value": region},
            {"Type": "TERM_MATCH", "Field": "platoinstancetype", "Value": "Training"},
        ],
    )
    found = False
    for page in pages:
        for text in page["PriceList"]:
            if (row := _row(json.loads(text), region)) is not None:
                found = True
                yield row
    if not found:
        raise InvalidInput(
            f"AWS's price list has no training prices for {region!r}: is it a region with SageMaker, such as us-east-1?"
        )


def _row(product: dict[str, Any], region: str) -> Price | None:
    """The on-demand price of a product today; None for what is no hour of training (free tiers, storage)."""
    usage = _TRAINING_USAGE.search(product["product"]["attributes"].get("usagetype", ""))
    if usage is None:
        return None
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"].get("USD", 0))
            if dimension["unit"] in ("Hrs", "Hours") and usd > 0:
                return Price(
                    instance_type=usage[1],
                    region=region,
                    usd_per_hour=usd,
                    as_of=today(),
                    source=f"AWS Price List API, SKU {product['product']['sku']}, {product['publicationDate']}",
                    confidence="list",
                )
    return None
