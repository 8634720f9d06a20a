"""What half an answer earns in the facial domain: each target answered with the expert's solution of another scenario.

    python -m tests.benchmarks.held_out.half_answers

Prints, a line for each kind of half answer, how many are accepted of those that differ from the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stepforge.contracts.domains.facial import EMOTIONS, FacialScenario
from stepforge_jobs.domains.facial import grammar
from stepforge_jobs.domains.facial.expert import solve
from stepforge_jobs.domains.facial.rules import judge
from stepforge_jobs.domains.facial.scenarios import ordered, targets

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


KINDS: dict[str, Others] = {
    "without the second emotion": changed(secondary=None),
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


def main() -> None:
    for name, pool in POOLS.items():
        print(f"{name}: {len(pool)} scenarios")
        for kind, others in KINDS.items():
            count, different, same = accepted(pool, others)
            print(f"  {kind}: {count} of {different} accepted; {same} more are the right answer")
    for split in ("test_known", "test_new"):
        best = max(accepted(POOLS[split], lambda _, one=one: iter((one,)))[0] for one in ordered("rl", 0)[:600])
        print(f"best constant answer on {split}: {best} of 200")


if __name__ == "__main__":
    main()
