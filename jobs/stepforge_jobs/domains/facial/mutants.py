"""For each rule, ways to spoil a right expression that the rule must notice. Tests and audits of the verifier use them.

A mutant takes (rng, scenario, artifact) and returns a spoilt copy, or None where this one cannot be spoilt that way.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from stepforge.contracts.domains.facial import GRADES, BodyLanguage, FacialArtifact, FacialScenario, Keyframe
from stepforge_jobs.domains.facial.checks import timing
from stepforge_jobs.domains.facial.expectation import expect
from stepforge_jobs.domains.facial.expert import displayed, least_onset
from stepforge_jobs.domains.facial.tables import ACTION_UNITS, ANTAGONISTS, PROTOTYPES, RIG_TABLES, UNILATERAL, WEIGHTS

Mutant = Callable[[random.Random, FacialScenario, FacialArtifact], FacialArtifact | None]
Curve = tuple[Keyframe, ...]


def mutate(artifact: FacialArtifact, **changes: object) -> FacialArtifact:
    """A copy with other fields, not validated: a fault must reach the rules."""
    return FacialArtifact.model_construct(**{**dict(artifact), **changes})


def _replace(artifact: FacialArtifact, name: str, curve: tuple[Keyframe, ...]) -> FacialArtifact:
    return mutate(artifact, curves={**artifact.curves, name: curve})


def _any_curve(rng: random.Random, artifact: FacialArtifact) -> tuple[str, tuple[Keyframe, ...]]:
    return rng.choice(sorted(artifact.curves.items()))


def _scaled(curve: tuple[Keyframe, ...], peak: float) -> tuple[Keyframe, ...]:
    top = max(weight for _, weight in curve)
    return tuple((frame, weight / top * peak) for frame, weight in curve)


def _timed(artifact: FacialArtifact, onset: int, apex: int, offset: int) -> FacialArtifact:
    frames = (0, onset, onset + apex, onset + apex + offset)
    curves = {
        name: tuple((frame, weight) for frame, (_, weight) in zip(frames, curve, strict=True))
        for name, curve in artifact.curves.items()
    }
    return mutate(artifact, curves=curves)


def other_units(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    """As many units as before, all of them others."""
    others = [unit for unit in ACTION_UNITS if unit not in artifact.action_units and unit != "AU24"]
    count = min(len(artifact.action_units), len(others))
    return mutate(artifact, action_units=dict.fromkeys(rng.sample(others, count), "C"))


def one_unit_more(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    """A unit that no published face of any emotion adds here."""
    extra = "R14" if "R14" not in artifact.action_units else "AU17"
    return mutate(artifact, action_units={**artifact.action_units, extra: "C"})


def one_emotion_left_out(
    rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact
) -> FacialArtifact | None:
    """The face of one emotion alone, with the grades that were asked for."""
    asked = expect(scenario)
    if not asked.evidence:
        return None
    lost = rng.choice(list(asked.evidence))
    kept = scenario.secondary if lost == scenario.primary else scenario.primary
    assert kept is not None
    units = displayed(PROTOTYPES[kept], scenario)
    return mutate(artifact, action_units={unit: GRADES[asked.grades[unit]] for unit in units})


def antagonist(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    pair = rng.choice(sorted(sorted(pair) for pair in ANTAGONISTS))
    return mutate(artifact, action_units={**artifact.action_units, **dict.fromkeys(pair, "C")})


def wrong_cheeks(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    """Cheeks in a smile that is put on, none in a felt one, or no mask."""
    units = dict(artifact.action_units)
    if scenario.display == "masked" and rng.random() < 0.5:
        del units["AU12"]
        return mutate(artifact, action_units=units)
    if scenario.display in ("masked", "simulated") and "AU12" in units:
        return mutate(artifact, action_units={**units, "AU6": "B"})
    if scenario.primary == "happiness" and scenario.secondary is None and "AU6" in units:
        del units["AU6"]
        return mutate(artifact, action_units=units)
    return None


def grades_shifted(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    """One unit two grades off."""
    unit = rng.choice(sorted(artifact.action_units))
    place = GRADES.index(artifact.action_units[unit])
    away = rng.choice([other for other in range(5) if abs(other - place) >= 2])
    return mutate(artifact, action_units={**artifact.action_units, unit: GRADES[away]})


def one_grade_off(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    unit = rng.choice(sorted(artifact.action_units))
    place = GRADES.index(artifact.action_units[unit])
    return mutate(artifact, action_units={**artifact.action_units, unit: GRADES[place + 1 if place < 4 else 3]})


def foreign_name(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    """A blendshape under the name that the other rig has for it, or under a misspelt one."""
    name, curve = _any_curve(rng, artifact)
    other = RIG_TABLES["openxr" if scenario.rig == "arkit" else "arkit"]
    curves = {k: v for k, v in artifact.curves.items() if k != name}
    known = set(RIG_TABLES[scenario.rig].names)
    wrong = rng.choice([n for n in other.names if n not in known]) if rng.random() < 0.5 else name[:-1] + "X"
    return mutate(artifact, curves={**curves, wrong: curve})


def other_rig(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    return mutate(artifact, rig="openxr" if scenario.rig == "arkit" else "arkit")


def lost_curve(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    name, _ = _any_curve(rng, artifact)
    return mutate(artifact, curves={k: v for k, v in artifact.curves.items() if k != name})


def stray_curve(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    rig = RIG_TABLES[scenario.rig]
    free = {*artifact.curves, *rig.blendshapes(rig.blink), rig.lips_closed}
    _, curve = _any_curve(rng, artifact)
    return _replace(artifact, rng.choice([name for name in rig.names if name not in free]), curve)


def wrong_weight(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    name, curve = _any_curve(rng, artifact)
    peak = artifact.weight(name)
    return _replace(artifact, name, _scaled(curve, peak - 0.25 if peak > 0.5 else peak + 0.25))


def still_trace(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    """A trace of a unit that does not move at all, or hardly."""
    traces = [unit for unit, grade in artifact.action_units.items() if grade == "A"]
    if not traces:
        return None
    rig = RIG_TABLES[scenario.rig]
    peak = rng.choice([0.0, 0.01])
    names = rig.blendshapes(rig.shapes[rng.choice(traces)])
    return mutate(artifact, curves={**artifact.curves, **{n: _scaled(artifact.curves[n], peak) for n in names}})


def out_of_range(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    name, curve = _any_curve(rng, artifact)
    return _replace(artifact, name, _scaled(curve, rng.choice([1.2, 1.01, -0.1])))


def lopsided(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    """One side .3 away from the other, where no unit is one-sided."""
    paired = _right_sides(scenario, artifact)
    if not paired:
        return None
    name = rng.choice(paired)
    peak = artifact.weight(name)
    return _replace(artifact, name, _scaled(artifact.curves[name], peak - 0.3 if peak > 0.5 else peak + 0.3))


def late_side(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    """One side moves as the other does, but .2 to 2.5 s later."""
    paired = _right_sides(scenario, artifact)
    if not paired:
        return None
    name = rng.choice(paired)
    return _replace(artifact, name, _later(artifact.curves[name], rng.choice([12, 30, 150])))


def _right_sides(scenario: FacialScenario, artifact: FacialArtifact) -> list[str]:
    """Names of the right side that a unit of both sides moves."""
    rig = RIG_TABLES[scenario.rig]
    bare = {rig.shapes[unit] for unit in UNILATERAL & artifact.action_units.keys()}
    paired = [n for n in artifact.curves if n.endswith(rig.sides[1]) and n not in bare and n not in rig.shapes.values()]
    return sorted(n for n in paired if n.removesuffix(rig.sides[1]) + rig.sides[0] in artifact.curves)


def _later(curve: Curve, frames: int) -> Curve:
    return (curve[0], *((frame + frames, weight) for frame, weight in curve))


def blink_wide(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    rig = RIG_TABLES[scenario.rig]
    _, curve = _any_curve(rng, artifact)
    changed = dict(artifact.curves)
    for name, peak in ((rig.blink, 0.8), (rig.wide, 0.5)):
        changed |= {full: _scaled(curve, peak) for full in rig.blendshapes(name)}
    return mutate(artifact, curves=changed)


def closed_over_jaw(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    rig = RIG_TABLES[scenario.rig]
    _, curve = _any_curve(rng, artifact)
    return _replace(artifact, rig.lips_closed, _scaled(curve, min(1.0, artifact.weight(rig.jaw) + 0.1)))


def too_fast(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    """An onset one frame shorter than the strongest weight allows."""
    _, apex, offset = timing(artifact)
    least = least_onset(max(WEIGHTS[grade] for grade in artifact.action_units.values()))
    return None if least < 2 else _timed(artifact, least - 1, apex, offset)


def not_neutral(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    name, curve = _any_curve(rng, artifact)
    if rng.random() < 0.5:
        return _replace(artifact, name, ((0, 0.05), *curve[1:]))
    return _replace(artifact, name, (*curve[:-1], (curve[-1][0], 0.05)))


def two_apexes(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    name, curve = _any_curve(rng, artifact)
    first, last = curve[1][0], curve[2][0]
    dip = ((first + last) // 2, curve[1][1] * 0.5)
    return _replace(artifact, name, (*curve[:2], dip, *curve[2:]))


def apex_of_another_display(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    onset, apex, offset = timing(artifact)
    return _timed(artifact, onset, rng.choice([a for a in (30, 60, 90, 120, 180) if a != apex]), offset)


def late_unit(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    """One unit, on both sides, after the others."""
    words = {RIG_TABLES[scenario.rig].shapes[unit] for unit in artifact.action_units}
    if len(words) < 2:
        return None
    names = RIG_TABLES[scenario.rig].blendshapes(rng.choice(sorted(words)))
    frames = rng.choice([20, 60])
    return mutate(artifact, curves={**artifact.curves, **{n: _later(artifact.curves[n], frames) for n in names}})


def other_pace(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    onset, apex, offset = timing(artifact)
    return _timed(
        artifact, onset * 2 if scenario.pace == "sudden" else max(1, onset // 2), apex, max(offset, 2 * onset)
    )


def gone_too_fast(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact | None:
    onset, apex, _ = timing(artifact)
    return None if onset < 2 else _timed(artifact, onset, apex, onset - 1)


def lingering(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    onset, apex, _ = timing(artifact)
    return _timed(artifact, onset, apex, 3 * onset)


def too_long_or_short(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    onset, _, offset = timing(artifact)
    return _timed(artifact, onset, rng.choice([260, 400]), offset) if rng.random() < 0.5 else _timed(artifact, 1, 4, 2)


def other_body(rng: random.Random, scenario: FacialScenario, artifact: FacialArtifact) -> FacialArtifact:
    body = artifact.body
    if rng.random() < 0.5:
        posture = "contracted" if body.posture == "expanded" else "expanded"
        return mutate(artifact, body=BodyLanguage(posture=posture, tempo=body.tempo))  # type: ignore[arg-type]
    tempo = "slow" if body.tempo == "fast" else "fast"
    return mutate(artifact, body=BodyLanguage(posture=body.posture, tempo=tempo))  # type: ignore[arg-type]


MUTANTS: dict[str, tuple[Mutant, ...]] = {
    "units.prototype": (other_units,),
    "units.blend": (one_emotion_left_out,),
    "units.antagonists": (antagonist,),
    "units.smile": (wrong_cheeks,),
    "units.intensity": (grades_shifted,),
    "rig.names": (foreign_name, other_rig),
    "rig.mapping": (lost_curve, stray_curve),
    "rig.weights": (wrong_weight, still_trace),
    "rig.range": (out_of_range,),
    "rig.symmetry": (lopsided, late_side),
    "rig.lids": (blink_wide,),
    "rig.jaw": (closed_over_jaw,),
    "time.rate": (too_fast,),
    "time.neutral": (not_neutral,),
    "time.one_apex": (two_apexes,),
    "time.apex": (apex_of_another_display, late_unit),
    "time.pace": (other_pace,),
    "time.offset": (gone_too_fast,),
    "time.duration": (too_long_or_short,),
    "body.pad": (other_body,),
    "units.prototype_exact": (one_unit_more,),
    "units.intensity_exact": (one_grade_off,),
    "time.fade": (lingering,),
}
"""Rule to its mutants; the last three lower the reward without refusing."""
