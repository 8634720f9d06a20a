"""Progress of a run: a bar on a terminal, plain lines in a log. Also a job's log as people read it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from stepforge.cli._output import say
from stepforge.jobs import LogLine
from stepforge.pipelines import PROGRESS_EVENT, RunEvent

_PLAIN_EVERY_SECONDS = 10.0
_OF_REWARDS = ("reward", "accepted", "kl")
"""What tells how a stage with rewards goes: the loss of a policy gradient is about 0 however well it learns."""
_POSITION = ("event", "stage", "step", "steps")


def show(events: Iterable[RunEvent], *, quiet: bool = False) -> None:
    """Draw a run's events until they end."""
    if quiet:
        for _ in events:
            pass
    elif sys.stderr.isatty():
        _bars(events)
    else:
        _lines(events)


def log_lines(lines: Iterable[LogLine]) -> Iterator[str]:
    """A job's log for people: the time, then the stage, its step and its numbers, or what the line says."""
    for line in lines:
        yield f"{line.at.astimezone():%H:%M:%S}  {_log_text(line.text)}"


def numbers(data: dict[str, Any]) -> str:
    """The numbers of a progress line: of a stage with rewards its rewards, otherwise all."""
    shown = _OF_REWARDS if "reward" in data else [key for key in data if key not in _POSITION]
    return " ".join(f"{key} {data[key]:.3g}" for key in shown if isinstance(data.get(key), int | float))


def _log_text(text: str) -> str:
    try:
        data = json.loads(text)
    except ValueError:
        return text
    if not isinstance(data, dict) or "event" not in data:
        return text
    if data["event"] == PROGRESS_EVENT:
        return f"{data.get('stage', ''):<21} {position(data):>9}  {numbers(data)}".rstrip()
    said = (f"{key} {value}" for key, value in data.items() if key != "event" and value != "")
    return f"{data['event']:<21} {' '.join(said)}".rstrip()


def position(data: dict[str, Any]) -> str:
    return f"{data['step']}/{data['steps']}" if "step" in data and "steps" in data else ""


class _Latest:
    """The newest value of each number: a few are measured at checkpoints only."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}

    def of(self, event: RunEvent) -> dict[str, Any]:
        known = self._seen.setdefault(event.job, {})
        known.update(event.data)
        return known


def _lines(events: Iterable[RunEvent]) -> None:
    last, latest = 0.0, _Latest()
    for event in events:
        if event.kind == "stage":
            last = time.monotonic()
            if not event.data.get("adopted"):
                say(f"{event.stage:<12} {event.job}")
            elif event.data["status"] != "Completed":
                say(f"{event.stage:<12} {event.job}, adopted while it runs")
        elif event.kind == "waits":
            say(f"{event.stage:<12} {_wait(event)}")
        elif event.kind == "done":
            say(f"{event.stage:<12} {_ending(event)}")
        elif event.kind == "progress":
            data = latest.of(event)
            if time.monotonic() - last > _PLAIN_EVERY_SECONDS:
                last = time.monotonic()
                say(f"{event.stage:<12} {position(data)} {numbers(data)}".rstrip())


def _bars(events: Iterable[RunEvent]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[position]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[numbers]}"),
    )
    latest = _Latest()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}
        for event in events:
            if event.kind == "log":
                continue
            task = tasks.get(event.job)
            if task is None:
                adopted = "adopted" if event.data.get("adopted") else ""
                task = tasks[event.job] = progress.add_task(event.stage, total=None, position="", numbers=adopted)
            if event.kind == "progress":
                data = latest.of(event)
                progress.update(
                    task,
                    completed=data.get("step"),
                    total=data.get("steps"),
                    position=position(data),
                    numbers=numbers(data),
                )
            elif event.kind == "waits":
                progress.update(task, numbers=_wait(event))
            elif event.kind == "done":
                progress.update(task, total=1, completed=1, position="", numbers=_ending(event))
                progress.stop_task(task)


def _wait(event: RunEvent) -> str:
    reason = str(event.data["reason"])
    return reason[:1].lower() + reason[1:]


def _ending(event: RunEvent) -> str:
    data = event.data
    if data["status"] != "Completed":
        return f"{data['status']}: {data['reason']}"
    if data.get("adopted"):
        return f"adopted: {event.job} had done it, in {data['seconds']} s"
    return f"done in {data['seconds']} s"
