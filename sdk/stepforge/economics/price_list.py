"""Prices of base models from AWS's price list, as `Catalogue.refreshed` asks for them.

Not covered: other providers publish no price list with an interface; their rows are refreshed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

SERVICE = "AmazonBedrock"


def look_up(client: Any, *, service: str = SERVICE) -> Callable[[dict[str, str]], Decimal | None]:
    """A function from a product's attributes to its on-demand price in dollars, by a boto3 `pricing` client.

    None where no product, or more than one price, has these attributes: a guess between two is no price.
    https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html
    """

    def usd(match: dict[str, str]) -> Decimal | None:
        filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in sorted(match.items())]
        found: set[Decimal] = set()
        arguments: dict[str, Any] = {"ServiceCode": service, "Filters": filters}
        while True:
            answer = client.get_products(**arguments)
            found |= {price for product in answer["PriceList"] for price in _on_demand(product)}
            if not answer.get("NextToken"):
                return found.pop() if len(found) == 1 else None
            arguments["NextToken"] = answer["NextToken"]

    return usd


def _on_demand(product: str | dict[str, Any]) -> list[Decimal]:
    plain = json.loads(product) if isinstance(product, str) else product
    terms = plain.get("terms", {}).get("OnDemand", {})
    return [
        Decimal(dimension["pricePerUnit"]["USD"])
        for term in terms.values()
        for dimension in term["priceDimensions"].values()
        if "USD" in dimension["pricePerUnit"]
    ]
