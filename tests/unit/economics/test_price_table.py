"""The prices on the providers' pages are the catalogue's."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepforge.economics.catalogue import Catalogue
from stepforge.economics.price_table import price_table, with_tables

DOCS = Path(__file__).parents[3] / "docs"
PAGES = {
    "openai": ("openai", "azure"),
    "vertex": ("vertex",),
    "bedrock": ("bedrock",),
    "sagemaker": ("sagemaker",),
    "anthropic": ("anthropic",),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_prices_are_the_catalogue_s(page: str) -> None:
    text = (DOCS / f"finetune-{page}.md").read_text(encoding="utf-8")
    assert f"<!-- prices: {' '.join(PAGES[page])} -->" in text
    assert with_tables(text, Catalogue.load()) == text, "python -m stepforge.economics.price_table docs/finetune-*.md"


def test_every_price_has_a_line_with_unit_day_and_confidence() -> None:
    catalogue = Catalogue.load()
    table = price_table(catalogue, ("bedrock",))
    assert "| `bedrock/amazon.nova-micro-v1:0` | training tokens | 0.001 | 1K tokens | 2026-04-16 |" in table
    count = sum(len(row.prices) for row in catalogue.rows.values() if row.provider == "bedrock")
    assert table.count("\n") == count + 2
