"""`stepforge watch JOB`, and what following has in common: Ctrl-C detaches, and JSON tells why something failed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from stepforge.attempts import ending, job_failure
from stepforge.cli._output import emit, say
from stepforge.cli._progress import show
from stepforge.client import Client
from stepforge.errors import Detached, StepforgeError
from stepforge.following import RunEvent

_JOB = re.compile(r"[a-z]+-[0-9a-f]{12}-a\d+")


def is_job(name: str) -> bool:
    """Whether a name is a job's by its form."""
    return _JOB.fullmatch(name) is not None


def follow_job(
    client: Client, name: str, *, as_json: bool, go_on: Callable[[dict[str, Any]], str | None] = lambda _: None
) -> None:
    """Show a job until it ends. Any ending but Completed is an error with an exit code of its own.

    `go_on` may name another attempt to follow in place of one that did not succeed, by its description.
    """
    while True:
        ended: list[RunEvent] = []
        with detachable(name):
            show(keeping_ends(client.jobs.follow(name), ended), quiet=as_json)
        job = client.jobs.get(name)
        found = ended[-1].data
        if ending(job) == "Completed":
            emit({"job": name, **found}, as_json=as_json, text=f"{name} is done, in {found['seconds']} s")
            return
        failure = job_failure(job)
        following = go_on(job)
        if following is None:
            if as_json:
                fail_as_json(failure, job=name, **found)
            raise failure
        say(f"{name}: {failure} {following} goes on")
        name = following


def keeping_ends(events: Iterable[RunEvent], ended: list[RunEvent]) -> Iterator[RunEvent]:
    """The events, of which those that tell of an end are kept too."""
    for event in events:
        if event.kind == "done":
            ended.append(event)
        yield event


def fail_as_json(error: StepforgeError, **about: Any) -> NoReturn:
    """The error's own document, and what is known about it. Ends the command with the error's exit code."""
    document = {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    print(json.dumps(document | about, default=str))
    raise typer.Exit(error.exit_code)


@contextmanager
def detachable(name: str) -> Iterator[None]:
    """Ctrl-C stops the watching and nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        raise Detached(
            f"detached: {name} goes on. Come back with `stepforge watch {name}`; end it with `stepforge stop {name}`"
        ) from None
