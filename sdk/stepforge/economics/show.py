"""A verdict for people: a table, a tornado plot, a page of Markdown. Pure; everything comes from the document."""

from __future__ import annotations

import html
from collections.abc import Sequence

from stepforge.contracts.decisions import Decision, JudgedArm, Swing
from stepforge.economics._words import usd
from stepforge.report.scales import Scale, tick_label, ticks

COLUMNS = ("ARM", "NET VALUE", "80 %", "PAYS", "WEIGHED", "GAIN", "AT ONCE", "PAID BACK AFTER", "PILOT")
WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 760, 34, 190, 24, 66, 40
LOW, HIGH, INK, GRID = "#b45f06", "#2f6f9f", "#222222", "#dddddd"
"""Orange and blue are told apart by the colour-blind too; labels say which end is which all the same."""


def rows(verdict: Decision) -> list[tuple[str, ...]]:
    """Cells of the table, one row for each arm that may be launched."""
    return [_row(arm) for arm in verdict.arms if not arm.refusals]


def _row(arm: JudgedArm) -> tuple[str, ...]:
    pilot = "-"
    if arm.measured != "no":
        pilot = "made" if arm.measured == "pilot" else "measured"
    elif arm.pilot_usd is not None and arm.pilot_worth_usd is not None:
        pilot = f"worth {usd(arm.pilot_worth_usd)}, costs {usd(arm.pilot_usd)}"
    return (
        arm.name,
        usd(arm.net_usd.mean),
        f"{usd(arm.net_usd.low)} to {usd(arm.net_usd.high)}",
        f"{arm.pays_probability:.0%}",
        usd(arm.score_usd),
        f"{arm.gain.mean:+.3f}",
        usd(arm.fixed_usd),
        "never" if arm.break_even_requests is None else f"{arm.break_even_requests:,.0f} requests",
        pilot,
    )


def refused(verdict: Decision) -> list[str]:
    """A line for each arm that may not be launched, with every reason."""
    return [f"{arm.name}: {'; '.join(arm.refusals)}" for arm in verdict.arms if arm.refusals]


def verdict_text(verdict: Decision) -> str:
    """The whole verdict for a terminal."""
    lines = [verdict.sentence, ""]
    lines += _columns(COLUMNS, rows(verdict))
    if not_launched := refused(verdict):
        lines += ["", "refused:", *(f"  {line}" for line in not_launched)]
    if verdict.swings:
        lines += ["", f"what the value of {verdict.swings_of} hangs on (10 % and 90 % of each):"]
        lines += [f"  {line}" for line in _columns(("INPUT", "LOW", "HIGH"), [_swing(one) for one in verdict.swings])]
    if verdict.criteria:
        lines += ["", "criteria beside money:", *(f"  {line}" for line in verdict.criteria)]
    if verdict.warnings:
        lines += ["", "warnings:", *(f"  {line}" for line in verdict.warnings)]
    return "\n".join(lines)


def verdict_markdown(verdict: Decision, *, plot: str | None = None) -> str:
    """The verdict as a page; `plot` is the address of the tornado plot."""
    lines = [f"# {verdict.question}", "", verdict.sentence, "", _bar(COLUMNS), _bar(["---"] * len(COLUMNS))]
    lines += [_bar(row) for row in rows(verdict)]
    if not_launched := refused(verdict):
        lines += ["", "Refused:", "", *(f"- {line}" for line in not_launched)]
    if plot:
        lines += ["", f"![What the value of {verdict.swings_of} hangs on]({plot})"]
    if verdict.criteria:
        lines += ["", "Criteria beside money:", "", *(f"- {line}" for line in verdict.criteria)]
    if verdict.warnings:
        lines += ["", "Warnings:", "", *(f"- {line}" for line in verdict.warnings)]
    return "\n".join(lines) + "\n"


