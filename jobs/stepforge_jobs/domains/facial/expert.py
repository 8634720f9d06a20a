"""The expert, who plans an expression step by step with reasons, and the careless authors of the corpus."""

from __future__ import annotations

import random

from stepforge.contracts.domains.facial import GRADES, FacialScenario, Grade
from stepforge.contracts.records import Step
from stepforge_jobs.domains.facial.grammar import MAX_OFFSET, MAX_ONSET, Plan, render_steps
from stepforge_jobs.domains.facial.tables import (
    ACTION_UNITS,
    ANTAGONISTS,
    COMPOUNDS,
    DISPLAY_RULES,
    MAX_CHANGE,
    OPTIONAL,
    ORDER,
    PROTOTYPES,
    RIG_TABLES,
    SMILE,
    UPPER_FACE,
    WEIGHTS,
)

OWN_UNITS = {
    emotion: frozenset(units)
    | OPTIONAL.get(emotion, frozenset())
    | (row.core | row.also if (row := COMPOUNDS.get(frozenset({emotion}))) else frozenset())
    | ({"AU24"} if "AU23" in units else frozenset())
    for emotion, units in PROTOTYPES.items()
}
"""Every unit that some published face of the emotion has."""


def contradicts(unit: str, others: tuple[str, ...]) -> bool:
    return any(frozenset((unit, other)) in ANTAGONISTS for other in others)


def blend(scenario: FacialScenario, *, keep_antagonists: bool = False) -> tuple[str, ...]:
    """Prototype units of both emotions, in FACS order, the secondary's antagonists of the primary's left out."""
    first = PROTOTYPES[scenario.primary]
    second = PROTOTYPES[scenario.secondary] if scenario.secondary else ()
    added = (unit for unit in second if keep_antagonists or not contradicts(unit, first))
    return in_order({*first, *added})


def displayed(units: tuple[str, ...], scenario: FacialScenario) -> tuple[str, ...]:
    """The units that the display rule lets through."""
    if scenario.display == "masked":
        return in_order({*(unit for unit in units if unit in UPPER_FACE), SMILE})
    if scenario.display == "simulated":
        return tuple(unit for unit in units if unit != "AU6")
    return units


def in_order(units: set[str]) -> tuple[str, ...]:
    return tuple(sorted(units, key=ORDER.__getitem__))


def plain_grade(scenario: FacialScenario, unit: str) -> int:
    """Grade (0 for A) before the display rule: the level, one less for what only the secondary emotion brings.

    AU 5 is at most B in surprise, for a stronger one reads as fear or anger (1+2+5B+26).
    """
    grade = scenario.level - 1
    if unit not in OWN_UNITS[scenario.primary] and not (scenario.display == "masked" and unit == SMILE):
        grade -= 1
    return _bounded(grade, scenario, unit)


def display_grade(scenario: FacialScenario, unit: str) -> int:
    """Grade (0 for A) that the scenario asks for, display rule included."""
    rule = DISPLAY_RULES[scenario.display]
    change = rule.upper if unit in UPPER_FACE else rule.lower
    return _bounded(plain_grade(scenario, unit) + change, scenario, unit)


def _bounded(grade: int, scenario: FacialScenario, unit: str) -> int:
    emotions = {scenario.primary, scenario.secondary}
    top = 1 if unit == "AU5" and "surprise" in emotions and not emotions & {"fear", "anger"} else 4
    return max(0, min(top, grade))


