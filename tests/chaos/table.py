"""`python -m tests.chaos.table` runs every task of every machine into every class of error and writes docs/failures.md.

`--check` says whether the file is what happens. It takes about 20 s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .faults import CLASSES, inject
from .scenarios import SCENARIOS, Scenario, leftovers, name_of
from .tunes import settle
from .world import World, build

Json = Any
FILE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"


@dataclass(frozen=True)
class Outcome:
    """What one fault led to."""

    said: str
    """For the table."""
    left: tuple[str, ...]
    """What was left over at the end; has to be nothing."""
    reached: bool


def cases() -> Iterator[tuple[Scenario, str, str]]:
    for scenario in SCENARIOS:
        for task in scenario.tasks:
            for fault in CLASSES:
                yield scenario, task, fault


def play(scenario: Scenario, task: str, fault: str) -> Outcome:
    """Run a scenario into a fault, let the schedule sweep, and run it again without the fault."""
    with pytest.MonkeyPatch.context() as patch:
        world = build(patch)
        identity, plain = scenario.prepare(world)
        world.faults[scenario.machine, task] = lambda attempt: inject(world, attempt, fault)
        first = world.start(scenario.machine, name_of(scenario, identity, 1), plain)
        reached = (scenario.machine, task) in world.seen
        # What made the scenario fail by itself is over too.
        world.faults.clear()
        world.job_ends = None
        said = described(scenario, first)
        left: list[str] = []
        if scenario.machine == "finetune":
            settle(world, first)
            # Nobody may ever start it again.
            left += leftovers(world, scenario)
        if scenario.machine == "promote":
            said += _swept(world)
        elif first["status"] != "SUCCEEDED":
            if scenario.machine == "approve":
                world.answers = [{"approved": True, "by": "ada", "reason": "again"}]
            again = world.start(scenario.machine, name_of(scenario, identity, 2), plain)
            if scenario.machine == "finetune":
                settle(world, again)
            said += "" if again["status"] == "SUCCEEDED" else f", and the next run {described(scenario, again)}"
        return Outcome(said, tuple(dict.fromkeys([*left, *leftovers(world, scenario)])), reached)


def _swept(world: World) -> str:
    """Let the sweep run as the schedule would, and what it starts."""
    said = ""
    for _ in range(2):
        decisions = world.handle("on_approval", {"detail-type": "Scheduled Event"})
        for decision in decisions:
            if decision["action"] == "removed":
                said += "; the sweep removes the candidate"
        while world.states.started:
            started = world.states.started.pop(0)
            ended = world.start("promote", started["name"], started["input"])
            said += "; the sweep promotes it" if ended["status"] == "SUCCEEDED" else f"; swept: {ended['error']}"
    return said


def described(scenario: Scenario, execution: Json) -> str:
    status = execution["status"]
    if status == "SUCCEEDED":
        return "goes on"
    return "stopped" if status == "ABORTED" else f"fails: `{execution.get('error')}`"


HEAD = """# What happens when something fails

Each task of each machine was run into each class of error, on the interpreter of the local AWS with the real handlers;
`python -m tests.chaos.table` writes this page and a test fails where it is stale. After each, what the schedule would
do was done (the sweep of promotions), and another execution was started without the fault. No job or execution was
left running, no model registered twice or without its lineage, no candidate endpoint, and the endpoint served the one
version whose stage is Production. Of a paid tune, also where nobody starts it again: no job ran at the vendor, none
was charged twice, and the spend ledger said of its job and its money what the vendor would. A tune that is cancelled
with its execution stays cancelled: another is a second charge, which `attempt` in the plan asks for.

"goes on": the machine retries, or does without, and ends as it would have. What a failure is followed by stands behind
it where the next run does not simply succeed, adopting what was done. "ends as" is what the way through the machine
ends with where nothing is put in: tasks that clean up are reached by a failure alone.

"""


def text(outcomes: dict[tuple[str, str, str, str], Outcome]) -> str:
    lines = [HEAD, *(f"- **{name}**: {meaning}\n" for name, meaning in CLASSES.items())]
    machines = list(dict.fromkeys(scenario.machine for scenario in SCENARIOS))
    for machine in machines:
        lines.append(f"\n## {machine}\n\n| task | ends as | {' | '.join(CLASSES)} |\n")
        lines.append(f"|---|---|{'---|' * len(CLASSES)}\n")
        for scenario in (s for s in SCENARIOS if s.machine == machine):
            for task in scenario.tasks:
                cells = [outcomes[machine, scenario.prepare.__name__, task, fault].said for fault in CLASSES]
                ends = f"`{scenario.error}`" if scenario.error else "success"
                lines.append(f"| {task} | {ends} | {' | '.join(cells)} |\n")
    return "".join(lines)


def play_all() -> dict[tuple[str, str, str, str], Outcome]:
    return {
        (scenario.machine, scenario.prepare.__name__, task, fault): play(scenario, task, fault)
        for scenario, task, fault in cases()
    }


def main(arguments: list[str]) -> int:
    outcomes = play_all()
    if "--check" in arguments:
        return int(FILE.read_text(encoding="utf-8") != text(outcomes))
    FILE.write_text(text(outcomes), encoding="utf-8")
    bad = {key: outcome.left for key, outcome in outcomes.items() if outcome.left or not outcome.reached}
    for key, left in bad.items():
        print(*key, *(left or ("was not reached",)), sep=": ")
    print(f"wrote {FILE}: {len(outcomes)} outcomes, {len(bad)} of them with something left over")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
