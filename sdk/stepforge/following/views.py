"""What a notebook shows of a job or a run: a table, the last numbers, links. Plain HTML, without IPython."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any

from stepforge.connection import Connection
from stepforge.following.advice import diagnose_job
from stepforge.following.jobs_log import LOG_GROUP, Estimator, LogLine
from stepforge.following.links import job_links
from stepforge.machines.attempts import ending

NUMBERS = ("reward", "accepted", "kl", "loss", "tokens_per_second", "entropy")
"""Of a progress line, in the order in which people look for them."""
_LAST_LINES = 200
_COLOURS = {"Completed": "#1a7f37", "InProgress": "#0550ae", "Stopping": "#9a6700"}


@dataclass(frozen=True)
class JobView:
    """How a job stands. `ending` tells apart what SageMaker's own status does not; empty while it runs."""

    name: str
    status: str
    ending: str = ""
    seconds: int = 0
    step: int | None = None
    steps: int | None = None
    remaining_seconds: float | None = None
    remaining_basis: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    category: str = ""
    reason: str = ""
    advice: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self._rows())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self._rows()
        )
        return f"<table>{rows}</table>{bar(self.step, self.steps)}{link_list(self.links)}"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("job", self.name), ("status", self.ending or self.status)]
        if self.step is not None and self.steps:
            rows.append(("step", f"{self.step} of {self.steps}"))
        if self.remaining_seconds is not None:
            rows.append(("remaining", f"{self.remaining_seconds:.0f} s ({self.remaining_basis})"))
        rows += [(name, f"{value:.4g}") for name, value in self.numbers.items()]
        if self.seconds:
            rows.append(("trained", f"{self.seconds} s"))
        if self.reason:
            rows.append((f"why ({self.category})", self.reason))
        return [*rows, ("what to do", self.advice)] if self.advice else rows


def job_view(connection: Connection, job: dict[str, Any]) -> JobView:
    """The view of a described job. Reads the last 200 lines of its log."""
    name, how, found = job["TrainingJobName"], ending(job), diagnose_job(job)
    estimator, left = Estimator(), None
    last: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    for line in _last_lines(connection.client("logs"), name):
        if (said := line.progress()) is not None and {"step", "steps"} <= said.keys():
            last = said
            left = estimator.add(said["step"], said["steps"], at=line.at.timestamp())
            numbers |= {key: said[key] for key in NUMBERS if isinstance(said.get(key), int | float)}
    spec = job.get("HyperParameters", {}).get("spec_sha256", "")
    return JobView(
        name=name,
        status=job["TrainingJobStatus"],
        ending=how or "",
        seconds=job.get("TrainingTimeInSeconds", 0),
        step=last.get("step"),
        steps=last.get("steps"),
        remaining_seconds=None if left is None or how is not None else left.seconds,
        remaining_basis="" if left is None else left.basis,
        numbers={key: numbers[key] for key in NUMBERS if key in numbers},
        category="" if found is None else found.category,
        reason="" if found is None else found.reason,
        advice="" if found is None else found.advice,
        links=job_links(connection, name, spec_sha256=spec),
    )


def run_html(name: str, word: str, jobs: Iterable[tuple[str, str, str, str]], links: Mapping[str, str]) -> str:
    """A run as a table of (stage, job, status, what to do)."""
    rows = "".join(
        f"<tr><td>{escape(stage)}</td><td><code>{escape(job)}</code></td>"
        f"<td style='color:{_COLOURS.get(status, '#cf222e')}'>{escape(status)}</td><td>{escape(advice)}</td></tr>"
        for stage, job, status, advice in jobs
    )
    head = "<tr><th>stage</th><th>job</th><th>status</th><th></th></tr>"
    return f"<b>{escape(name)}</b> {escape(word)}<table>{head}{rows}</table>{link_list(links)}"


def bar(step: int | None, steps: int | None) -> str:
    return f"<progress value='{step}' max='{steps}'></progress>" if step is not None and steps else ""


def link_list(links: Mapping[str, str]) -> str:
    return " · ".join(
        f"<a href='{escape(address, quote=True)}' target='_blank'>{escape(place)}</a>"
        for place, address in links.items()
    )


def _last_lines(logs: Any, job: str) -> list[LogLine]:
    try:
        streams = logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{job}/")["logStreams"]
        events = [
            event
            for stream in streams[-1:]
            for event in logs.get_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream["logStreamName"], startFromHead=False, limit=_LAST_LINES
            )["events"]
        ]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [LogLine(datetime.fromtimestamp(e["timestamp"] / 1000, UTC), e["message"].rstrip("\n")) for e in events]
