"""SVG charts: learning curves with the stages side by side, interval plots, bars. Pure; numbers in, markup out.

Colours are classes (`s0`, `s1`, ...) that the style sheet gives values for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stepforge.contracts.reports import Interval
from stepforge.report.html import Markup, el
from stepforge.report.scales import Point, Scale, finite, moving_mean, shares, thin, tick_label, ticks

WIDTH, HEIGHT = 480, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 26, 34
GAP = 10
"""Between two stages' panels."""
SMOOTH_FROM = 30
"""With fewer points than this a line needs no mean beside it."""
LEAST_PANEL = 0.16


@dataclass(frozen=True)
class Segment:
    """One stage's part of a chart."""

    label: str
    colour: int
    """Index of the colour class."""
    steps: int
    """Steps of the stage: the length of its axis."""
    points: tuple[Point, ...]
    """(step, value); values that are not finite are left out."""


@dataclass(frozen=True)
class Frame:
    """Where things are in a curve chart: one vertical scale, a horizontal one for each segment."""

    y: Scale
    y_ticks: tuple[float, ...]
    x: tuple[Scale, ...]

    @property
    def left(self) -> float:
        return self.x[0].start


def frame(segments: Sequence[Segment], *, bounds: tuple[float | None, float | None] = (None, None)) -> Frame:
    """Scales for these segments. `bounds` are values that the vertical axis has to reach, such as 0 and 1."""
    values = [y for segment in segments for _, y in finite(segment.points)]
    values += [bound for bound in bounds if bound is not None]
    y_ticks = ticks(min(values), max(values), most=5)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    step = y_ticks[1] - y_ticks[0]
    # Room for the widest label beside the unit, which is written upwards at the edge.
    left = max(float(LEFT), 24 + 6.4 * max(len(tick_label(value, step)) for value in y_ticks))
    room = WIDTH - left - RIGHT - GAP * (len(segments) - 1)
    x, start = [], left
    for segment, share in zip(segments, shares([s.steps for s in segments], least=LEAST_PANEL), strict=True):
        end = start + share * room
        x.append(Scale(0, max(1, segment.steps), start, end))
        start = end + GAP
    return Frame(y=y, y_ticks=y_ticks, x=tuple(x))


