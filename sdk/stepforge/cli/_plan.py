"""`stepforge plan` and `stepforge submit`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from stepforge.cli import _follow, _local, _runs
from stepforge.cli._output import columns, emit, say
from stepforge.cli._spending import allowed
from stepforge.client import Client
from stepforge.contracts.base import first_problem
from stepforge.contracts.jobs import JobSpec, Resources
from stepforge.economics.estimate import Estimate, Range
from stepforge.economics.prices import STALE_DAYS
from stepforge.errors import InvalidInput, StepforgeError
from stepforge.plans import Budget, JobPlan, Plan, Planner, dollars
from stepforge.submitting.inputs import Inputs, prepare
from stepforge.submitting.submission import Submission, submit_after
from stepforge.submitting.submission import submit as submit_job

_SOURCES = {
    "same work": "{n} earlier of the same work",
    "same stage": "{n} earlier of the stage, scaled",
    "same type": "{n} earlier of the type, scaled",
    "guess": "a guess: nothing of the kind has run yet",
}
_ACTIONS = {"create": "will run", "later": "will run later", "adopt": "adopted"}


@dataclass(frozen=True)
class Given:
    """What is planned, as the command line has it."""

    domain: str | None = None
    data: Path | None = None
    verifier: str | None = None
    model: Path | None = None
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    job: Path | None = None
    max_usd: float | None = None
    checks: bool = True
    env: str = "local"


@dataclass(frozen=True)
class _Planned:
    client: Client
    plan: Plan
    budget: Budget | None
    inputs: Inputs | None = None
    spec: JobSpec | None = None
    resources: Resources | None = None


def plan(given: Given, *, as_json: bool) -> None:
    """Print the plan; then what `submit` would refuse it for, with its exit code."""
    with _planned(given) as planned:
        _print(planned.plan, planned.budget, as_json=as_json)


def _print(found: Plan, budget: Budget | None, *, as_json: bool, shown: int | None = None) -> None:
    refusal = None
    try:
        found.refuse(budget)
    except StepforgeError as error:
        refusal = error
    plain = _plain(found, budget)
    plain["refused"] = refusal and {"error": type(refusal).__name__, "message": str(refusal)}
    emit(plain, as_json=as_json, text="\n".join(_lines(found, budget, shown=shown)))
    if refusal is None:
        return
    if as_json:
        raise typer.Exit(refusal.exit_code)  # one document on stdout, and it says why
    raise refusal


def submit(given: Given, *, yes: bool, dry_run: bool, wait: bool, as_json: bool) -> None:
    """Do what the plan says: refuse, ask, upload, start."""
    with _planned(given) as planned:
        found = planned.plan
        if dry_run:
            found.refuse(planned.budget)
            _print_requests(found)
            return
        if not as_json:
            say("\n".join(_lines(found, planned.budget)))
        found.refuse(planned.budget)
        if found.creates:
            _local.confirm(f"Submit {found.name}{_cost_words(found)}?", yes=yes, as_json=as_json)
        if planned.spec is not None:
            _submit_job(planned, planned.spec, yes=yes, wait=wait, as_json=as_json)
            return
        assert planned.inputs is not None  # a pipeline has inputs
        run = planned.client.pipelines.start(planned.client.bind(planned.inputs))
    say(f"run {run.name} ({run.execution.status.lower()})")
    if wait:
        _runs.follow(run, as_json=as_json)
    else:
        emit({"run": run.name, "status": run.execution.status}, as_json=as_json)


def _submit_job(planned: _Planned, spec: JobSpec, *, yes: bool, wait: bool, as_json: bool) -> None:
    connection, resources, budget = planned.client.connection, planned.resources, planned.budget
    done = submit_job(connection, spec, resources, told=say)
    if not wait:
        emit({"job": done.name, "action": done.action}, as_json=as_json, text=done.name)
        return
    asked = yes or planned.plan.creates

    def go_on(ended: dict[str, Any]) -> Submission | None:
        if not asked:
            return None  # what was adopted costs nothing more, and another attempt does
        # Of a job that was adopted nothing was planned; of another's attempts meanwhile neither.
        Planner(connection).job(spec, resources or Resources(), checks=False).refuse(budget)
        return submit_after(connection, spec, ended, resources)

    say(f"{done.name} ({'created' if done.action == 'create' else 'adopted'})")
    _follow.follow_job(planned.client, done, as_json=as_json, go_on=go_on)


def agree(
    client: Client,
    found: Plan,
    *,
    max_usd: float | None,
    dry_run: bool,
    as_json: bool,
    shown: int,
    recipe_usd: float | None = None,
) -> bool:
    """Whether to go on: a dry run prints the plan instead, as `plan` does. Raises what stands in the way of it.

    At most `shown` jobs are listed for people.
    """
    budget = allowed(client, recipe_usd, max_usd)
    if dry_run:
        _print(found, budget, as_json=as_json, shown=shown)
        return False
    found.refuse(budget)
    return True


@contextmanager
def _planned(given: Given) -> Iterator[_Planned]:
    if given.job is not None:
        others = (given.domain, given.data, given.verifier, given.model, given.recipe, given.overrides or None)
        if any(other is not None for other in others):
            raise InvalidInput("--job is one job by itself: leave --domain, --data, --recipe, --model and --set out")
        client = Client(given.env)
        spec, resources = read_job(given.job, client)
        found = Planner(client.connection).job(spec, resources, checks=given.checks)
        yield _Planned(client, found, allowed(client, None, given.max_usd), None, spec, resources)
        return
    _runs.check_has_model(given.data, given.model)
    chosen = _runs.chosen_recipe(
        given.domain, data=given.data, verifier=given.verifier, recipe=given.recipe, overrides=given.overrides
    )
    with prepare(chosen, model=given.model, data=given.data, verifier=given.verifier) as inputs:
        client = Client(given.env)
        found = Planner(client.connection).pipeline(client.bind(inputs, dry_run=True), checks=given.checks)
        yield _Planned(client, found, allowed(client, chosen.budget_usd, given.max_usd), inputs)


def read_job(path: Path, client: Client) -> tuple[JobSpec, Resources]:
    """A job from a JSON file: the fields of a JobSpec, and `resources` beside them where the defaults will not do.

    Without `code_sha256` it is what the environment publishes. Raises InvalidInput for what is malformed.
    """
    environment = client.connection.environment
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"job {path} cannot be read: {error}") from error
    except RecursionError as error:
        raise InvalidInput(f"job {path} cannot be read: it is nested deeper than any JobSpec") from error
    if not isinstance(plain, dict):
        raise InvalidInput(f"job {path} is no JSON object: write the fields of a JobSpec (docs/schemas/JobSpec.json)")
    default = {"instance_type": environment.instance_types["train"]} if "train" in environment.instance_types else {}
    given = plain.pop("resources", {})
    work = plain.get("work")
    kind = work.get("type") if isinstance(work, dict) else None
    if isinstance(kind, str) and kind in environment.code:
        plain.setdefault("code_sha256", environment.code[kind])
    try:
        resources = Resources.model_validate({**default, **given} if isinstance(given, dict) else given)
        return JobSpec.model_validate(plain), resources
    except ValidationError as error:
        raise InvalidInput(f"job {path}: {first_problem(error, fields=JobSpec.model_fields)}") from error


def _print_requests(found: Plan) -> None:
    """The requests as they would be sent, as JSON whatever --json says."""
    print(json.dumps(list(found.requests), indent=2, default=str))
    later = [job.stage for job in found.jobs if job.action == "later"]
    if later:
        say(f"not shown: {', '.join(later)}, whose names and inputs depend on what the jobs before them put out")


# ── What is printed ──────────────────────────────────────────────────────────────────────────────


def _plain(found: Plan, budget: Budget | None) -> dict[str, Any]:
    return {
        "name": found.name,
        "action": found.action,
        "region": found.region,
        "billed": found.billed,
        "jobs": [
            {
                "stage": job.stage,
                "type": job.type,
                "action": job.action,
                "job": job.name or None,
                "status": job.status,
                "instance_type": job.instance_types[0],
                "fallback_instance_types": list(job.instance_types[1:]),
                "instance_count": job.resources.instance_count,
                "spot": job.resources.spot,
                "estimate": None if job.estimate is None else asdict(job.estimate),
            }
            for job in found.jobs
        ],
        "last_run": found.last_run or None,
        "changes": [change.plain for change in found.changes],
        "seconds": asdict(found.seconds),
        "usd": None if found.usd is None else asdict(found.usd),
        "unpriced": list(found.unpriced),
        "stale_prices": [price.model_dump(mode="json") for price in found.stale_prices],
        "budget": None if budget is None else asdict(budget),
        "problems": [asdict(problem) for problem in found.problems],
        "checks": [asdict(check) for check in found.checks],
        "skipped": list(found.skipped),
    }


def _lines(found: Plan, budget: Budget | None, *, shown: int | None = None) -> list[str]:
    rows = [
        (
            job.stage,
            job.name or "named by what comes before it",
            _what(job),
            _machine(job),
            _duration(job.estimate),
            _usd(job.estimate.usd) if job.estimate else "-",
            _source(job.estimate),
        )
        for job in found.jobs[:shown]
    ]
    left = len(found.jobs) - len(rows)
    verb = "is adopted" if found.action == "adopt" else "will be created"
    return [
        f"{found.name} {verb}",
        *columns(["STAGE", "JOB", "", "INSTANCE", "TIME", "USD", "ESTIMATED FROM"], rows),
        *([f"... and {left} more jobs"] if left else []),
        *_difference(found),
        *_money(found, budget),
        *(f"{check.result}: {check.what}{': ' if check.detail else ''}{check.detail}" for check in found.checks),
        *(f"would be refused: {problem}" for problem in found.problems),
        *(f"warning: passed over by the estimates: {why}" for why in found.skipped),
    ]


def _what(job: JobPlan) -> str:
    if job.action == "adopt":
        adopted = {"Completed": "done, adopted", "InProgress": "running, adopted"}
        return adopted.get(job.status, "to come, of the run that is adopted")
    again = {
        "Failed": "failed, will run again",
        "Stopped": "stopped, will run again",
        "Stopping": "stopping, will run again after that",
    }
    return again.get(job.status, _ACTIONS[job.action])


def _machine(job: JobPlan) -> str:
    resources = job.resources
    count = f"{resources.instance_count} x " if resources.instance_count > 1 else ""
    return f"{count}{' or '.join(job.instance_types)}{', spot' if resources.spot else ''}"


def _difference(found: Plan) -> list[str]:
    if not found.last_run:
        return []
    if not found.changes:
        return [f"nothing differs from {found.last_run}"]
    return [f"against {found.last_run}:", *(f"  {line}" for change in found.changes for line in change.lines)]


def _money(found: Plan, budget: Budget | None) -> list[str]:
    if not found.creates:
        return ["nothing new would run: it costs nothing more"]
    dates = sorted({job.estimate.price_as_of for job in found.jobs if job.estimate and job.estimate.price_as_of})
    as_of = f", prices of {found.region} as of {' and '.join(map(str, dates))}" if dates else ""
    lines = [f"in all: {_seconds_range(found.seconds)}, {_usd(found.usd)}{as_of}"]
    if not found.billed:
        lines.append("nothing is billed on this machine: that is what the same jobs would cost on AWS")
    lines += [f"no price is known for {kind}: `stepforge prices refresh`, or `prices set`" for kind in found.unpriced]
    lines += [
        f"the price of {row.instance_type} is of {row.as_of}, over {STALE_DAYS} days ago: `stepforge prices refresh`"
        for row in found.stale_prices
    ]
    if budget is not None:
        lines.append(f"budget: {dollars(budget.usd)} ({budget.by}), held against the upper end")
    return lines


def _cost_words(found: Plan) -> str:
    if not found.billed:
        return ""
    return f" for {_usd(found.usd)}" if found.usd is not None else " at an unknown price"


def _source(estimate: Estimate | None) -> str:
    return "-" if estimate is None else _SOURCES[estimate.source].format(n=estimate.attempts)


def _duration(estimate: Estimate | None) -> str:
    return "-" if estimate is None else _seconds_range(estimate.seconds)


def _seconds_range(seconds: Range) -> str:
    return f"{_runs.duration(seconds.middle)} ({_runs.duration(seconds.low)} to {_runs.duration(seconds.high)})"


def _usd(usd: Range | None) -> str:
    return "unknown" if usd is None else f"{dollars(usd.middle)} ({dollars(usd.low)} to {dollars(usd.high)})"
