"""What a submission would do, told before anything is sent: jobs, differences, time, cost, quotas, rights, mistakes.

A plan changes nothing. Jobs whose identity depends on the outputs of earlier ones are said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from stepforge.connection import LOCAL, Connection
from stepforge.contracts.economics import LedgerEntry, Price
from stepforge.contracts.jobs import JobRequest, JobSpec, Resources
from stepforge.contracts.names import Machine, execution_name, job_name
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.requests import AssemblySpec, EvaluationSpec
from stepforge.contracts.work import Work, WorkType
from stepforge.economics import estimate as estimates
from stepforge.economics import ledger, prices
from stepforge.economics.estimate import Estimate, Range, Wanted
from stepforge.economics.prices import Prices
from stepforge.errors import IdentityConflict, IntegrityError, InvalidInput, OverBudget, UnknownPrice
from stepforge.following.job_runs import request_of
from stepforge.jobs import JobState, attempts_of
from stepforge.machines import attempts, executions
from stepforge.machines.assembly import joined_dataset
from stepforge.machines.planning import pipeline_job_request, pipeline_model, read_pipeline
from stepforge.pipelines import Pipelines
from stepforge.plans.checks import Check, check_permissions, check_quotas
from stepforge.plans.differences import Change, differences
from stepforge.plans.validation import Problem, check_limits, check_request
from stepforge.submitting.submission import spec_request, training_request

Action = Literal["create", "adopt", "later"]
_RUNS = 10
"""How many of the newest runs are looked through for the last one of the domain."""
_NO_IDENTITY = "0" * 12
_DATASET: tuple[WorkType, WorkType] = ("dataset", "gate")
_AT_ONCE = 8


@dataclass(frozen=True)
class JobPlan:
    """One job: what would become of it."""

    stage: str
    type: WorkType
    action: Action
    """`create` it, `adopt` one that runs or is done, or `later`: what it is depends on the jobs before it. A run
    that is adopted has `adopt` for all: what is to come is its own."""
    name: str
    """Empty for a later one."""
    status: str
    resources: Resources
    estimate: Estimate | None
    """None for an adopted one, which costs nothing more. Else its range is wide enough for each of `instance_types`."""
    instance_types: tuple[str, ...]
    """Those that it may take, the next one first; the others follow where there is no capacity. Its own if adopted."""


@dataclass(frozen=True)
class Budget:
    """The most that a submission may cost, and who says so."""

    usd: float
    by: str


@dataclass(frozen=True)
class Plan:
    """What a submission would do."""

    name: str
    """Of the run, or of the job."""
    action: Action
    jobs: tuple[JobPlan, ...]
    requests: tuple[dict[str, Any], ...]
    """CreateTrainingJob of the jobs that would be created at once."""
    last_run: str
    """The last run of the domain; empty where there is none, and for a job by itself."""
    changes: tuple[Change, ...]
    """What differs from it."""
    seconds: Range
    usd: Range | None
    """Of what would be created; None where an instance has no price, never zero."""
    unpriced: tuple[str, ...]
    stale_prices: tuple[Price, ...]
    problems: tuple[Problem, ...]
    checks: tuple[Check, ...]
    billed: bool
    """False for the local AWS: there the cost is what the same jobs would cost on AWS."""
    region: str
    skipped: tuple[str, ...] = ()
    """Objects of the ledger that no estimate could look at, and why."""

    @property
    def creates(self) -> bool:
        """Whether anything would run that does not run or is done already."""
        return any(job.action != "adopt" for job in self.jobs)

    def refuse(self, budget: Budget | None) -> None:
        """Raise what stands in the way of submitting it.

        InvalidInput for values that AWS would refuse, OverBudget where the upper end of the estimate is over the
        budget, UnknownPrice where it cannot be told what is billed, or whether the budget holds.
        """
        if self.problems:
            said = "; ".join(map(str, self.problems))
            raise InvalidInput(f"{len(self.problems)} of the values would be refused: {said}. Nothing was submitted")
        if not self.creates:
            return
        if self.usd is None and (self.billed or budget is not None):
            held = f", so nobody can tell whether {budget.by} of {dollars(budget.usd)} holds" if budget else ""
            raise UnknownPrice(
                f"no price is known for {', '.join(self.unpriced)} in {self.region}{held}: read it with `stepforge "
                "prices refresh`, or give it with `stepforge prices set`. Nothing was submitted"
            )
        if budget is not None and self.usd is not None and self.usd.high > budget.usd:
            raise OverBudget(
                f"it may cost up to {dollars(self.usd.high)} (about {dollars(self.usd.middle)}), over {budget.by} of "
                f"{dollars(budget.usd)}: nothing was submitted. Raise it, do less, or lower "
                "resources.max_runtime_seconds, which bounds what a job can cost"
            )


def dollars(value: float) -> str:
    """Two digits after the point, and more where there would be nothing to see."""
    return f"${value:.2f}" if value >= 0.095 or value == 0 else f"${value:.2g}"


def budget_of(*given: tuple[float | None, str]) -> Budget | None:
    """The lowest of several budgets, None where there is none."""
    known = [Budget(usd, by) for usd, by in given if usd is not None]
    return min(known, key=lambda budget: budget.usd, default=None)


def _on_each(resources: Resources, types: Iterable[str]) -> list[Resources]:
    """The same on each of these instance types alone."""
    return [resources.model_copy(update={"instance_type": kind, "fallback_instance_types": ()}) for kind in types]


def _wants(spec: PipelineSpec) -> list[Wanted]:
    """The jobs of a pipeline in their order, with what their durations depend on."""
    works: list[Work] = [spec.dataset, spec.gate, *spec.stages, spec.evaluation]
    model = pipeline_model(spec)
    return [
        Wanted(
            spec.domain,
            str(getattr(work, "name", work.type)),
            work,
            "" if work.type in ("dataset", "gate") else model,
            spec.resources.get(work.type, Resources()),
        )
        for work in works
    ]


def _in_run(
    found: tuple[JobPlan, list[dict[str, Any]]], action: Action, stage: str
) -> tuple[JobPlan, list[dict[str, Any]]]:
    """A job's plan and requests under its name in a run; one that is adopted creates what is still to come itself."""
    planned, would = found
    if action == "adopt":
        return replace(planned, stage=stage, action="adopt", estimate=None), []
    return replace(planned, stage=stage), would


