"""The catalogue's prices as tables of the providers' pages: `python -m stepforge.economics.price_table docs/*.md`.

A page says where: between `<!-- prices: openai azure -->` and `<!-- /prices -->`. A test holds the pages to it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from stepforge.economics.catalogue import Catalogue, ModelPrice

_MARKED = re.compile(r"(<!-- prices: ([a-z ]+) -->\n).*?(<!-- /prices -->)", re.DOTALL)


def price_table(catalogue: Catalogue, providers: tuple[str, ...]) -> str:
    """A line of Markdown for each price, in the catalogue's order."""
    head = ["| model | price of | USD | per | as of | confidence |", "| --- | --- | --- | --- | --- | --- |"]
    rows = [
        _line(row.id, price) for row in catalogue.rows.values() if row.provider in providers for price in row.prices
    ]
    return "\n".join(head + (rows or ["| none is known: give `[price]` | | | | | |"])) + "\n"


def with_tables(page: str, catalogue: Catalogue) -> str:
    """The page with its tables as the catalogue has them now."""
    return _MARKED.sub(lambda m: m[1] + price_table(catalogue, tuple(m[2].split())) + m[3], page)


def _line(model: str, price: ModelPrice) -> str:
    kind = price.kind.replace("_", " ") + (f", {price.method}" if price.method else "")
    return f"| `{model}` | {kind} | {price.usd:f} | {price.unit} | {price.as_of} | {price.confidence} |"


def main(paths: list[str]) -> None:
    catalogue = Catalogue.load()
    for path in map(Path, paths):
        path.write_text(with_tables(path.read_text(encoding="utf-8"), catalogue), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
