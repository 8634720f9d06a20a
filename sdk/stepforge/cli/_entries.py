"""How commands tell of a launch: what it may cost, and whether it is a local fake."""

from __future__ import annotations

from typing import Any

FAKE = "  [local fake: nothing is trained or charged]"


def fake_in(environment: str) -> str:
    """What is said of everything in this environment: `local` knows no provider but local servers."""
    return FAKE if environment == "local" else ""


def estimated(entry: Any) -> str:
    """What an entry of the ledger may cost, from the least to the most, and what is expected where that is known.

    >>> from types import SimpleNamespace as Of
    >>> estimated(Of(low_usd=2.5, expected_usd=2.75, estimate_usd=3)), estimated(Of(low_usd=3, estimate_usd=3))
    ('2.50 to 3.00 USD, 2.75 expected', '3.00 USD')
    >>> estimated(Of(low_usd=2, expected_usd=None, estimate_usd=3)), estimated(Of(low_usd=None, estimate_usd=3))
    ('2.00 to 3.00 USD, which of it is not known', 'up to 3.00 USD')
    """
    if entry.low_usd is None:  # of before it was kept
        return f"up to {entry.estimate_usd:,.2f} USD"
    if entry.low_usd == entry.estimate_usd:
        return f"{entry.estimate_usd:,.2f} USD"
    middle = "which of it is not known" if entry.expected_usd is None else f"{entry.expected_usd:,.2f} expected"
    return f"{entry.low_usd:,.2f} to {entry.estimate_usd:,.2f} USD, {middle}"


def plain_entry(entry: Any) -> dict[str, Any]:
    """An entry as JSON has it."""
    return {**entry.model_dump(mode="json"), "local_fake": entry.local_fake}
