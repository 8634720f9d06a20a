"""Progress of a run: a bar on a terminal, plain lines in a log. Also a job's log as people read it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from stepforge.cli._output import say
from stepforge.contracts.metrics import PROGRESS_EVENT
from stepforge.jobs import LogLine
from stepforge.pipelines import RunEvent

_PLAIN_EVERY_SECONDS = 10.0
_OF_REWARDS = ("reward", "accepted", "kl")
"""What tells how a stage with rewards goes: the loss of a policy gradient is about 0 however well it learns."""
_POSITION = ("event", "stage", "step", "steps", "tokens_per_second", "remaining_seconds", "remaining_basis")
_TOLD_STATES = ("Interrupted", "Restarting")
"""Of SageMaker's own steps: the others are what every job goes through."""


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
    said = [f"{key} {data[key]:.3g}" for key in shown if isinstance(data.get(key), int | float)]
    if isinstance(rate := data.get("tokens_per_second"), int | float):
        said.append(f"{rate:.3g} tokens/s")
    return " ".join(said)


def left(data: dict[str, Any]) -> str:
    """Time to the stage's last step, by the speed of the last ones; empty where it is not known or none is left."""
    seconds = data.get("remaining_seconds")
    return f"{duration(seconds)} left" if seconds else ""


def duration(seconds: float) -> str:
    """Two units at most: `43 s`, `2 min 43 s`, `5 h 2 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


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
            _say_links(event)
        elif event.kind == "waits":
            say(f"{event.stage:<12} {_wait(event)}")
        elif event.kind == "done":
            say(f"{event.stage:<12} {_ending(event)}")
            _say_advice(event)
        elif event.kind == "progress":
            data = latest.of(event)
            if time.monotonic() - last > _PLAIN_EVERY_SECONDS:
                last = time.monotonic()
                say(" ".join(filter(None, (f"{event.stage:<12} {position(data)}", numbers(data), left(data)))).rstrip())
        elif trouble := _trouble(event):
            say(f"{event.stage:<12} {trouble}")


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
            if event.kind == "log" or (event.kind == "state" and event.data["state"] not in _TOLD_STATES):
                continue
            if event.kind in ("paused", "resumed"):
                progress.console.print(_trouble(event), highlight=False, markup=False)
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
                    numbers=" ".join(filter(None, (numbers(data), left(data)))),
                )
            elif event.kind == "state":
                progress.update(task, numbers=_trouble(event))
            elif event.kind == "waits":
                progress.update(task, numbers=_wait(event))
            elif event.kind == "done":
                progress.update(task, total=1, completed=1, position="", numbers=_ending(event))
                progress.stop_task(task)
                _say_advice(event)
            elif event.kind == "stage":
                _say_links(event)


def _wait(event: RunEvent) -> str:
    reason = str(event.data["reason"])
    return reason[:1].lower() + reason[1:]


def _trouble(event: RunEvent) -> str:
    """What there is to say of a follower's pause, and of a job that lost its machine; empty for any other event."""
    data = event.data
    if event.kind == "paused":
        return f"{data['reason']}; asking again in {data['pause_seconds']:.0f} s, and what is followed goes on"
    if event.kind == "resumed":
        return f"answers again, after {data['seconds']:.0f} s"
    if event.kind == "state" and data["state"] in _TOLD_STATES:
        return f"{data['state']}: {data['message']}".rstrip(": ")
    return ""


def _say_links(event: RunEvent) -> None:
    if event.data.get("adopted") and event.data["status"] == "Completed":
        return
    for place, address in event.data.get("links", {}).items():
        say(f"{'':<12} {place}: {address}")


def _say_advice(event: RunEvent) -> None:
    if advice := event.data.get("advice"):
        say(f"{'':<12} {event.data['category']}: {advice}")


def _ending(event: RunEvent) -> str:
    data = event.data
    if data["status"] != "Completed":
        return f"{data['status']}: {data['reason']}"
    if data.get("adopted"):
        return f"adopted: {event.job} had done it, in {data['seconds']} s"
    return f"done in {data['seconds']} s"
