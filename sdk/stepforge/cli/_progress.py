"""Progress of a run: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from stepforge.cli._output import say
from stepforge.pipelines import RunEvent

_PLAIN_EVERY_SECONDS = 10.0


def show(events: Iterable[RunEvent], *, quiet: bool = False) -> None:
    """Draw a run's events until they end."""
    if quiet:
        for _ in events:
            pass
    elif sys.stderr.isatty():
        _bars(events)
    else:
        _lines(events)


def _lines(events: Iterable[RunEvent]) -> None:
    last = 0.0
    for event in events:
        if event.kind == "stage":
            last = time.monotonic()
            say(f"{event.stage:<12} {event.job}")
        elif event.kind == "done":
            say(f"{event.stage:<12} {_ending(event.data)}")
        elif event.kind == "progress" and time.monotonic() - last > _PLAIN_EVERY_SECONDS:
            last = time.monotonic()
            say(f"{event.stage:<12} {_position(event.data)} {_numbers(event.data)}".rstrip())


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
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}
        for event in events:
            if event.kind == "log":
                continue
            task = tasks.get(event.job)
            if task is None:
                task = tasks[event.job] = progress.add_task(event.stage, total=None, position="", numbers="")
            if event.kind == "progress":
                progress.update(
                    task,
                    completed=event.data.get("step"),
                    total=event.data.get("steps"),
                    position=_position(event.data),
                    numbers=_numbers(event.data),
                )
            elif event.kind == "done":
                progress.update(task, total=1, completed=1, position="", numbers=_ending(event.data))
                progress.stop_task(task)


def _position(data: dict[str, Any]) -> str:
    return f"{data['step']}/{data['steps']}" if "step" in data and "steps" in data else ""


def _numbers(data: dict[str, Any]) -> str:
    skip = ("step", "steps")
    return " ".join(f"{k} {v:.3g}" for k, v in data.items() if isinstance(v, int | float) and k not in skip)


def _ending(data: dict[str, Any]) -> str:
    if data["status"] == "Completed":
        return f"done in {data['seconds']} s"
    return f"{data['status']}: {data['reason']}"
