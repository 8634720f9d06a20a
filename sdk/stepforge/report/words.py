"""Numbers, times and digests as people read them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from stepforge.contracts.reports import Interval
from stepforge.report.html import Markup, el, join

SHARE_METRICS = ("accepted", "exact_match")


def is_share(metric: str) -> bool:
    return metric in SHARE_METRICS or metric.startswith("pass@")


def percent(value: float) -> str:
    """
    >>> percent(0.8312), percent(1.0), percent(0.0)
    ('83.1 %', '100 %', '0 %')
    """
    shown = f"{value * 100:.1f}"
    return f"{shown.removesuffix('.0') if value in (0, 1) else shown} %"


def mean_text(value: Interval, metric: str = "accepted") -> str:
    return percent(value.mean) if is_share(metric) else f"{value.mean:.3f}"


def interval_text(value: Interval, metric: str = "accepted") -> str:
    if is_share(metric):
        return f"{value.low * 100:.1f}–{value.high * 100:.1f}"
    return f"{value.low:.3f}–{value.high:.3f}"


def room_for_doubt(values: Iterable[Interval]) -> str | None:
    """What an interval without width means, where there is one among the shares.

    The rule of three: with no failure in n trials, the 95 % upper bound on its rate is about 3 / n.
    """
    agreed = [value.count for value in values if value.low == value.high and value.count]
    if not agreed:
        return None
    return (
        "An interval without width means that all records agree, not that there is no doubt: "
        f"{min(agreed)} of a kind leave room for about {percent(min(1.0, 3 / min(agreed)))} of the other."
    )


def count(value: int) -> str:
    return f"{value:,}"


def duration(seconds: float) -> str:
    """
    >>> duration(0.4), duration(12), duration(187), duration(7384)
    ('under 1 s', '12 s', '3 min 07 s', '2 h 03 min')
    """
    whole = round(seconds)
    if whole < 1:
        return "under 1 s" if seconds > 0 else "0 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def money(usd: float) -> str:
    """
    >>> money(0.004), money(0.5), money(1234.5)
    ('under $0.01', '$0.50', '$1,234.50')
    """
    return "under $0.01" if 0 < usd < 0.01 else f"${usd:,.2f}"


def price(usd_an_hour: float) -> str:
    """
    >>> price(1.758), price(0.5), price(0.0464)
    ('$1.758', '$0.50', '$0.0464')
    """
    return f"${usd_an_hour:,.2f}" if round(usd_an_hour, 2) == usd_an_hour else f"${usd_an_hour:,.4f}".rstrip("0")


def moment(value: datetime) -> Markup:
    zone = "UTC" if value.utcoffset() is None or not value.utcoffset() else value.strftime("%z")
    return el("time", f"{value:%Y-%m-%d %H:%M} {zone}", datetime=value.isoformat())


def plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short(digest: str) -> Markup:
    """The first twelve characters; the rest on hovering."""
    return el("code", digest[:12], title=digest)


def number(value: float) -> str:
    """A training metric: four significant digits.

    >>> number(0.0), number(0.01234567), number(123456.0), number(-0.00001)
    ('0', '0.01235', '123,456', '−1.00e-05')
    """
    if value != value:
        return "not a number"
    size = abs(value)
    sign = "−" if value < 0 else ""
    if size and (size < 1e-4 or size >= 1e9):
        return f"{sign}{size:.2e}"
    if size >= 1000:
        return f"{sign}{size:,.0f}"
    return f"{sign}{size:.4g}"


def note(*children: object) -> Markup:
    return el("p", *children, class_="note")


def missing(*children: object) -> Markup:
    """A part that is not there is said, never hidden."""
    return el("p", *children, class_="missing")


def listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def section(name: str, title: str, *children: object) -> Markup:
    return el("section", el("h2", title, id=name), join(*children), aria_labelledby=name)
