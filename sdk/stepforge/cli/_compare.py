"""`stepforge compare` and `stepforge jobs describe`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stepforge.cli import _runs
from stepforge.cli._output import columns, emit
from stepforge.client import Client
from stepforge.comparing import Compared, JobFacts, ScoreChange, Side, compare_runs, job_facts
from stepforge.contracts.reports import Interval
from stepforge.report.words import interval_text, percent


def compare(client: Client, first: str, second: str, *, as_json: bool) -> None:
    found = compare_runs(*(client.pipelines.get(name) for name in (first, second)))
    plain: dict[str, Any] = {
        "first": asdict(found.first),
        "second": asdict(found.second),
        "changes": [change.plain for change in found.changes],
        "scores": [_plain_score(score) for score in found.scores],
    }
    emit(plain, as_json=as_json, text="\n".join(_lines(found)))


def describe_job(client: Client, name: str, *, as_json: bool) -> None:
    facts = job_facts(client.connection, client.jobs.get(name))
    plain = {
        "description": {k: v for k, v in facts.description.items() if k != "ResponseMetadata"},
        "tags": facts.tags,
        "spec": facts.spec,
        "cost": None if facts.entry is None else facts.entry.model_dump(mode="json"),
    }
    emit(plain, as_json=as_json, text="\n".join(_job_lines(facts)))


def _plain_score(score: ScoreChange) -> dict[str, Any]:
    sides = {"first": score.first, "second": score.second}
    return {
        "split": score.split,
        **{name: None if value is None else value.model_dump() for name, value in sides.items()},
        "difference": score.difference,
        "apart": score.apart,
    }


def _lines(found: Compared) -> list[str]:
    sides = (found.first, found.second)
    rows = [
        ("status", *(side.status for side in sides)),
        ("took", *("-" if side.seconds is None else _runs.duration(side.seconds) for side in sides)),
        ("instance hours", *(f"{side.cost.instance_seconds / 3600:.3f}" for side in sides)),
        ("USD", *map(_usd, sides)),
        *((f"accepted on {s.split}", _interval(s.first), _interval(s.second)) for s in found.scores),
    ]
    lines = columns(["", found.first.name, found.second.name], rows)
    lines += [
        f"{s.split}: {s.difference * 100:+.1f} points, {'beyond' if s.apart else 'within'} the 95 % intervals"
        for s in found.scores
        if s.difference is not None
    ]
    changed = [f"  {line}" for change in found.changes for line in change.lines]
    return [*lines, *(["what differs:", *changed] if changed else ["nothing differs in their specs"])]


def _usd(side: Side) -> str:
    if side.cost.usd is None:
        return "unknown"
    more = f" and {', '.join(side.cost.unpriced)} of unknown price" if side.cost.unpriced else ""
    return f"{side.cost.usd:.4f}{more}"


def _interval(value: Interval | None) -> str:
    return "-" if value is None else f"{percent(value.mean)} ({interval_text(value)})"


def _job_lines(facts: JobFacts) -> list[str]:
    job, entry = facts.description, facts.entry
    resources = job["ResourceConfig"]
    rows = [
        ("job", job["TrainingJobName"]),
        ("arn", job["TrainingJobArn"]),
        ("status", f"{job['TrainingJobStatus']} ({job.get('SecondaryStatus', '?')})"),
        *([("why", job["FailureReason"])] if job.get("FailureReason") else []),
        ("machine", f"{resources.get('InstanceCount', 1)} x {resources.get('InstanceType', 'unknown')}"),
        ("image", job["AlgorithmSpecification"].get("TrainingImage", "unknown")),
        ("created", f"{job['CreationTime']:%Y-%m-%d %H:%M:%S %Z}"),
        *([("ended", f"{job['TrainingEndTime']:%Y-%m-%d %H:%M:%S %Z}")] if "TrainingEndTime" in job else []),
        *([("billable", f"{job['BillableTimeInSeconds']} s")] if "BillableTimeInSeconds" in job else []),
        *([("USD", "unknown" if entry.usd is None else f"{entry.usd:.4f}")] if entry is not None else []),
        *(("tag", f"{key} = {value}") for key, value in sorted(facts.tags.items())),
    ]
    spec = facts.spec or {}
    rows += [(f"work.{key}", str(value)) for key, value in spec.get("work", {}).items() if value is not None]
    rows += [(f"input {name}", ref["sha256"][:12]) for name, ref in spec.get("inputs", {}).items()]
    if not spec:
        rows.append(("spec", facts.why))
    return columns(["", ""], rows)[1:]