class Planner:
    """Makes plans for one environment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._environment = connection.environment
        self._region = self._environment.key_arn.split(":")[3]

    def pipeline(self, spec: PipelineSpec, *, checks: bool = True) -> Plan:
        """The plan of a run. Without `checks` neither quotas nor permissions are asked for."""
        environment = self._environment
        known = Pipelines(self._connection).plan(spec)
        name, action = self._run("train", spec.identity)
        jobs: list[JobPlan] = []
        samples: list[dict[str, Any]] = []
        wants = _wants(spec)
        table, read = self._prices_and_history(wants)
        history = read.entries
        for number, wanted in enumerate(wants):
            stage, work, resources = wanted.stage, wanted.work, wanted.resources
            if number < len(known):
                job = known[number]
                request = pipeline_job_request(
                    job.spec, spec, bucket=environment.bucket, environment=environment.name, run=name
                )
                planned, would = self._job(wanted, job.attempts, request, table, history)
                samples += would
            else:
                types = resources.instance_types
                expected = self._estimate(wanted, types, table, history)
                planned = JobPlan(stage, work.type, "later", "", "Absent", resources, expected, types)
            jobs.append(planned)
        if action == "adopt":
            # The run that is there creates what is still to come; this submission creates nothing.
            jobs, samples = [replace(job, action="adopt", estimate=None) for job in jobs], []
        due = [job for job in jobs if job.action != "adopt"]
        requests = samples[:1]  # of those that are known, all but the last are done
        samples += [sample for job in due if job.action == "later" for sample in self._samples(spec.image, job)]
        last_run, changes = self._last_run(spec)
        asked = self._checks(due, machine=True) if checks and due else []
        found = self._plan(name, action, jobs, requests, samples, table, asked, last_run, changes)
        return replace(found, skipped=read.skipped)

    def job(self, spec: JobSpec, resources: Resources, *, checks: bool = True) -> Plan:
        """The plan of one job by itself."""
        request = spec_request(self._environment, spec, resources)
        stage = str(getattr(spec.work, "name", spec.type))
        wanted = Wanted(spec.domain, stage, spec.work, estimates.model_of(spec), request.resources)
        table, read = self._prices_and_history([wanted])
        found = tuple(attempts_of(self._connection, request))
        planned, samples = self._job(wanted, found, request, table, read.entries)
        asked = self._checks([planned], machine=False) if checks and planned.action != "adopt" else []
        told = self._plan(planned.name, planned.action, [planned], samples[:1], samples, table, asked, "", ())
        return replace(told, skipped=read.skipped)

    def evaluations(self, specs: Mapping[str, EvaluationSpec], *, checks: bool = True) -> Plan:
        """The plan of evaluations side by side, by what they are called in it; it has the name of the first."""
        asked = {
            label: Wanted(spec.domain, "evaluate", spec.evaluation, estimates.model_of(spec.job), spec.resources)
            for label, spec in specs.items()
        }
        table, read = self._prices_and_history(list(asked.values()))
        runs = {label: self._run("evaluate", spec.identity) for label, spec in specs.items()}
        found = []
        for label, spec in specs.items():
            run, action = runs[label]
            request = request_of(self._connection, spec, spec.job, run=run)
            attempts_ = attempts_of(self._connection, request)
            planned = self._job(asked[label], attempts_, request, table, read.entries)
            found.append(_in_run(planned, action, label))
        name, _ = next(iter(runs.values()))
        return self._job_runs("evaluate", name, found, table, read, checks=checks)

    def assembly(self, spec: AssemblySpec, *, checks: bool = True) -> Plan:
        """The plan of a dataset in parts."""
        on, gate_on = (spec.resources.get(work, Resources()) for work in _DATASET)
        wants = [Wanted(spec.domain, "dataset", job.work, "", on) for job in spec.jobs]
        gated = Wanted(spec.domain, "gate", spec.gate, "", gate_on)
        table, read = self._prices_and_history([*wants, gated])
        name, action = self._run("dataset", spec.identity)
        requests = [request_of(self._connection, spec, job, run=name) for job in spec.jobs]
        # Here alone so many jobs are known at once.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(lambda request: tuple(attempts_of(self._connection, request)), requests))
        parts = [
            _in_run(self._job(wants[number], states, request, table, read.entries), action, f"part {number + 1}")
            for number, (states, request) in enumerate(zip(found, requests, strict=True))
        ]
        outcomes = [states[-1].outcome for states in found if states and states[-1].outcome is not None]
        if len(outcomes) == len(parts):
            s3, bucket = self._connection.client("s3"), self._environment.bucket
            whole = joined_dataset(s3, [outcome.artifact for outcome in outcomes], bucket=bucket)
            request = request_of(self._connection, spec, spec.gate_of(whole), run=name)
            states = tuple(attempts_of(self._connection, request))
            gate = _in_run(self._job(gated, states, request, table, read.entries), action, "gate")
        else:
            types = gate_on.instance_types
            later = JobPlan(
                "gate", "gate", "later", "", "Absent", gate_on,
                self._estimate(gated, types, table, read.entries), types,
            )  # fmt: skip
            gate = _in_run((later, self._samples(spec.image, later)), action, "gate")
        return self._job_runs("dataset", name, [*parts, gate], table, read, checks=checks)

    def _job_runs(
        self,
        machine: Machine,
        name: str,
        found: Sequence[tuple[JobPlan, list[dict[str, Any]]]],
        table: Prices,
        read: ledger.Read,
        *,
        checks: bool,
    ) -> Plan:
        """The plan of jobs with their requests, one for each instance type. Those of one type of job are alike."""
        jobs = [planned for planned, _ in found]
        due = [job for job in jobs if job.action != "adopt"]
        requests = [would[0] for planned, would in found if planned.action == "create"]
        first = {planned.type: would for planned, would in reversed(found) if would}
        samples = [request for would in first.values() for request in would]
        asked = self._checks(due, machine=True, of=machine) if checks and due else []
        action: Action = "create" if due else "adopt"
        told = self._plan(name, action, jobs, requests, samples, table, asked, "", ())
        return replace(told, skipped=read.skipped)

    def _job(
        self,
        wanted: Wanted,
        found: Sequence[JobState],
        request: JobRequest,
        table: Prices,
        history: Sequence[LedgerEntry],
    ) -> tuple[JobPlan, list[dict[str, Any]]]:
        """The plan of a job whose identity is known; its request where it would be created, one for each type."""
        last = found[-1] if found else None
        resources = wanted.resources
        if last is not None and last.status in ("Completed", "InProgress"):
            own = ((last.description or {}).get("ResourceConfig", {}).get("InstanceType", resources.instance_type),)
            return JobPlan(wanted.stage, wanted.work.type, "adopt", last.name, last.status, resources, None, own), []
        name = attempts.name_after(request.prefix, None if last is None else last.name)
        if last is not None and last.status == "Absent":
            name, last = last.name, found[-2] if len(found) > 1 else None
        status = "Absent" if last is None else last.status
        types = attempts.types_to_come(resources, None if last is None or last.failure else last.description)
        expected = self._estimate(wanted, types, table, history)
        plan = JobPlan(wanted.stage, wanted.work.type, "create", name, status, resources, expected, types)
        return plan, self._requests(request, name, types)

    def _requests(self, request: JobRequest, name: str, types: Sequence[str]) -> list[dict[str, Any]]:
        """CreateTrainingJob of an attempt, on each of these instance types."""
        bucket, key = self._environment.bucket, self._environment.key_arn
        tries = [attempts.attempt_at(request, name, bucket=bucket, key_arn=key, instance_type=kind) for kind in types]
        return [training_request(self._environment, request, attempt) for attempt in tries]

    def _estimate(
        self, wanted: Wanted, types: Sequence[str], table: Prices, history: Sequence[LedgerEntry]
    ) -> Estimate:
        return estimates.widest(
            [
                estimates.estimate(replace(wanted, resources=on), history, table.find(kind, self._region))
                for kind, on in zip(types, _on_each(wanted.resources, types), strict=True)
            ]
        )

    def _prices_and_history(self, wants: Sequence[Wanted]) -> tuple[Prices, ledger.Read]:
        s3, bucket = self._connection.client("s3"), self._environment.bucket
        return prices.load(s3, bucket=bucket), ledger.newest(s3, bucket=bucket, enough=estimates.enough(wants))

    def _samples(self, image: str, job: JobPlan) -> list[dict[str, Any]]:
        """Requests as those of a later job will be, but for what only its outputs decide; one for each type."""
        environment = self._environment
        request = JobRequest(
            prefix=f"{job.type}-{_NO_IDENTITY}",
            spec_sha256="0" * 64,
            spec_uri=f"s3://{environment.bucket}/specs/{_NO_IDENTITY}/spec.json",
            image=image,
            channels={"spec": f"s3://{environment.bucket}/specs/{_NO_IDENTITY}/"},
            resources=job.resources,
        )
        return self._requests(request, job_name(request.prefix, 0), job.instance_types)

    def _checks(self, due: Sequence[JobPlan], *, machine: bool, of: Machine = "train") -> list[Check]:
        if self._connection.name == LOCAL:
            return [Check("quotas and permissions", "could not check", "the local AWS has neither")]
        types: list[WorkType] = [job.type for job in due]
        return [
            *check_quotas(self._connection, [on for job in due for on in _on_each(job.resources, job.instance_types)]),
            *check_permissions(self._connection, types, machine=machine, of=of),
        ]

    def _problems(self, samples: Iterable[dict[str, Any]]) -> tuple[Problem, ...]:
        shape = self._connection.client("sagemaker").meta.service_model.operation_model("CreateTrainingJob").input_shape
        found = [p for request in samples for p in (*check_request(shape, request), *check_limits(request))]
        return tuple(dict.fromkeys(found))

    def _run(self, machine: Machine, identity: str) -> tuple[str, Action]:
        """The run that a submission would start, or adopt."""
        states, arn = self._connection.client("stepfunctions"), self._environment.machines[machine]
        found = executions.find(states, arn, machine, identity)
        if found is None:
            return execution_name(machine, identity, 0), "create"
        if found.status in executions.ADOPTED:
            return found.name, "adopt"
        return execution_name(machine, identity, int(found.name.rpartition("-r")[2]) + 1), "create"

    def _last_run(self, spec: PipelineSpec) -> tuple[str, tuple[Change, ...]]:
        """The newest run of the domain, and what differs from it; one whose pipeline is gone is passed over."""
        states, s3 = self._connection.client("stepfunctions"), self._connection.client("s3")
        for summary in Pipelines(self._connection).runs(most=_RUNS):
            found = executions.describe(states, summary["executionArn"])
            if found is None or found.input is None:
                continue
            try:
                pipeline = read_pipeline(s3, PipelineState.model_validate(found.input))
            except (InvalidInput, IdentityConflict, IntegrityError):
                continue
            if pipeline.domain == spec.domain:
                return found.name, tuple(differences(pipeline, spec))
        return "", ()

    def _plan(
        self,
        name: str,
        action: Action,
        jobs: Sequence[JobPlan],
        requests: Sequence[dict[str, Any]],
        samples: Sequence[dict[str, Any]],
        table: Prices,
        checks: Sequence[Check],
        last_run: str,
        changes: Sequence[Change],
    ) -> Plan:
        due = [job for job in jobs if job.estimate is not None]
        seconds, usd = estimates.total(job.estimate for job in due if job.estimate is not None)
        types = sorted({kind for job in due for kind in job.instance_types})
        rows = {kind: table.find(kind, self._region) for kind in types}
        return Plan(
            name=name,
            action=action,
            jobs=tuple(jobs),
            requests=tuple(requests),
            last_run=last_run,
            changes=tuple(changes),
            seconds=seconds,
            usd=usd,
            unpriced=tuple(kind for kind, row in rows.items() if row is None),
            stale_prices=tuple(row for row in rows.values() if row is not None and prices.stale(row)),
            problems=self._problems(samples),
            checks=tuple(checks),
            billed=self._connection.name != LOCAL,
            region=self._region,
        )
