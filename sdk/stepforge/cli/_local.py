"""`stepforge local down | status | reset`, and the word at the end of a run about what stays behind."""

from __future__ import annotations

import dataclasses
import sys
from datetime import datetime
from typing import Any

import typer

from stepforge import local
from stepforge.cli._output import emit, say
from stepforge.connection import LOCAL
from stepforge.contracts.names import INTERRUPT_TAG
from stepforge.errors import InvalidInput

_GOES_ON = "the command that started a run goes on from its last checkpoint"


def down(*, yes: bool, as_json: bool) -> None:
    found = local.activity()
    busy = [] if found is None else list(found.under_way)
    if busy:
        what = f"{', '.join(busy)} {'is' if len(busy) == 1 else 'are'} under way"
        confirm(f"{what}. Nothing is lost: {_GOES_ON}. Stop the local AWS all the same?", yes=yes, as_json=as_json)
    ran = local.down()
    text = "stopped" if ran else "the local AWS was not running"
    if busy:
        text += f"; interrupted: {', '.join(busy)} ({_GOES_ON})"
    emit({"stopped": ran, "interrupted": busy}, as_json=as_json, text=text)


def interrupt(job: str, *, as_json: bool) -> None:
    from stepforge.client import Client

    client = Client(LOCAL)
    arn = client.jobs.get(job)["TrainingJobArn"]
    sagemaker = client.connection.client("sagemaker")
    try:
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": INTERRUPT_TAG, "Value": "now"}])
    except sagemaker.exceptions.ClientError as error:
        raise InvalidInput(error.response["Error"]["Message"]) from error
    emit({"interrupted": job}, as_json=as_json, text=f"{job} loses its instances, and goes on from its checkpoint")


def reset(*, yes: bool, as_json: bool) -> None:
    confirm("Delete every local run, model and endpoint?", yes=yes, as_json=as_json)
    local.reset()
    emit({"deleted": True}, as_json=as_json, text="deleted")


def status(*, as_json: bool) -> None:
    server, found = local.status(), local.activity()
    plain: dict[str, Any] = dataclasses.asdict(server) | {"home": str(server.home)}
    if server.started is not None:
        plain["started"] = datetime.fromtimestamp(server.started).astimezone().isoformat(timespec="seconds")
    if found is not None:
        plain |= dataclasses.asdict(found)
    if found is None:
        lines = [f"not running; its state lies in {server.home}"]
    else:
        lines = [
            f"running since {plain['started']} at {server.endpoint_url} (process {server.pid}, {server.version})",
            f"state: {server.home}",
            f"under way: {', '.join((*found.runs, *(j for j in found.jobs if j not in found.waiting))) or 'nothing'}",
            *([f"waiting for another job to end: {', '.join(found.waiting)}"] if found.waiting else []),
            f"serving: {', '.join(found.endpoints) or 'nothing'}",
            f"memory: {_memory(found)}",
            "stop it with `stepforge local down`: what it holds is kept",
        ]
    emit(plain, as_json=as_json, text="\n".join(lines))


def say_what_stays() -> None:
    """One line about the server that a finished command leaves running."""
    found = local.activity()
    if found is not None:
        say(f"the local AWS stays up ({_memory(found)}): `stepforge local down` stops it, and keeps its state")


def _memory(found: local.Activity) -> str:
    if found.memory_mb is None:
        return "an unknown amount"
    return f"{found.memory_mb} MB" if found.memory_mb < 1000 else f"{found.memory_mb / 1000:.1f} GB"


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask on a terminal. Elsewhere nobody can answer: raises InvalidInput without --yes."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise InvalidInput(f"{question} Nothing was done: give --yes to go ahead without being asked")
    if not typer.confirm(question, err=True):
        raise typer.Abort
