"""`stepforge watch JOB`, and what following has in common: Ctrl-C detaches, and JSON tells why something failed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from stepforge.cli._output import emit, say
from stepforge.cli._progress import show
from stepforge.client import Client
from stepforge.connection import command
from stepforge.errors import Detached, StepforgeError
from stepforge.following.follow import RunEvent
from stepforge.machines.attempts import ending, job_failure

if TYPE_CHECKING:
    from stepforge.submitting.submission import Submission

_JOB = re.compile(r"[a-z]+-[0-9a-f]{12}-a\d+")


def is_job(name: str) -> bool:
    """Whether a name is a job's by its form."""
    return _JOB.fullmatch(name) is not None


def follow_job(
    client: Client,
    job: str | Submission,
    *,
    as_json: bool,
    go_on: Callable[[dict[str, Any]], Submission | None] = lambda _: None,
) -> None:
    """Show a job until it ends. Any ending but Completed is an error with an exit code of its own.

    Of a submission the events say whether it was adopted. `go_on` may submit another attempt to follow in place of one
    that did not succeed, by its description.
    """
    while True:
        name, adopted = (job, False) if isinstance(job, str) else (job.name, job.action != "create")
        ended: list[RunEvent] = []
        with detachable(name, client.connection.name):
            show(keeping_ends(client.jobs.follow(name, adopted=adopted), ended), quiet=as_json)
        described = client.jobs.get(name)
        found = ended[-1].data
        if ending(described) == "Completed":
            emit({"job": name, **found}, as_json=as_json, text=f"{name} is done, in {found['seconds']} s")
            return
        failure = job_failure(described)
        following = go_on(described)
        if following is None:
            if as_json:
                fail_as_json(failure, job=name, **found)
            raise failure
        say(f"{name}: {failure} {following.name} goes on")
        job = following


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
def detachable(name: str, env: str) -> Iterator[None]:
    """Ctrl-C stops the watching and nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        raise Detached(
            f"detached: {name} goes on. Come back with `{command(f'watch {name}', env)}`; end it with "
            f"`{command(f'stop {name}', env)}`"
        ) from None