def smoothing(count: int) -> int:
    """Steps that the bold line is the mean of; 1 where the line is drawn as it is."""
    return 1 if count < SMOOTH_FROM else max(5, count // 20 | 1)


def curves(
    segments: Sequence[Segment],
    *,
    name: str,
    title: str,
    description: str,
    unit: str,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Markup:
    """A learning curve: stages side by side, each on its own step axis, over one vertical axis.

    `name` makes the ids of title and description; it has to be unique in the page. Raises ValueError without a point.
    """
    segments = [segment for segment in segments if finite(segment.points)]
    if not segments:
        raise ValueError(f"chart {name!r} has no finite point: say so in words instead")
    where = frame(segments, bounds=bounds)
    parts = [_panel(segment, x, where) for segment, x in zip(segments, where.x, strict=True)]
    step = where.y_ticks[1] - where.y_ticks[0]
    labels = [
        el(
            "text",
            tick_label(value, step),
            x=_px(where.left - 6),
            y=_px(where.y(value) + 4),
            text_anchor="end",
            class_="tick",
        )
        for value in where.y_ticks
    ]
    middle = (where.y.start + where.y.end) / 2
    axis = el(
        "text", unit, x=0, y=0, text_anchor="middle", class_="unit", transform=f"translate(11 {middle:g}) rotate(-90)"
    )
    below = el(
        "text", "step", x=_px((where.left + WIDTH - RIGHT) / 2), y=HEIGHT - 4, text_anchor="middle", class_="unit"
    )
    return _svg(parts, labels, axis, below, name=name, title=title, description=description, size=(WIDTH, HEIGHT))


def _panel(segment: Segment, x: Scale, where: Frame) -> Markup:
    bottom, top = where.y.start, where.y.end
    ground = el("rect", x=_px(x.start), y=top, width=_px(x.end - x.start), height=bottom - top, class_="panel")
    grid = [
        el("line", x1=_px(x.start), x2=_px(x.end), y1=_px(where.y(v)), y2=_px(where.y(v)), class_="grid")
        for v in where.y_ticks
    ]
    label = el("text", segment.label, x=_px((x.start + x.end) / 2), y=TOP - 9, text_anchor="middle", class_="stage")
    points = finite(segment.points)
    window = smoothing(len(points))
    lines = [_line(thin(moving_mean(points, window)), x, where.y, f"line s{segment.colour}")]
    if window > 1:
        lines.insert(0, _line(thin(points), x, where.y, f"line raw s{segment.colour}"))
    if len(points) < SMOOTH_FROM:
        lines += [
            el("circle", cx=_px(x(step)), cy=_px(where.y(value)), r=2.4, class_=f"dot s{segment.colour}")
            for step, value in points
        ]
    return el("g", ground, grid, label, _x_ticks(x, bottom), lines)


def _x_ticks(x: Scale, bottom: float) -> list[Markup]:
    """Round steps below a panel; a narrow one has room for its two ends alone."""
    width = x.end - x.start
    values = (0.0, x.high) if width < 110 else tuple(v for v in ticks(0, x.high, most=4) if v <= x.high)
    step = values[1] - values[0]
    anchors = {0: "start", len(values) - 1: "end" if x(values[-1]) > x.end - 12 else "middle"}
    return [
        el(
            "text",
            tick_label(value, step if width >= 110 else 1),
            x=_px(x(value)),
            y=bottom + 13,
            text_anchor=anchors.get(i, "middle"),
            class_="tick",
        )
        for i, value in enumerate(values)
    ]


def _line(points: Sequence[Point], x: Scale, y: Scale, class_: str) -> Markup:
    return el("polyline", points=" ".join(f"{_px(x(a))},{_px(y(b))}" for a, b in points), class_=class_)


# ── Held-out scores ──────────────────────────────────────────────────────────────────────────────

PLOT_WIDTH, PLOT_MARGIN, ROW_HEIGHT = 260, 10, 14
UNIT_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def unit_scale() -> Scale:
    """0..1 over the width of an interval plot."""
    return Scale(0, 1, PLOT_MARGIN, PLOT_WIDTH - PLOT_MARGIN)


Who = Literal["ours", "champion", "base"]


def intervals(values: Sequence[tuple[Who, Interval]], *, name: str, title: str) -> Markup:
    """Means as marks on their intervals, one below the other, on 0..1."""
    x = unit_scale()
    height = ROW_HEIGHT * len(values) + 6
    grid = [el("line", x1=_px(x(t)), x2=_px(x(t)), y1=0, y2=height, class_="grid") for t in UNIT_TICKS]
    marks = []
    for row, (who, value) in enumerate(values):
        y = 3 + ROW_HEIGHT * (row + 0.5)
        low, mean, high = (_px(x(min(1.0, max(0.0, v)))) for v in (value.low, value.mean, value.high))
        marks.append(el("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker {who}"))
        marks += [el("line", x1=end, x2=end, y1=y - 3, y2=y + 3, class_=f"whisker {who}") for end in (low, high)]
        marks.append(_mark(who, mean, y))
    text = "; ".join(f"{label}: {v.mean:.3f}, interval {v.low:.3f} to {v.high:.3f}" for label, v in values)
    return _svg(grid, marks, name=name, title=title, description=text, size=(PLOT_WIDTH, height))


def _mark(who: Who, x: float, y: float) -> Markup:
    """Told apart by shape and not by colour alone: full circle, open circle, open diamond."""
    if who == "base":
        return el("path", d=f"M{x:g} {y - 5:g}l5 5l-5 5l-5-5z", class_="mean base")
    return el("circle", cx=x, cy=y, r=4, class_=f"mean {who}")


def mark_key(who: Who) -> Markup:
    """The mark alone, for a legend."""
    return el("svg", _mark(who, 7, 7), viewBox="0 0 14 14", class_="key", aria_hidden="true")


def unit_axis() -> Markup:
    """The axis that belongs above a column of interval plots."""
    x = unit_scale()
    labels = [
        el("text", f"{tick:.0%}", x=_px(x(tick)), y=11, text_anchor="middle", class_="tick") for tick in UNIT_TICKS
    ]
    return el("svg", labels, viewBox=f"0 0 {PLOT_WIDTH} 14", class_="plot", aria_hidden="true")


BAR_WIDTH, BAR_HEIGHT = 120, 8


def bar(share: float) -> Markup:
    """A bar as long as `share` of its track. The number stands beside it, so that readers of the page skip it."""
    filled = _px(min(1.0, max(0.0, share)) * BAR_WIDTH)
    return el(
        "svg",
        el("rect", x=0, y=0, width=BAR_WIDTH, height=BAR_HEIGHT, rx=2, class_="track"),
        el("rect", x=0, y=0, width=filled, height=BAR_HEIGHT, rx=2, class_="fill"),
        viewBox=f"0 0 {BAR_WIDTH} {BAR_HEIGHT}",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def _svg(*children: object, name: str, title: str, description: str, size: tuple[float, float]) -> Markup:
    return el(
        "svg",
        el("title", title, id=f"{name}-title"),
        el("desc", description, id=f"{name}-desc"),
        *children,
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="plot",
    )


def _px(value: float) -> float | int:
    """A tenth of a pixel is enough, and short."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded
