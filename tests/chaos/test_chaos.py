"""Whatever fails, nothing is left running, half-registered or deployed; and docs/failures.md says what happens."""

from __future__ import annotations

import pytest

from stepforge.contracts.names import MACHINES
from tests.infra.machines import TASKS

from .faults import CLASSES
from .scenarios import SCENARIOS, Scenario
from .table import FILE, play, play_all, text

PROVIDERS = {("promote", "AskProvider"), ("promote", "StampExternal")}
"""With the machine `finetune` they need a provider: its faults are in tests/{unit,functional}/finetune."""


def test_every_task_of_every_machine_of_ours_is_in_a_way_through_it() -> None:
    ours = {(machine, task) for machine, task in TASKS if machine != "finetune"} - PROVIDERS
    assert {(s.machine, task) for s in SCENARIOS for task in s.tasks} == ours
    assert {s.machine for s in SCENARIOS} == set(MACHINES) - {"finetune"}


# The ways on which something was left over before it was mended, and one of each class.
SOME = [
    ("run_job", "Create", "duplicate"),
    ("run_job", "Create", "quota"),
    ("run_job", "Create", "capacity"),
    ("train", "Register", "duplicate"),
    ("train", "ChampionEvaluation", "algorithm"),
    ("promote", "CheckLive", "malformed"),
    ("promote", "SmokeCandidate", "cancelled"),
    ("promote", "Stamp", "malformed"),
    ("promote", "DeployLive", "time-out"),
    ("promote_that_fails_live", "RollBack", "algorithm"),
    ("promote_that_fails_live", "RollBack", "malformed"),
    ("approve", "Ask", "throttled"),
]


def by_name(name: str) -> Scenario:
    return next(s for s in SCENARIOS if s.prepare.__name__ == name)


@pytest.mark.parametrize(("way", "task", "fault"), SOME)
def test_a_fault_leaves_nothing_behind(way: str, task: str, fault: str) -> None:
    found = play(by_name(way), task, fault)
    assert found.reached
    assert found.left == ()


def test_what_passes_by_itself_is_waited_out() -> None:
    for fault in ("throttled", "quota"):
        for way, task in (("run_job", "Create"), ("promote", "Verify"), ("evaluate", "Evaluation")):
            assert play(by_name(way), task, fault).said == "goes on", (way, task, fault)


def test_a_machine_without_its_clean_up_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check on a promotion whose failures end at once finds what is left."""
    import json

    from . import world

    real = world.definition

    def careless(machine: str) -> str:
        plain = json.loads(real(machine))
        if machine == "promote":
            for state in plain["States"].values():
                for catcher in state.get("Catch", []):
                    catcher["Next"] = "Explain"
        return json.dumps(plain)

    monkeypatch.setattr(world, "definition", careless)
    monkeypatch.setattr("tests.chaos.table._swept", lambda world: "")
    assert play(by_name("promote"), "SmokeCandidate", "algorithm").left == ("the candidate endpoint runs",)


@pytest.mark.slow
def test_every_task_in_every_class_of_error_leaves_nothing_and_the_table_says_so() -> None:
    outcomes = play_all()
    assert len(outcomes) == len(CLASSES) * sum(len(s.tasks) for s in SCENARIOS)
    assert {key: outcome.left for key, outcome in outcomes.items() if outcome.left} == {}
    assert [key for key, outcome in outcomes.items() if not outcome.reached] == []
    assert FILE.read_text(encoding="utf-8") == text(outcomes), "run `python -m tests.chaos.table`"
