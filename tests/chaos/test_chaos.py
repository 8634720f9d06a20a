"""Whatever fails, nothing is left running, half-registered or deployed; and docs/failures.md says what happens."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.contracts.names import MACHINES
from tests.infra.machines import LOCAL, TASKS, resources

from .faults import CLASSES, inject
from .scenarios import GROUP, SCENARIOS, Scenario, leftovers, name_of, put_package, serve
from .table import FILE, play, play_all, text
from .tunes import STATUSES, settle, tune_leftovers
from .world import STEM, World, build


def test_every_task_of_every_machine_of_ours_is_in_a_way_through_it() -> None:
    assert {(s.machine, task) for s in SCENARIOS for task in s.tasks} == set(TASKS)
    assert {s.machine for s in SCENARIOS} == set(MACHINES)


def test_the_end_of_a_tune_is_heard_as_the_template_has_it() -> None:
    patterns = [rule.get("EventPattern", {}) for rule in resources(LOCAL, "AWS::Events::Rule").values()]
    heard = [pattern["detail"]["status"] for pattern in patterns if "aws.states" in pattern.get("source", ())]
    assert heard == [list(STATUSES)]


def by_name(name: str) -> Scenario:
    return next(s for s in SCENARIOS if s.prepare.__name__ == name)


def test_a_vendor_that_is_left_alone_with_its_job_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.tunes.STATUSES", ())
    assert "job-0 runs at the vendor" in play(by_name("tune"), "Look", "cancelled").left
    assert "the ledger counts 3 USD" in play(by_name("tune"), "Launch", "algorithm").left


@pytest.mark.parametrize("later", ["looks", "is stopped"])
def test_the_event_of_an_earlier_execution_does_not_cancel_what_a_later_one_watches(
    later: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(monkeypatch)
    identity, plain = by_name("tune").prepare(world)
    world.faults["finetune", "Look"] = lambda attempt: inject(world, attempt, "cancelled")
    world.settled.add(earlier := f"{STEM}:execution:finetune:{name_of(by_name('tune'), identity, 1)}")
    first = world.start("finetune", name_of(by_name("tune"), identity, 1), plain)
    assert [job.state.terminal for job in world.vendor.jobs.values()] == [False]
    if later == "looks":
        world.before["finetune", "Look"] = lambda: late(world, first, earlier)
        world.faults.clear()
    second = world.start("finetune", name_of(by_name("tune"), identity, 2), plain)
    settle(world, second)
    assert second["status"] == ("SUCCEEDED" if later == "looks" else "ABORTED")
    assert tune_leftovers(world) == []


@pytest.mark.parametrize("served", [True, False], ids=["a version serves", "nothing serves"])
def test_a_promotion_that_waited_goes_back_to_what_went_live_meanwhile(
    served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(monkeypatch)
    scenario = by_name("promote_that_fails_live")
    identity, plain = scenario.prepare(world)
    if not served:
        world.sagemaker.endpoints.clear()
    world.before["promote", "SmokeCandidate"] = lambda: serve_another(world)
    ended = world.start("promote", name_of(scenario, identity, 1), plain)
    assert ended["error"] == "SmokeFailed"
    assert "-v3-" in world.sagemaker.endpoints[GROUP]["EndpointConfigName"]
    assert leftovers(world, scenario) == []


@pytest.mark.parametrize("task", ["CheckLive", "SmokeLive", "Stamp"])
def test_what_is_rejected_before_it_is_promoted_is_rolled_back(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build(monkeypatch)
    scenario = by_name("promote")
    identity, plain = scenario.prepare(world)
    package = plain["package_arn"]

    def reject() -> None:
        world.sagemaker.packages[package] |= {"ModelApprovalStatus": "Rejected"}

    world.before["promote", task] = reject
    ended = world.start("promote", name_of(scenario, identity, 1), plain)
    assert ended["error"] == "ArtifactRefused"
    assert leftovers(world, scenario) == []
    assert world.sagemaker.packages[package]["ModelLifeCycle"]["Stage"] == "Development"


def serve_another(world: World) -> None:
    """What another promotion, of version 3, does while it has the candidate."""
    (old,) = (p for p in world.sagemaker.packages.values() if p.get("ModelLifeCycle", {}).get("Stage") == "Production")
    old["ModelLifeCycle"] = {"Stage": "Archived", "StageStatus": "Superseded"}
    serving = {"Stage": "Production", "StageStatus": "Serving"}
    serve(world, put_package(world, "meanwhile", "Approved", ModelLifeCycle=serving))


def late(world: World, execution: Any, arn: str) -> None:
    world.settled.discard(arn)
    settle(world, execution)


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


def test_every_task_in_every_class_of_error_leaves_nothing_and_the_table_says_so() -> None:
    outcomes = play_all()
    assert len(outcomes) == len(CLASSES) * sum(len(s.tasks) for s in SCENARIOS)
    assert {key: outcome.left for key, outcome in outcomes.items() if outcome.left} == {}
    assert [key for key, outcome in outcomes.items() if not outcome.reached] == []
    waited_out = [("run-job", "Create"), ("promote", "Verify"), ("evaluate", "Evaluation")]
    said = [outcomes[machine, machine.replace("-", "_"), task, fault].said for machine, task in waited_out
            for fault in ("throttled", "quota")]  # fmt: skip
    assert set(said) == {"goes on"}
    assert FILE.read_text(encoding="utf-8") == text(outcomes), "run `python -m tests.chaos.table`"
