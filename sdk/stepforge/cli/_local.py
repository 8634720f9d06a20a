"""`stepforge local run | images | down | status | reset`, and the word at the end of a run about what stays behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
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


def run(command: list[str]) -> int:
    """The exit code of a command for which AWS is the local one. Raises InvalidInput where there is no such command."""
    if shutil.which(command[0]) is None:
        raise InvalidInput(f"{command[0]!r} is no command that is found here")
    return subprocess.run(command, env=environ(os.environ, local.ensure_up()), check=False).returncode


def environ(given: Mapping[str, str], aws: local.LocalAws) -> dict[str, str]:
    """Variables with which clients of AWS reach `aws` and nothing else, whatever profile or account was chosen."""
    kept = {name: value for name, value in given.items() if not name.startswith("AWS_")}
    direct = [kept.get("NO_PROXY") or kept.get("no_proxy", ""), "127.0.0.1,localhost"]
    return kept | {
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_ACCESS_KEY_ID": aws.access_key_id,
        "AWS_SECRET_ACCESS_KEY": aws.secret_access_key,
        "AWS_REGION": aws.region,
        "AWS_DEFAULT_REGION": aws.region,
        # Profiles may name an account, or another endpoint.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(filter(None, direct))),
    }


def images(environment: str, *, as_json: bool) -> None:
    from stepforge.local.environment import publish_images

    aws = local.ensure_up()
    project = f"stepforge-{environment}-images"
    found = aws.client("codebuild").batch_get_projects(names=[project])["projects"]
    if not found:
        raise InvalidInput(
            f"there is no build {project!r} in the local AWS: deploy {environment!r} to it first (docs/deploy.md)"
        )
    train = "train-cuda" if " --gpu" in found[0]["source"]["buildspec"] else "train"
    folders = {"data": "data", "serve": "serve", "train": train}
    published = publish_images(
        aws, environment, {name: (folder, f"stepforge-{environment}-{folder}") for name, folder in folders.items()}
    )
    emit({"images": published}, as_json=as_json, text="\n".join(published.values()))


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
