"""The compact text of an expression, and its expansion into the whole artifact.

Four lines, each ended by `;`: action units, a grade for each, the rig's blendshapes, and the timing in frames:

    AU6 AU12 ;
    AU6 C AU12 C ;
    cheekSquint mouthSmile ;
    on4 apex60 off8 ;
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, zip_longest

from pydantic import ValidationError

from stepforge.contracts.base import first_problem
from stepforge.contracts.domains.facial import (
    DISPLAYS,
    EMOTIONS,
    GRADES,
    PACES,
    RIGS,
    BodyLanguage,
    FacialArtifact,
    FacialScenario,
    Grade,
)
from stepforge_jobs.domains.facial.tables import ACTION_UNITS, DISPLAY_RULES, PAD, RIG_TABLES, WEIGHTS

STEP_END = ";"
MAX_ONSET, MAX_OFFSET = 12, 24
_FRAMES = {f"{part}{n}": n for part, top in (("on", MAX_ONSET), ("off", MAX_OFFSET)) for n in range(1, top + 1)}
_FRAMES |= {f"apex{rule.apex}": rule.apex for rule in DISPLAY_RULES.values()}
_GRADES = frozenset(GRADES)
_SHAPE_UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    rig: {word: tuple(u for u, w in table.shapes.items() if w == word) for word in table.shapes.values()}
    for rig, table in RIG_TABLES.items()
}

PROMPT: tuple[tuple[str, ...], ...] = (
    tuple(f"feel:{emotion}" for emotion in EMOTIONS),
    ("with:nothing", *(f"with:{emotion}" for emotion in EMOTIONS)),
    tuple(f"level{n}" for n in range(1, 6)),
    DISPLAYS,
    PACES,
    RIGS,
    (":",),
)
"""The words of a prompt: one of each group, in this order."""
EXAMPLE = "feel:fear with:surprise level4 felt sudden arkit :"

VOCABULARY: tuple[str, ...] = (
    STEP_END,
    ":",
    *(word for group in PROMPT[:-1] for word in group),
    *ACTION_UNITS,
    *GRADES,
    *dict.fromkeys(word for table in RIG_TABLES.values() for word in table.shapes.values()),
    *_FRAMES,
)


class GrammarError(ValueError):
    """Text that is not an expression in the compact grammar."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the compact text says, before it is expanded."""

    units: tuple[str, ...]
    grades: tuple[Grade, ...]
    """One for each of `units`."""
    shapes: tuple[str, ...]
    onset: int
    """Frames at 60 fps, as are `apex` and `offset`."""
    apex: int
    offset: int


def render_prompt(scenario: FacialScenario) -> str:
    emotions = f"feel:{scenario.primary} with:{scenario.secondary or 'nothing'}"
    return f"{emotions} level{scenario.level} {scenario.display} {scenario.pace} {scenario.rig} :"


def parse_prompt(text: str) -> FacialScenario:
    """Left inverse of `render_prompt`. Raises GrammarError with the first word that is wrong, and how to write it."""
    words = text.split()
    for place, (allowed, word) in enumerate(zip_longest(PROMPT, words), start=1):
        if allowed is None:
            raise GrammarError(f"{text!r} is no prompt: {word!r} stands after its end. {_how_to_write()}")
        if word not in allowed:
            found = "is missing" if word is None else f"is {word!r}"
            needed = f"{'one like ' if len(allowed) > 1 else ''}{allowed[0]!r}"
            raise GrammarError(
                f"{text!r} is no prompt: word {place} {found}, where {needed} belongs. {_how_to_write()}"
            )
    primary, other, level, display, pace, rig, _ = (word.rpartition(":")[2] for word in words)
    plain = {"primary": primary, "level": int(level.removeprefix("level")), "display": display, "pace": pace}
    secondary = None if other == "nothing" else other
    try:
        return FacialScenario.model_validate({**plain, "rig": rig, "secondary": secondary})
    except ValidationError as error:
        raise GrammarError(f"{text!r} cannot be asked: {first_problem(error)}") from error


def _how_to_write() -> str:
    groups = []
    for group in PROMPT:
        key = group[0].partition(":")[0] + ":" if group[0].startswith(("feel:", "with:")) else ""
        groups.append(key + "|".join(word.removeprefix(key) for word in group))
    return f"Write e.g. {EXAMPLE!r}, a word of each group: {' '.join(groups)}"


def render_steps(plan: Plan) -> tuple[str, str, str, str]:
    """The four actions, each with its terminator."""
    graded = (word for pair in zip(plan.units, plan.grades, strict=True) for word in pair)
    timing = (f"on{plan.onset}", f"apex{plan.apex}", f"off{plan.offset}")
    lines = [" ".join((*words, STEP_END)) for words in (plan.units, graded, plan.shapes, timing)]
    return lines[0], lines[1], lines[2], lines[3]


def render(plan: Plan) -> str:
    return "\n".join(render_steps(plan))