def least_onset(weight: float) -> int:
    """Frames that a weight needs at `MAX_CHANGE` a frame."""
    return max(1, -int(-(weight - 1e-9) // MAX_CHANGE))


def onset_frames(scenario: FacialScenario, strongest: float) -> int:
    return least_onset(strongest) * (2 if scenario.pace == "gradual" else 1)


def solve(scenario: FacialScenario) -> Plan:
    """The expert's plan. Every rule accepts it with reward 1."""
    units = displayed(blend(scenario), scenario)
    grades: tuple[Grade, ...] = tuple(GRADES[display_grade(scenario, unit)] for unit in units)
    onset = onset_frames(scenario, max(WEIGHTS[grade] for grade in grades))
    shapes = _shapes(units, scenario)
    return Plan(units, grades, shapes, onset, DISPLAY_RULES[scenario.display].apex, 2 * onset)


def _shapes(units: tuple[str, ...], scenario: FacialScenario) -> tuple[str, ...]:
    table = RIG_TABLES[scenario.rig].shapes
    return tuple(dict.fromkeys(table[unit] for unit in units))


def careless(scenario: FacialScenario, rng: random.Random, *, care: float) -> Plan:
    """A plan by someone who takes each decision beyond a plain face with care only so often.

    A single felt emotion on ARKit needs no care and is always right. Otherwise the author may forget the secondary
    emotion or its antagonists, the display rule, the other rig's names, the pace.
    """

    def careful() -> bool:
        return rng.random() < care

    units = blend(scenario)
    if scenario.secondary and not careful():
        contradictory = blend(scenario, keep_antagonists=True)
        options = [PROTOTYPES[scenario.primary], *([contradictory] * 2 if contradictory != units else [])]
        units = rng.choice(options)
    if displayed(units, scenario) != units and careful():
        units = displayed(units, scenario)
    if "AU23" in units and rng.random() < 0.3:
        units = tuple("AU24" if unit == "AU23" else unit for unit in units)
    grades = []
    for unit in units:
        wanted, plain = display_grade(scenario, unit), plain_grade(scenario, unit)
        grades.append(GRADES[wanted if wanted == plain or careful() else plain])
    native, habit = RIG_TABLES[scenario.rig].shapes, RIG_TABLES["arkit"].shapes
    shapes = tuple(dict.fromkeys((native if scenario.rig == "arkit" or careful() else habit)[unit] for unit in units))
    strongest = max(WEIGHTS[grade] for grade in grades)
    onset = onset_frames(scenario, strongest)
    if scenario.display != "felt" and not careful():
        onset = least_onset(strongest) if scenario.pace == "gradual" else max(1, onset - rng.choice((1, 2)))
    apex = DISPLAY_RULES[scenario.display if careful() else "felt"].apex
    return Plan(units, tuple(grades), shapes, min(onset, MAX_ONSET), apex, min(2 * onset, MAX_OFFSET))


TITLES = ("Appraise and choose action units", "Set intensities", "Map to the rig", "Time the expression")


def steps(scenario: FacialScenario, plan: Plan, *, reasons: bool = True) -> tuple[Step, ...]:
    """A plan as the four steps of a trajectory, with the reason for each."""
    actions = render_steps(plan)
    if not reasons:
        return tuple(Step(action=action) for action in actions)
    thoughts = (_why_units(scenario), _why_grades(scenario), _why_shapes(scenario, plan), _why_timing(scenario, plan))
    return tuple(Step(action=a, title=t, thought=w) for a, t, w in zip(actions, TITLES, thoughts, strict=True))


def _why_units(scenario: FacialScenario) -> str:
    when = "At once" if scenario.pace == "sudden" else "By and by"
    said = f"{when} comes {scenario.primary}: {'+'.join(PROTOTYPES[scenario.primary])}."
    if scenario.secondary:
        said += f" {scenario.secondary.capitalize()} blends in: {'+'.join(PROTOTYPES[scenario.secondary])}."
        lost = [u for u in PROTOTYPES[scenario.secondary] if contradicts(u, PROTOTYPES[scenario.primary])]
        if lost:
            said += f" {', '.join(lost)} would contradict the primary emotion and is left out."
    if scenario.display == "masked":
        said += " A smile (AU12) without the cheeks covers it; only brows and lids leak."
    if scenario.display == "simulated" and "AU6" in blend(scenario):
        said += " It is put on, so AU6, which few can move at will, stays still."
    return said


def _why_grades(scenario: FacialScenario) -> str:
    said = f"Level {scenario.level} is grade {GRADES[scenario.level - 1]}"
    if scenario.secondary:
        said += f"; what only {scenario.secondary} brings is one grade weaker"
    return f"{said}. The expression {DISPLAY_RULES[scenario.display].why}."


def _why_shapes(scenario: FacialScenario, plan: Plan) -> str:
    named = "; ".join(
        f"{unit} ({ACTION_UNITS[unit]}) moves {RIG_TABLES[scenario.rig].shapes[unit]}" for unit in plan.units
    )
    return f"The rig is {scenario.rig}. {named}."


def _why_timing(scenario: FacialScenario, plan: Plan) -> str:
    weight = WEIGHTS[max(plan.grades)]
    pace = "it comes suddenly" if scenario.pace == "sudden" else "it comes gradually, so twice as long"
    return (
        f"A weight of {weight:g} at {MAX_CHANGE:g} a frame takes {least_onset(weight)} frames; {pace}. "
        f"The apex of a {scenario.display} expression holds {plan.apex} frames, and it fades in twice the onset."
    )
