"""The checks behind the rules: pure functions of (what is asked, artifact).

A check returns None where its rule holds, else (score, path, message) with a score below 1.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import pairwise

from stepforge.contracts.domains.facial import GRADES, FacialArtifact, Keyframe
from stepforge_jobs.domains.facial.expectation import Expectation, closeness, shown_units
from stepforge_jobs.domains.facial.expert import least_onset
from stepforge_jobs.domains.facial.tables import (
    ACTION_UNITS,
    ANTAGONISTS,
    DISPLAY_RULES,
    DURATION,
    MAX_CHANGE,
    ORDER,
    RIG_TABLES,
    SMILE,
    UNILATERAL,
    WEIGHTS,
)

EPSILON = 1e-9
SIDES_APART = 6
"""Frames by which one side of the face may be ahead of the other: .1 s, ours."""
UNITS_APART = 15
"""Frames by which a unit may reach or leave its apex before or after the strongest: .25 s, ours."""
LEAST_WEIGHT = WEIGHTS["A"] / 2
"""Below it a blendshape is nearer to rest than to the weakest grade."""
Curve = tuple[Keyframe, ...]
Fault = tuple[float, str, str]


# ── Action units ─────────────────────────────────────────────────────────────────────────────────


def prototype(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    f1 = closeness(asked, artifact)
    if f1 >= 0.8 - EPSILON:
        return None
    wanted = "+".join(sorted(asked.references[0].core, key=list(ACTION_UNITS).index))
    return f1, "action_units", f"F1 {f1:.2f} against {wanted}: needs .8"


def prototype_exact(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    f1 = closeness(asked, artifact)
    return None if f1 >= 1 - EPSILON else (f1, "action_units", f"F1 {f1:.2f} against the nearest reference")


def both_emotions(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    shown = shown_units(artifact)
    hidden = [emotion for emotion, units in asked.evidence.items() if not units & shown]
    if not hidden:
        return None
    wanted = " or ".join(sorted(asked.evidence[hidden[0]], key=ORDER.__getitem__))
    return 1 - len(hidden) / len(asked.evidence), "action_units", f"nothing shows {hidden[0]}: {wanted} would"


def antagonists(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    units = artifact.action_units.keys()
    for pair, why in ANTAGONISTS.items():
        if pair <= units:
            first, second = sorted(pair)
            return 0.0, f"action_units.{second}", f"{first} and {second} contradict each other: {why}"
    return None


def smile(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    scenario, units = asked.scenario, artifact.action_units
    if scenario.display in ("simulated", "masked"):
        if "AU6" in units and SMILE in units:
            return 0.0, "action_units.AU6", f"a {scenario.display} smile does not raise the cheeks"
        if scenario.display == "masked" and SMILE not in units:
            return 0.0, f"action_units.{SMILE}", "the mask, a smile, is missing"
    elif scenario.primary == "happiness" and scenario.secondary is None and "AU6" not in units:
        return 0.0, "action_units.AU6", "a felt smile raises the cheeks"
    return None


def _grade_errors(asked: Expectation, artifact: FacialArtifact) -> tuple[list[str], int]:
    wrong, total, wanted = [], 0, asked.grades
    for unit, grade in artifact.action_units.items():
        if (away := abs(wanted.get(unit, -9) - GRADES.index(grade))) != 0:
            wrong.append(unit)
            total += away
    return wrong, total


def intensity(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    wrong, total = _grade_errors(asked, artifact)
    if total <= 1:
        return None
    words = ", ".join(f"{unit} {artifact.action_units[unit]} for {GRADES[asked.grades.get(unit, 0)]}" for unit in wrong)
    return (
        max(0.0, 1 - len(wrong) / len(artifact.action_units)) * 0.99,
        f"action_units.{wrong[0]}",
        f"grades off: {words}",
    )


def intensity_exact(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    wrong, _ = _grade_errors(asked, artifact)
    return (1 - len(wrong) / len(artifact.action_units), f"action_units.{wrong[0]}", "one grade off") if wrong else None


# ── Blendshapes ──────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=8192)
def _driven(rig: str, units: tuple[str, ...]) -> dict[str, str]:
    """Blendshape to the first unit that drives it."""
    table = RIG_TABLES[rig]  # type: ignore[index]
    return {
        name: unit for unit in reversed(units) if unit in table.shapes for name in table.blendshapes(table.shapes[unit])
    }


@lru_cache(maxsize=8)
def _free(rig: str) -> frozenset[str]:
    """Blendshapes that no planned unit drives and that may accompany any expression: a blink, lips kept together."""
    table = RIG_TABLES[rig]  # type: ignore[index]
    return frozenset((*table.blendshapes(table.blink), table.lips_closed))


@lru_cache(maxsize=8)
def _known(rig: str) -> frozenset[str]:
    return frozenset(RIG_TABLES[rig].names)  # type: ignore[index]


@lru_cache(maxsize=8)
def _sides(rig: str) -> tuple[tuple[str, str], ...]:
    table = RIG_TABLES[rig]  # type: ignore[index]
    left, right = table.sides
    return tuple(
        (name, name.removesuffix(left) + right)
        for name in table.names
        if name.endswith(left) and name.removesuffix(left) + right in table.names
    )


@lru_cache(maxsize=8)
def _one_sided(rig: str) -> dict[str, str]:
    """Right blendshape to the unilateral unit that moves it alone."""
    table = RIG_TABLES[rig]  # type: ignore[index]
    return {table.shapes[unit]: unit for unit in UNILATERAL}


def rig_names(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    if artifact.rig != asked.scenario.rig:
        return 0.0, "rig", f"the scenario asks for rig {asked.scenario.rig!r}, not {artifact.rig!r}"
    unknown = artifact.curves.keys() - _known(artifact.rig)
    if not unknown:
        return None
    first = min(unknown)
    return (
        1 - len(unknown) / len(artifact.curves),
        f"curves.{first}",
        f"{first!r} is no blendshape of rig {artifact.rig!r}",
    )


def rig_mapping(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    wanted = _driven(asked.scenario.rig, tuple(artifact.action_units)).keys()
    shown = artifact.curves.keys() - _free(asked.scenario.rig)
    if shown == wanted:
        return None
    missing, extra = wanted - shown, shown - wanted
    name = min(missing or extra)
    score = len(wanted & shown) / max(1, len(wanted | shown))
    return (
        score,
        f"curves.{name}",
        f"{name} {'is missing for its action unit' if missing else 'moves without an action unit'}",
    )


def rig_weights(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    units = artifact.action_units
    for name, unit in _driven(asked.scenario.rig, tuple(units)).items():
        if name not in artifact.curves:
            continue
        wanted, peak = WEIGHTS[units[unit]], artifact.weight(name)
        # Rest lies within the tolerance of grade A.
        if peak < LEAST_WEIGHT - EPSILON or abs(peak - wanted) > 0.1 + EPSILON:
            return 0.0, f"curves.{name}", f"{unit} {units[unit]} is weight {wanted:g}; {name} reaches {peak:g}"
    return None


def weight_range(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    for name, curve in artifact.curves.items():
        for frame, weight in curve:
            if not 0 <= weight <= 1:
                return 0.0, f"curves.{name}", f"weight {weight:g} at frame {frame} is not in [0, 1]"
    return None


def symmetry(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    curves, one_sided = artifact.curves, _one_sided(asked.scenario.rig)
    for left, right in _sides(asked.scenario.rig):
        first, second = curves.get(left), curves.get(right)
        if first is second or first == second or one_sided.get(right) in artifact.action_units:
            continue
        apart = abs(artifact.weight(left) - artifact.weight(right))
        if apart > 0.1 + EPSILON:
            return 0.0, f"curves.{left}", f"{left} and {right} are {apart:.2f} apart: only contempt is one-sided"
        frame = _lead(first or (), second or ())
        if frame is not None:
            seconds = SIDES_APART / 60
            return 0.0, f"curves.{left}", f"{left} and {right} move more than {seconds:g} s apart, near frame {frame}"
    return None


def _lead(left: Curve, right: Curve) -> int | None:
    """The frame of a keyframe whose weight the other side does not have within `SIDES_APART` frames."""
    if not left or not right:
        return None
    # A trace of a smile has less weight than the tolerance.
    tolerance = min(0.1, max(weight for _, weight in (*left, *right)) / 2) + EPSILON
    for one, other in ((left, right), (right, left)):
        frames = [frame for frame, _ in other]
        for frame, weight in one:
            first, last = frame - SIDES_APART, frame + SIDES_APART
            near = other[bisect_left(frames, first) : bisect_right(frames, last)]
            weights = [_weight_at(other, frames, first), _weight_at(other, frames, last), *(w for _, w in near)]
            if not min(weights) - tolerance <= weight <= max(weights) + tolerance:
                return frame
    return None


def _weight_at(curve: Curve, frames: list[int], frame: int) -> float:
    """Between keyframes on their line; before the first and after the last as there."""
    place = bisect_right(frames, frame)
    if place in (0, len(curve)):
        return curve[min(place, len(curve) - 1)][1]
    (start, low), (end, high) = curve[place - 1], curve[place]
    return low + (high - low) * (frame - start) / max(1, end - start)


def lids(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    rig = asked.rig
    for side in rig.sides:
        if rig.blink + side not in artifact.curves:
            continue
        if (total := artifact.weight(rig.blink + side) + artifact.weight(rig.wide + side)) > 1 + EPSILON:
            return (
                0.0,
                f"curves.{rig.blink}{side}",
                f"{rig.blink}{side} and {rig.wide}{side} add up to {total:.2f}: at most 1",
            )
    return None


def jaw(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    rig = asked.rig
    if rig.lips_closed not in artifact.curves:
        return None
    closed, jaw = artifact.weight(rig.lips_closed), artifact.weight(rig.jaw)
    return (
        (0.0, f"curves.{rig.lips_closed}", f"{rig.lips_closed} {closed:g} exceeds {rig.jaw} {jaw:g}")
        if closed > jaw + EPSILON
        else None
    )


# ── Time ─────────────────────────────────────────────────────────────────────────────────────────


def rate(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    for name, curve in artifact.curves.items():
        for (start, low), (end, high) in pairwise(curve):
            if abs(high - low) > MAX_CHANGE * (end - start) + EPSILON:
                return (
                    0.0,
                    f"curves.{name}",
                    f"{abs(high - low) / max(1, end - start):.2f} a frame after frame {start}: at most {MAX_CHANGE:g}",
                )
    return None


def neutral(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    for name, curve in artifact.curves.items():
        if len(curve) < 2 or curve[0] != (0, 0.0) or curve[-1][1] != 0.0:
            return 0.0, f"curves.{name}", f"{name} does not start at frame 0 and end in the neutral face"
    return None


def one_apex(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    for name, curve in artifact.curves.items():
        falling, (frame, weight) = False, curve[0] if curve else (0, 0.0)
        for later, after in curve[1:]:
            if later <= frame:
                return 0.0, f"curves.{name}", f"frame {later} does not come after frame {frame}"
            if after > weight and falling:
                return 0.0, f"curves.{name}", f"{name} rises again at frame {later}: one apex"
            falling, frame, weight = falling or after < weight, later, after
    return None


def _distinct(artifact: FacialArtifact) -> set[Curve]:
    """The different curves of what action units move: a blink has a time of its own."""
    free = _free(artifact.rig)
    return {curve for name, curve in artifact.curves.items() if curve and name not in free}


def timing(artifact: FacialArtifact) -> tuple[int, int, int]:
    """Frames of onset, apex and offset of the whole expression: from its strongest curve, a blink aside.

    Of several that are as strong, from the one that is there first.
    """
    best: tuple[float, int, int, int] = (-1.0, 0, 0, 0)
    for curve in _distinct(artifact):
        peak = max(weight for _, weight in curve)
        if peak >= best[0]:
            held = [frame for frame, weight in curve if weight >= peak - EPSILON]
            best = max(best, (peak, -held[0], held[-1] - held[0], curve[-1][0] - held[-1]))
    return -best[1], best[2], best[3]


def apex(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    onset, apex, _ = timing(artifact)
    low, high = DISPLAY_RULES[asked.scenario.display].apex_window
    if not low <= apex <= high:
        held = f"the apex holds {apex} frames"
        return 0.0, "curves", f"{held}; a {asked.scenario.display} expression holds {low} to {high}"
    return _straggler(artifact, onset, onset + apex)


def _straggler(artifact: FacialArtifact, start: int, end: int) -> Fault | None:
    """A unit whose apex, nine tenths of its own peak, is not that of the strongest one, from `start` to `end`."""
    for curve in _distinct(artifact):
        near = max(weight for _, weight in curve) * 0.9 - EPSILON
        if near <= 0:
            continue
        held = [frame for frame, weight in curve if weight >= near]
        if abs(held[0] - start) > UNITS_APART or abs(held[-1] - end) > UNITS_APART:
            name = next(name for name, other in artifact.curves.items() if other == curve)
            span = f"from frame {held[0]} to {held[-1]}, the strongest curve from {start} to {end}"
            return 0.0, f"curves.{name}", f"{name} is at its apex {span}: at most {UNITS_APART} frames apart"
    return None


def pace(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    onset, _, _ = timing(artifact)
    least = least_onset(max((WEIGHTS[grade] for grade in artifact.action_units.values()), default=0.0))
    low, high = (least, max(least, 2 * least - 1)) if asked.scenario.pace == "sudden" else (2 * least, 3 * least)
    if low <= onset <= high:
        return None
    return (
        0.0,
        "curves",
        f"the onset takes {onset} frames; a {asked.scenario.pace} one of this strength takes {low} to {high}",
    )


def offset(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    onset, _, offset = timing(artifact)
    return (
        None
        if offset >= onset
        else (0.0, "curves", f"it fades in {offset} frames and came in {onset}: a face relaxes no faster than it moves")
    )


def fade(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    onset, _, offset = timing(artifact)
    if 1.5 * onset <= offset <= 2.5 * onset:
        return None
    return 0.0, "curves", f"offset {offset} is not 1.5 to 2.5 times the onset {onset}"


def duration(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    frames = max((curve[-1][0] for curve in artifact.curves.values() if curve), default=0)
    low, high = DURATION
    return (
        None
        if low <= frames <= high
        else (0.0, "curves", f"it lasts {frames / 60:.2f} s: between {low / 60:g} and {high / 60:g} s")
    )


def body(asked: Expectation, artifact: FacialArtifact) -> Fault | None:
    body = artifact.body
    if body.posture != asked.posture:
        return 0.0, "body.posture", f"posture {body.posture!r}: the emotions' dominance asks for {asked.posture!r}"
    if body.tempo != asked.tempo:
        return 0.0, "body.tempo", f"tempo {body.tempo!r}: the emotions' arousal asks for {asked.tempo!r}"
    return None
