"""A face in SVG, drawn from blendshape weights: a list of paths whose outlines and opacities follow the weights.

Whatever the weights, the list has the same paths in the same order and with the same commands: so any two faces can
be blended into each other by animating `d` and `opacity`. All coordinates are pixels in a 320 x 380 view box. The face
looks at the viewer: its right side is on the left. How far each shape moves is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepforge.contracts.domains.facial import FacialArtifact
from stepforge_jobs.domains.facial.tables import ACTION_UNITS, RIG_TABLES

WIDTH, HEIGHT = 320, 380
CENTRE = 160.0
SKIN, SHADE, LINE, HAIR, LIP, IRIS = "#f2c9a5", "#dfa57c", "#7a4a32", "#3b2a22", "#b9554f", "#4b6f8f"
Weights = Mapping[tuple[str, str], float]
"""(action unit, 'left' or 'right') to the weight of its blendshape."""


@dataclass(frozen=True)
class Stroke:
    """One path. `clip` names an eye whose outline hides what lies outside of it."""

    d: str
    fill: str = "none"
    stroke: str = "none"
    width: float = 0.0
    opacity: float = 1.0
    clip: str = ""
    clips: str = ""
    """The eye whose outline this is."""


def weights_of(artifact: FacialArtifact) -> dict[tuple[str, str], float]:
    """Peak weights by action unit and side, read from the blendshapes of whichever rig they belong to."""
    found: dict[tuple[str, str], float] = {}
    for table in RIG_TABLES.values():
        units = {unit: table.blendshapes(word) for unit, word in table.shapes.items()}
        units |= {"AU45": table.blendshapes(table.blink)}
        for unit, names in units.items():
            for name in names:
                weight = artifact.weight(name)
                sides = [s for s, end in zip(("left", "right"), table.sides, strict=True) if name.endswith(end)] or [
                    "left",
                    "right",
                ]
                for side in sides:
                    code = "AU" + unit[1:] if unit.startswith("R") else unit
                    found[code, side] = max(found.get((code, side), 0.0), min(1.0, max(0.0, weight)))
    return found


NEUTRAL: Weights = {(unit, side): 0.0 for unit in ACTION_UNITS for side in ("left", "right")}


def draw(weights: Weights) -> list[Stroke]:
    """The whole face, back to front."""
    jaw = _both(weights, "AU26")
    strokes = _head(jaw)
    for side in ("right", "left"):
        strokes += _eye(weights, side)
    for side in ("right", "left"):
        strokes += _brow(weights, side)
    return strokes + _forehead(weights) + _nose(weights) + _cheeks(weights) + _mouth(weights) + _chin(weights)


def _both(weights: Weights, unit: str) -> float:
    return max(weights.get((unit, "left"), 0.0), weights.get((unit, "right"), 0.0))


def _path(template: str, *values: float) -> str:
    """Fill `#` by the values, one by one."""
    parts = template.split("#")
    if len(parts) != len(values) + 1:
        raise ValueError(f"{template!r} needs {len(parts) - 1} values, given {len(values)}")
    return "".join(part + f"{value:.1f}" for part, value in zip(parts, values, strict=False)) + parts[-1]


def _head(jaw: float) -> list[Stroke]:
    chin = 334 + 24 * jaw
    low = 268 + 12 * jaw
    outline = _path(
        "M62,170 C58,70 262,70 258,170 C259,# 246,# 212,# C190,# 130,# 108,# C74,# 61,# 62,170 Z",
        *(low - 40, low + 12, chin - 18, chin + 4, chin + 4, chin - 18, low + 12, low - 40),
    )
    neck = "M122,300 L122,380 L198,380 L198,300 Z"
    shirt = "M30,380 C40,352 92,348 122,344 C140,366 180,366 198,344 C228,348 280,352 290,380 Z"
    ears = "M60,176 C40,164 40,216 64,214 Z M260,176 C280,164 280,216 256,214 Z"
    hair = "M54,198 C26,20 294,20 266,198 C266,160 258,134 236,118 C200,104 130,116 96,106 C72,120 60,150 54,198 Z"
    return [
        Stroke(neck, SHADE),
        Stroke(shirt, "#5d7f8c"),
        Stroke("M54,198 C26,20 294,20 266,198 Z", HAIR),
        Stroke(ears, SHADE),
        Stroke(outline, SKIN, SHADE, 1.5),
        Stroke(hair, HAIR),
    ]


def _eye(weights: Weights, side: str) -> list[Stroke]:
    w = lambda unit: weights.get((unit, side), 0.0)  # noqa: E731 - a name for a lookup, used eleven times
    out = 1 if side == "left" else -1
    x, y = CENTRE + 44 * out, 176.0
    inner, outer = x - 24 * out, x + 25 * out
    tilt = 3 * w("AU4") - 4 * w("AU1") * (1 - w("AU2"))
    open_top = max(0.0, 14 + 9 * w("AU5") - 4 * w("AU7") - 3 * w("AU6") - 15 * w("AU45") - 3 * w("AU9"))
    open_low = max(1.0, 9 + 1.5 * w("AU5") - 6 * w("AU7") - 7 * w("AU6") - 3 * w("AU9"))
    eye = _path(
        "M#,# C#,# #,# #,# C#,# #,# #,# Z",
        *(inner, y + 3, inner + 8 * out, y - open_top * 1.25 + tilt, outer - 10 * out, y - open_top * 1.25, outer, y),
        *(outer - 10 * out, y + open_low * 1.25, inner + 10 * out, y + open_low * 1.25, inner, y + 3),
    )
    lid = _path(
        "M#,# C#,# #,# #,#",
        *(
            inner,
            y + 3,
            inner + 8 * out,
            y - open_top * 1.25 + tilt,
            outer - 10 * out,
            y - open_top * 1.25,
            outer + 2 * out,
            y,
        ),
    )
    low_lid = _path(
        "M#,# C#,# #,# #,#",
        *(
            inner + 4 * out,
            y + 5,
            inner + 12 * out,
            y + open_low * 1.25,
            outer - 10 * out,
            y + open_low * 1.25,
            outer,
            y + 1,
        ),
    )
    fold = y - open_top - 6 + 4 * w("AU4")
    crease = _path("M#,# Q#,# #,#", inner + 4 * out, fold + 6, x, fold - 3, outer, fold + 6)
    pouch = y + open_low + 8 - 3 * w("AU6")
    bag = _path("M#,# Q#,# #,#", inner + 6 * out, pouch, x, pouch + 6, outer - 2 * out, pouch - 2)
    feet = "".join(
        _path("M#,# L#,# ", outer + 6 * out, y + dy, outer + 19 * out, y + dy * 2.2 - 1) for dy in (-5.0, 1.0, 7.0)
    )
    return [
        Stroke(eye, "#ffffff", clips=side),
        Stroke(_circle(x - 0.5 * out, y - 1, 11.5), IRIS, clip=side),
        Stroke(_circle(x - 0.5 * out, y - 1, 5.2), "#1d1d1f", clip=side),
        Stroke(_circle(x + 3.5, y - 5, 2.6), "#ffffff", clip=side),
        Stroke(lid, stroke=HAIR, width=3.2),
        Stroke(low_lid, stroke=LINE, width=1.2, opacity=0.7),
        Stroke(crease, stroke=LINE, width=1.2, opacity=0.45),
        Stroke(bag, stroke=LINE, width=1.8, opacity=_seen(max(w("AU6"), w("AU7"), 0.7 * w("AU9")))),
        Stroke(feet, stroke=LINE, width=1.5, opacity=_seen(w("AU6"))),
    ]


def _circle(x: float, y: float, r: float) -> str:
    return _path("M#,# A#,# 0 1 0 #,# A#,# 0 1 0 #,# Z", x - r, y, r, r, x + r, y, r, r, x - r, y)


def _seen(weight: float) -> float:
    """Opacity of a wrinkle."""
    return round(min(0.85, 1.1 * weight), 3)


def _brow(weights: Weights, side: str) -> list[Stroke]:
    inner_up, outer_up, down = (weights.get((unit, side), 0.0) for unit in ("AU1", "AU2", "AU4"))
    sneer = weights.get(("AU9", side), 0.0)
    out = 1 if side == "left" else -1
    level = 144.0
    inner_x = CENTRE + (20 - 7 * down) * out
    mid_x, outer_x = CENTRE + 46 * out, CENTRE + 76 * out
    inner_y = level - 20 * inner_up + (15 - 5 * inner_up) * down + 5 * sneer
    mid_y = level - 8 - 10 * inner_up - 13 * outer_up + 10 * down + 3 * sneer
    outer_y = level + 6 - 19 * outer_up + 2 * down + 5 * inner_up * (1 - outer_up)
    shape = _path(
        "M#,# Q#,# #,# Q#,# #,# Z",
        *(inner_x, inner_y - 4, mid_x, mid_y - 10, outer_x, outer_y),
        *(mid_x, mid_y + 1, inner_x, inner_y + 4),
    )
    return [Stroke(shape, HAIR, HAIR, 2.0)]


def _forehead(weights: Weights) -> list[Stroke]:
    raised, inner, down = _both(weights, "AU2"), _both(weights, "AU1"), _both(weights, "AU4")
    lines = "".join(_path("M#,# Q160,# #,# ", 112, y, y - 5, 208, y) for y in (118.0, 127.0))
    short = _path("M#,# Q160,# #,#", 136, 128, 120, 184, 128)
    frown = _path("M#,# L#,# M#,# L#,#", 154, 150, 152, 134, 166, 150, 168, 134)
    return [
        Stroke(lines, stroke=LINE, width=1.6, opacity=_seen(0.8 * min(raised, inner))),
        Stroke(short, stroke=LINE, width=1.6, opacity=_seen(0.8 * max(0.0, inner - raised))),
        Stroke(frown, stroke=LINE, width=2.2, opacity=_seen(down)),
    ]


def _nose(weights: Weights) -> list[Stroke]:
    up = _both(weights, "AU9")
    lift = 7 * up + 2 * _both(weights, "AU10")
    flare = 4 * up
    y = 232.0 - lift
    bridge = _path("M152,186 Q148,# #,#", 212, 143 - flare, y - 4)
    base = _path(
        "M#,# Q#,# 152,# Q160,# 168,# Q#,# #,#",
        *(143 - flare, y - 4, 142 - flare, y + 6, y + 3, y + 9, y + 3),
        *(178 + flare, y + 6, 177 + flare, y - 4),
    )
    wrinkles = "M150,192 L170,186 M149,201 L171,195 M150,210 L170,204 M142,186 L132,194 M178,186 L188,194 "
    return [
        Stroke(bridge, stroke=SHADE, width=2.2),
        Stroke(base, stroke=LINE, width=2.2),
        Stroke(wrinkles, stroke=LINE, width=1.8, opacity=_seen(up)),
    ]


def _cheeks(weights: Weights) -> list[Stroke]:
    strokes = []
    for side, out in (("right", -1), ("left", 1)):
        raised, sneer, lift, smile, droop = (weights.get((f"AU{n}", side), 0.0) for n in (6, 9, 10, 12, 15))
        x, y = CENTRE + 58 * out, 226 - 10 * raised - 5 * smile
        blush = _path("M#,# A22,13 0 1 0 #,# A22,13 0 1 0 #,# Z", x - 22, y, x + 22, y, x - 22, y)
        top = 228 - 8 * max(sneer, lift)
        furrow = _path(
            "M#,# Q#,# #,#",
            *(CENTRE + 24 * out, top, CENTRE + (40 + 8 * smile) * out, top + 12),
            *(CENTRE + (46 + 8 * smile) * out, 266 - 8 * smile),
        )
        seen = _seen(max(0.9 * smile, 0.8 * sneer, 0.9 * lift, 0.3 * droop))
        strokes.append(Stroke(blush, "#e8896b", opacity=round(0.16 + 0.28 * max(raised, 0.6 * smile), 3)))
        strokes.append(Stroke(furrow, stroke=LINE, width=2.0, opacity=seen))
    return strokes


@dataclass(frozen=True)
class _Corner:
    x: float
    y: float


def _corner(weights: Weights, side: str) -> _Corner:
    smile, tuck, droop, wide, jaw, sneer = (weights.get((f"AU{n}", side), 0.0) for n in (12, 14, 15, 20, 26, 9))
    pressed = max(weights.get(("AU23", side), 0.0), weights.get(("AU24", side), 0.0))
    reach = 33 + 15 * smile + 7 * tuck + 3 * droop + 15 * wide - 4 * pressed - 5 * jaw * (1 - wide)
    height = 276 - 20 * smile - 3 * tuck + 17 * droop + 7 * wide - 3 * sneer
    height += 11 * jaw * (1 - 0.5 * smile + 0.9 * wide)
    return _Corner(CENTRE + reach * (1 if side == "left" else -1), height)


def _mouth(weights: Weights) -> list[Stroke]:
    right, left = _corner(weights, "right"), _corner(weights, "left")
    sneer, lift, droop, low, push, wide, jaw = (_both(weights, f"AU{n}") for n in (9, 10, 15, 16, 17, 20, 26))
    # Tightened and pressed lips are drawn alike: ARKit has one shape for both.
    pressed = max(_both(weights, "AU23"), _both(weights, "AU24"))
    smile = (weights.get(("AU12", "left"), 0.0) + weights.get(("AU12", "right"), 0.0)) / 2
    thin = max(0.2, 1 - 0.7 * pressed - 0.25 * wide - 0.3 * smile)
    upper = 274 - 9 * lift - 5 * sneer + 3 * smile - 3 * push - 2 * droop + 6 * wide * jaw
    gap = 46 * jaw * (1 - 0.45 * wide) + 9 * low + 5 * lift + 11 * smile * smile + 6 * wide
    gap *= 1 - 0.8 * pressed * (1 - jaw)
    lower = upper + gap - 5 * push * (gap > 5) + 8 * smile * (1 - jaw)
    top_lip, low_lip = upper - 9 * thin, lower + 12 * thin + 2 * push
    mid_x = (right.x + left.x) / 2
    inset = 0.42
    ax, bx = mid_x + (right.x - mid_x) * inset, mid_x + (left.x - mid_x) * inset

    def band(top: float, bottom: float) -> str:
        return _path(
            "M#,# C#,# #,# #,# C#,# #,# #,# C#,# #,# #,# C#,# #,# #,# Z",
            *(right.x, right.y, ax - 8, top, ax, top - 1, mid_x, top + 2),
            *(bx, top - 1, bx + 8, top, left.x, left.y),
            *(bx + 8, bottom, bx, bottom + 1, mid_x, bottom + 1),
            *(ax, bottom + 1, ax - 8, bottom, right.x, right.y),
        )

    teeth_low = min(lower - 1, upper + 4 + 0.45 * gap)
    line = _path(
        "M#,# C#,# #,# #,# C#,# #,# #,#",
        *(right.x, right.y, ax - 8, upper + 0.4, ax, upper, mid_x, upper + 2),
        *(bx, upper, bx + 8, upper + 0.4, left.x, left.y),
    )
    strokes = [
        Stroke(band(top_lip, low_lip), LIP),
        Stroke(band(upper, lower), "#5a1f22"),
        Stroke(band(upper, teeth_low), "#fbf7f0", opacity=round(min(1.0, max(0.0, gap - 3) / 2), 3)),
        Stroke(line, stroke="#6b2a2a", width=1.8, opacity=round(max(0.0, 1 - gap / 8), 3)),
    ]
    for corner, side, out in ((right, "right", -1), (left, "left", 1)):
        drawn, tucked, drooped, stretched = (weights.get((f"AU{n}", side), 0.0) for n in (12, 14, 15, 20))
        x, y = corner.x, corner.y
        tuck = _path("M#,# Q#,# #,#", x + 5 * out, y - 8, x + 10 * out, y - 1, x + 5 * out, y + 7)
        fall = _path("M#,# Q#,# #,#", x + out, y, x + 7 * out, y + 5, x + 8 * out, y + 13)
        seen = _seen(max(tucked, 0.8 * drawn, 0.6 * stretched))
        strokes.append(Stroke(tuck, stroke=LINE, width=2.2, opacity=seen))
        strokes.append(Stroke(fall, stroke=LINE, width=2.0, opacity=_seen(drooped)))
    ends = [(x, y) for x in (146.0, 160.0, 174.0) for y in (upper - 5, upper - 11)]
    pursed = _path("M#,# L#,# M#,# L#,# M#,# L#,#", *(value for end in ends for value in end))
    return [*strokes, Stroke(pursed, stroke=LINE, width=1.4, opacity=_seen(0.8 * pressed))]


def _chin(weights: Weights) -> list[Stroke]:
    push, jaw = _both(weights, "AU17"), _both(weights, "AU26")
    y = 312.0 + 26 * jaw
    ball = _path("M138,# Q160,# 182,#", y + 2, y - 12 * (0.4 + push), y + 2)
    dots = _path("M148,# L152,# M160,# L160,# M172,# L168,#", y + 8, y + 12, y + 7, y + 12, y + 8, y + 12)
    return [
        Stroke(ball, stroke=SHADE, width=2.0, opacity=round(0.5 + 0.4 * push, 3)),
        Stroke(dots, stroke=LINE, width=1.6, opacity=_seen(push)),
    ]