def tornado(verdict: Decision) -> str:
    """The tornado plot as one SVG. Raises ValueError for a verdict in which nothing hangs on anything."""
    if not verdict.swings:
        raise ValueError("the verdict has no swings: every arm was refused")
    chosen = next(arm for arm in verdict.arms if arm.name == verdict.swings_of)
    middle = chosen.net_usd.mean
    ends = [value for swing in verdict.swings for value in (swing.low_usd, swing.high_usd)]
    marks = ticks(min(0.0, middle, *ends), max(0.0, middle, *ends), most=6)
    x = Scale(marks[0], marks[-1], LEFT, WIDTH - RIGHT)
    height = TOP + ROW * len(verdict.swings) + BOTTOM
    bottom = height - BOTTOM
    step = marks[1] - marks[0]
    parts = [
        _text(12, 24, f"{chosen.name}: what its net value hangs on", size=16, anchor="start"),
        _text(12, 44, "each input at its 10 % and 90 %, the others at their means; US dollars", anchor="start"),
        *_legend(),
    ]
    for mark in marks:
        zero = mark == 0
        parts.append(_line(x(mark), TOP, x(mark), bottom, INK if zero else GRID))
        parts.append(_text(x(mark), bottom + 18, tick_label(mark, step)))
    for number, swing in enumerate(verdict.swings):
        parts += _row_of(swing, TOP + ROW * number, x, middle)
    parts.append(_line(x(middle), TOP, x(middle), bottom, INK, dash="4 3"))
    parts.append(_text(x(middle), bottom + 33, f"expected {usd(middle)}"))
    said = "; ".join(f"{s.input}: {usd(s.low_usd)} to {usd(s.high_usd)}" for s in verdict.swings)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{_escape(chosen.name)}: sensitivity</title>'
        f'<desc>{_escape(said)}</desc><rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _legend() -> list[str]:
    right = WIDTH - RIGHT
    return [
        f'<rect x="{right - 150}" y="34" width="12" height="12" fill="{LOW}"/>',
        _text(right - 133, 44, "low end", anchor="start"),
        f'<rect x="{right - 72}" y="34" width="12" height="12" fill="{HIGH}"/>',
        _text(right - 55, 44, "high end", anchor="start"),
    ]


def _row_of(swing: Swing, top: float, x: Scale, middle: float) -> list[str]:
    parts = [_text(LEFT - 12, top + 21, swing.input, anchor="end")]
    for value, colour in ((swing.low_usd, LOW), (swing.high_usd, HIGH)):
        start, end = sorted((x(value), x(middle)))
        parts.append(
            f'<rect x="{start:.1f}" y="{top + 5:.1f}" width="{end - start:.1f}" height="{ROW - 14}" fill="{colour}"/>'
        )
    left, right = (swing.low_usd, swing.low_label), (swing.high_usd, swing.high_label)
    if left[0] > right[0]:
        left, right = right, left
    parts.append(_label(x(left[0]), top + 19, left[1], before=True))
    parts.append(_label(x(right[0]), top + 19, right[1], before=False))
    return parts


def _label(x: float, y: float, text: str, *, before: bool) -> str:
    """Outside the bar where there is room, else inside, in white."""
    width = 6.2 * len(text) + 8
    if before:
        return _text(x - 5, y, text, anchor="end") if x - width > LEFT else _text(x + 5, y, text, "start", "#ffffff")
    return _text(x + 5, y, text, anchor="start") if x + width < WIDTH else _text(x - 5, y, text, "end", "#ffffff")


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = INK, size: int = 12) -> str:
    # A halo keeps a label readable where it crosses a line.
    halo = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if colour == INK else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{halo}>'
        f"{_escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _swing(swing: Swing) -> tuple[str, str, str]:
    return (
        swing.input,
        f"{usd(swing.low_usd)} at {swing.low_label}",
        f"{usd(swing.high_usd)} at {swing.high_label}",
    )


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _columns(names: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(names), *(list(row) for row in table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]
