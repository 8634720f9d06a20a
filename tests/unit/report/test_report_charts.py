"""Charts: a known point lands at a known pixel, and every chart says in words what it shows."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from stepforge.contracts.reports import Interval
from stepforge.report import charts
from stepforge.report.charts import BOTTOM, GAP, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Segment


def drawn(*segments: Segment, **more: object) -> ElementTree.Element:
    svg = charts.curves(segments, name="c", title="A <title>", description="what", unit="nats", **more)  # type: ignore[arg-type]
    return ElementTree.fromstring(svg)


def test_a_known_point_lands_at_the_known_pixel() -> None:
    svg = drawn(Segment("a", 0, 100, ((0.0, 0.0), (50.0, 0.5), (100.0, 1.0))))
    middle = (LEFT + WIDTH - RIGHT) / 2
    points = [tuple(map(float, pair.split(","))) for pair in svg.find(".//polyline").attrib["points"].split()]  # type: ignore[union-attr]
    assert points == [(LEFT, HEIGHT - BOTTOM), (middle, (HEIGHT - BOTTOM + TOP) / 2), (WIDTH - RIGHT, TOP)]


def test_two_stages_of_equal_length_share_the_width_and_the_vertical_scale() -> None:
    where = charts.frame([Segment("a", 0, 10, ((0.0, 0.0), (10.0, 1.0))), Segment("b", 1, 10, ((0.0, 4.0),))])
    half = (WIDTH - LEFT - RIGHT - GAP) / 2
    assert (where.x[0].start, where.x[0].end) == (LEFT, LEFT + half)
    assert (where.x[1].start, where.x[1].end) == (LEFT + half + GAP, WIDTH - RIGHT)
    assert (where.y(0.0), where.y(4.0)) == (HEIGHT - BOTTOM, TOP)


def test_a_short_stage_stays_wide_enough_to_be_read() -> None:
    where = charts.frame([Segment("a", 0, 7000, ((1.0, 1.0),)), Segment("b", 1, 10, ((1.0, 2.0),))])
    assert where.x[1].end - where.x[1].start >= 0.16 * (WIDTH - LEFT - RIGHT - GAP) - 1e-9


def test_bounds_are_reached_whatever_the_values() -> None:
    assert charts.frame([Segment("a", 0, 10, ((1.0, 0.4),))], bounds=(0.0, 1.0)).y_ticks[-1] == 1.0


def test_long_labels_move_the_panels_and_never_run_into_the_unit() -> None:
    where = charts.frame([Segment("a", 0, 10, ((1.0, -0.00031), (2.0, 0.00042)))])
    assert where.left > LEFT


def test_many_points_are_drawn_twice_raw_and_as_a_mean() -> None:
    points = tuple((float(x), math.sin(x)) for x in range(1, 101))
    classes = [line.attrib["class"] for line in drawn(Segment("a", 2, 100, points)).iter("polyline")]
    assert classes == ["line raw s2", "line s2"]


def test_few_points_are_marked_each() -> None:
    assert len(list(drawn(Segment("a", 0, 20, ((10.0, 1.0), (20.0, 2.0)))).iter("circle"))) == 2


def test_what_is_not_finite_is_not_drawn() -> None:
    svg = drawn(Segment("a", 0, 3, ((1.0, 1.0), (2.0, math.nan), (3.0, 2.0))))
    assert not re.search(r"nan|inf", ElementTree.tostring(svg, "unicode").lower())


def test_a_chart_without_a_point_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite point"):
        drawn(Segment("a", 0, 3, ((1.0, math.nan),)))


def test_title_and_description_name_the_chart() -> None:
    svg = drawn(Segment("a", 0, 3, ((1.0, 1.0),)))
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-labelledby"] == "c-title c-desc"
    assert [(node.attrib["id"], node.text) for node in svg[:2]] == [("c-title", "A <title>"), ("c-desc", "what")]


def test_an_interval_is_as_long_as_its_ends_say() -> None:
    value = Interval(mean=0.5, low=0.25, high=1.0, count=200)
    svg = ElementTree.fromstring(charts.intervals([("ours", value)], name="i", title="t"))
    x = charts.unit_scale()
    whisker = next(line for line in svg.iter("line") if line.attrib["class"] == "whisker ours")
    assert (float(whisker.attrib["x1"]), float(whisker.attrib["x2"])) == (x(0.25), x(1.0))
    assert float(svg.find("circle").attrib["cx"]) == x(0.5)  # type: ignore[union-attr]
    assert "ours: 0.500, interval 0.250 to 1.000" in svg[1].text  # type: ignore[operator]


@pytest.mark.parametrize(("share", "width"), [(0.0, 0), (0.25, 30), (1.0, 120), (1.7, 120)])
def test_a_bar_fills_its_share_of_the_track(share: float, width: float) -> None:
    track, fill = ElementTree.fromstring(charts.bar(share))
    assert (float(track.attrib["width"]), float(fill.attrib["width"])) == (120, width)
