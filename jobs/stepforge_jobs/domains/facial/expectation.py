"""What a scenario asks of an expression, worked out once for all rules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from stepforge.contracts.domains.facial import Emotion, FacialArtifact, FacialScenario
from stepforge_jobs.domains.facial.expert import OWN_UNITS, blend, display_grade, displayed
from stepforge_jobs.domains.facial.grammar import body_language
from stepforge_jobs.domains.facial.tables import (
    ACTION_UNITS,
    ALTERNATIVE,
    COMPOUNDS,
    OPTIONAL,
    PROTOTYPES,
    RIG_TABLES,
    Published,
    RigTable,
)


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a scenario asks for, worked out once."""

    scenario: FacialScenario
    references: tuple[Published, ...]
    """Sets of action units that count as right: the blend of the prototypes, and the published face of the pair."""
    evidence: dict[Emotion, frozenset[str]]
    """What tells each of two emotions: units of its published faces that no published face of the other alone has.

    Where the blend brings none of these, what it adds to the other's prototype; without an entry where antagonists and
    the display rule let it add nothing."""
    grades: dict[str, int]
    rig: RigTable
    posture: str
    tempo: str


@lru_cache(maxsize=4096)
def expect(scenario: FacialScenario) -> Expectation:
    emotions = [scenario.primary, *([scenario.secondary] if scenario.secondary else [])]
    tolerated = frozenset[str]().union(*(OPTIONAL.get(emotion, frozenset()) for emotion in emotions))
    units = frozenset(displayed(blend(scenario), scenario))
    references = [Published(units, frozenset() if scenario.display == "masked" else tolerated)]
    published = COMPOUNDS.get(frozenset(emotions))
    if published and scenario.display != "masked":
        references.append(
            Published(
                *(_as_one(frozenset(displayed(tuple(part), scenario))) for part in (published.core, published.also))
            )
        )
    body = body_language(scenario)
    grades = {unit: display_grade(scenario, unit) for unit in ACTION_UNITS}
    evidence = {
        one: told if (told := OWN_UNITS[one] - OWN_UNITS[other]) & brought else brought
        for one, other in permutations(emotions, 2)
        if (brought := units - frozenset(displayed(PROTOTYPES[other], scenario)))
    }
    rig = RIG_TABLES[scenario.rig]
    return Expectation(scenario, tuple(references), evidence, grades, rig, body.posture, body.tempo)


def shown_units(artifact: FacialArtifact) -> set[str]:
    """The artifact's action units, an alternative read as the unit that it stands for where that is not shown too."""
    shown = artifact.action_units.keys()
    return {unit if (other := ALTERNATIVE.get(unit, unit)) in shown else other for unit in shown}


def _as_one(units: frozenset[str]) -> frozenset[str]:
    """With an alternative such as AU24 read as the unit that it stands for."""
    return frozenset(ALTERNATIVE.get(unit, unit) for unit in units)


def closeness(asked: Expectation, artifact: FacialArtifact) -> float:
    """F1 of the artifact's action units against the reference that they are closest to."""
    shown = shown_units(artifact)
    best = 0.0
    for reference in asked.references:
        counted = shown - (reference.also - reference.core)
        best = max(best, 2 * len(counted & reference.core) / max(1, len(counted) + len(reference.core)))
    return best
