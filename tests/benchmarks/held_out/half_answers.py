"""What half an answer earns in the facial domain: each target answered with the expert's solution of another scenario.

    python -m tests.benchmarks.held_out.half_answers

Each target is answered with the expert's solution of another scenario, then with faces of its first emotion alone: the
prototype, whole or without one unit, and the published faces. Prints how many are accepted of those that are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

from stepforge.contracts.domains.facial import EMOTIONS, GRADES, Emotion, FacialScenario
from stepforge_jobs.domains.facial import grammar
from stepforge_jobs.domains.facial.expert import display_grade, displayed, in_order, onset_frames, solve
from stepforge_jobs.domains.facial.rules import judge
from stepforge_jobs.domains.facial.scenarios import ordered, targets
from stepforge_jobs.domains.facial.tables import COMPOUNDS, OPTIONAL, PROTOTYPES, RIG_TABLES, WEIGHTS

Others = Callable[[FacialScenario], Iterator[FacialScenario]]


def changed(**fields: object) -> Others:
    return lambda scenario: iter((scenario.model_copy(update=fields),))


def second_alone(scenario: FacialScenario) -> Iterator[FacialScenario]:
    yield scenario.model_copy(update={"primary": scenario.secondary, "secondary": None})


def swapped(scenario: FacialScenario) -> Iterator[FacialScenario]:
    yield scenario.model_copy(update={"primary": scenario.secondary, "secondary": scenario.primary})


def level_off(by: int) -> Others:
    def others(scenario: FacialScenario) -> Iterator[FacialScenario]:
        if 1 <= scenario.level + by <= 5:
            yield scenario.model_copy(update={"level": scenario.level + by})

    return others


def other_second(scenario: FacialScenario) -> Iterator[FacialScenario]:
    for emotion in EMOTIONS:
        if emotion not in (scenario.primary, scenario.secondary):
            yield scenario.model_copy(update={"secondary": emotion})


BLIND = "without the second emotion"
KINDS: dict[str, Others] = {
    BLIND: changed(secondary=None),
    "the second emotion alone": second_alone,
    "the emotions swapped": swapped,
    "another second emotion": other_second,
    "one level too strong": level_off(1),
    "two levels too weak": level_off(-2),
    "no display rule": changed(display="felt"),
}
POOLS = {
    "all targets": targets(),
    "test_known": ordered("test_known", 0)[:200],
    "test_new": ordered("test_new", 0)[:200],
}


def accepted(pool: tuple[FacialScenario, ...], others: Others) -> tuple[int, int, int]:
    """Half answers accepted, half answers that differ from the right one, and those that do not."""
    count, different, same = 0, 0, 0
    for scenario in pool:
        right = solve(scenario)
        for other in others(scenario):
            plan = solve(other)
            if plan == right:
                same += 1
                continue
            different += 1
            count += judge(scenario, grammar.expand(plan, scenario)).accepted
    return count, different, same


def faces_of(emotion: Emotion) -> set[frozenset[str]]:
    """Action units of one emotion alone, as the published tables have it and with one unit forgotten."""
    prototype = frozenset(PROTOTYPES[emotion])
    faces = {prototype, prototype | OPTIONAL.get(emotion, frozenset())}
    faces |= {prototype - {unit} for unit in prototype}
    if row := COMPOUNDS.get(frozenset({emotion})):
        faces |= {row.core | set(also) for n in range(len(row.also) + 1) for also in combinations(sorted(row.also), n)}
    return faces


def shows(scenario: FacialScenario, face: frozenset[str]) -> bool:
    """Whether a face of the first emotion alone, displayed, graded and timed as that emotion, is accepted."""
    alone = scenario.model_copy(update={"secondary": None})
    units = displayed(in_order(set(face)), alone)
    grades = tuple(GRADES[display_grade(alone, unit)] for unit in units)
    shapes = tuple(dict.fromkeys(RIG_TABLES[scenario.rig].shapes[unit] for unit in units))
    onset = onset_frames(alone, max((WEIGHTS[grade] for grade in grades), default=0.1))
    plan = replace(solve(alone), units=units, grades=grades, shapes=shapes, onset=onset, offset=2 * onset)
    return judge(scenario, grammar.expand(plan, scenario)).accepted


def best_blind(pool: tuple[FacialScenario, ...]) -> int:
    """Accepted answers of the best policy with one face for each first emotion, which never reads the second."""
    return sum(
        max(
            sum(shows(scenario, face) for scenario in pool if scenario.primary == emotion) for face in faces_of(emotion)
        )
        for emotion in EMOTIONS
    )


def main() -> None:
    for name, pool in POOLS.items():
        hidden = sum(solve(one) == solve(next(KINDS[BLIND](one))) for one in pool)
        print(f"{name}: {len(pool)} scenarios")
        print(f"  the best face for each first emotion: {best_blind(pool)} accepted; for {hidden} the second is hidden")
        for kind, others in KINDS.items():
            count, different, same = accepted(pool, others)
            print(f"  {kind}: {count} of {different} accepted; {same} more are the right answer")
    for split in ("test_known", "test_new"):
        best = max(accepted(POOLS[split], lambda _, one=one: iter((one,)))[0] for one in ordered("rl", 0)[:600])
        print(f"best constant answer on {split}: {best} of 200")


if __name__ == "__main__":
    main()