def parse(text: str) -> Plan:
    """Left inverse of `render`, whatever the spacing. Raises GrammarError that names the step and the word."""
    words = text.split()
    parts: list[list[str]] = [[]]
    for word in words:
        if word == STEP_END:
            parts.append([])
        else:
            parts[-1].append(word)
    if len(parts) != 5 or parts[4]:
        ends = len(parts) - 1
        raise GrammarError(
            f"an expression has 4 steps, each ended by {STEP_END!r}; this has {ends}, then {len(parts[-1])} words"
        )
    units, graded, shapes, timing, _ = parts
    if not units:
        raise GrammarError("step 1 names no action unit")
    for unit in units:
        if unit not in ACTION_UNITS:
            raise GrammarError(f"step 1: {unit!r} is no action unit: choose among {', '.join(ACTION_UNITS)}")
    if len(set(units)) != len(units):
        raise GrammarError("step 1 names an action unit twice")
    named, letters = graded[::2], graded[1::2]
    if len(named) != len(letters) or len(named) != len(units):
        raise GrammarError(f"step 2 needs a grade for each of the {len(units)} action units of step 1, as in 'AU12 C'")
    grades = dict(zip(named, letters, strict=True))
    if grades.keys() != set(units):
        raise GrammarError(f"step 2 grades {' '.join(named)}, but step 1 has {' '.join(units)}")
    for letter in letters:
        if letter not in _GRADES:
            raise GrammarError(f"step 2: {letter!r} is no grade: write A, B, C, D or E")
    if len(set(shapes)) != len(shapes):
        raise GrammarError("step 3 names a blendshape twice")
    if [word.rstrip("0123456789") for word in timing] != ["on", "apex", "off"] or any(
        word not in _FRAMES for word in timing
    ):
        raise GrammarError(f"step 4 reads {' '.join(timing)!r}: write e.g. 'on4 apex60 off8'")
    onset, apex, offset = (_FRAMES[word] for word in timing)
    return Plan(tuple(units), tuple(grades[unit] for unit in units), tuple(shapes), onset, apex, offset)  # type: ignore[misc]


def salvage(text: str) -> Plan:
    """As much of a broken text as can be read, so that there is a face to look at: never raises."""
    words = text.split()
    units = [word for word in dict.fromkeys(words) if word in ACTION_UNITS]
    letters = {unit: after for unit, after in pairwise(words) if unit in ACTION_UNITS and after in _GRADES}
    shapes = {word for table in RIG_TABLES.values() for word in table.shapes.values()}
    frames = {
        part: n for word in words for part in ("on", "apex", "off") if (n := _FRAMES.get(word)) and word == f"{part}{n}"
    }
    return Plan(
        tuple(units),
        tuple(letters.get(unit, "C") for unit in units),  # type: ignore[misc]
        tuple(word for word in dict.fromkeys(words) if word in shapes),
        frames.get("on", 6),
        frames.get("apex", 60),
        frames.get("off", 12),
    )


def body_language(scenario: FacialScenario) -> BodyLanguage:
    """Posture from the blend's dominance, tempo from its arousal."""
    _, arousal, dominance = blended_pad(scenario)
    return _BODIES[(dominance > 0.1) - (dominance < -0.1), (arousal > 0.1) - (arousal < -0.1)]


def blended_pad(scenario: FacialScenario) -> tuple[float, float, float]:
    """Pleasure, arousal, dominance: the primary emotion counts twice as much as the secondary (ours)."""
    first = PAD[scenario.primary]
    if scenario.secondary is None:
        return first
    second = PAD[scenario.secondary]
    return (2 * first[0] + second[0]) / 3, (2 * first[1] + second[1]) / 3, (2 * first[2] + second[2]) / 3


_BODIES = {
    (d, a): BodyLanguage(posture=("neutral", "expanded", "contracted")[d], tempo=("even", "fast", "slow")[a])  # type: ignore[arg-type]
    for d in (-1, 0, 1)
    for a in (-1, 0, 1)
}


def expand(plan: Plan, scenario: FacialScenario) -> FacialArtifact:
    """The whole artifact that a plan stands for, faults included.

    A blendshape takes the weight of the action unit that drives it, in whichever rig has that name; one that no planned
    unit drives takes the weight of the strongest, so that the fault is seen. Not validated, because rules judge it.
    """
    graded = dict(zip(plan.units, plan.grades, strict=True))
    strongest = max((WEIGHTS[grade] for grade in plan.grades), default=0.0)
    table = RIG_TABLES[scenario.rig]
    first, last = plan.onset, plan.onset + plan.apex
    end = last + plan.offset
    curves: dict[str, tuple[tuple[int, float], ...]] = {}
    for word in plan.shapes:
        drivers = _SHAPE_UNITS[scenario.rig].get(word)
        names: tuple[str, ...] = table.blendshapes(word)
        if drivers is None:
            names, drivers = _foreign(word)
        weight = max((WEIGHTS[graded[unit]] for unit in drivers if unit in graded), default=strongest)
        curve = ((0, 0.0), (first, weight), (last, weight), (end, 0.0))
        for name in names:
            curves[name] = curve
    return FacialArtifact.model_construct(
        version=1, rig=scenario.rig, fps=60, action_units=graded, curves=curves, body=body_language(scenario)
    )


def _foreign(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for rig, units in _SHAPE_UNITS.items():
        if word in units:
            return RIG_TABLES[rig].blendshapes(word), units[word]  # type: ignore[index]
    return (word,), ()
