"""Commands about registered models. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepforge.cli._output import Env, Json, emit

registry_app = typer.Typer(help="Registered models: look, approve, reject, download.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="Model, such as facial/3 (facial alone is its newest version).")]


@registry_app.command("list")
def registry_list(
    domain: Annotated[str | None, typer.Argument(help="Only this domain.")] = None,
    env: Env = "local",
    json: Json = False,
) -> None:
    """List registered models with their state and scores."""
    from stepforge.cli import _registry
    from stepforge.client import Client

    _registry.print_packages(Client(env), domain, as_json=json)


@registry_app.command("show")
def registry_show(reference: Reference, env: Env = "local", json: Json = False) -> None:
    """Show one model: state and reason, scores, the champion gate, lineage."""
    from stepforge.cli import _registry
    from stepforge.client import Client

    client = Client(env)
    _registry.print_package(client, client.registry.get(reference), as_json=json)


@registry_app.command("approve")
def registry_approve(
    reference: Reference,
    comment: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Wait for the promotion.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Approve it though it was rejected.")] = False,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Approve a model: it is verified, deployed beside the old one, tested, and then takes its place."""
    from stepforge.cli import _registry
    from stepforge.client import Client

    _registry.approve(Client(env), reference, comment=comment, wait=wait, though_rejected=yes, as_json=json)


@registry_app.command("reject")
def registry_reject(
    reference: Reference,
    comment: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
    env: Env = "local",
    json: Json = False,
) -> None:
    """Reject a model: it will not be deployed."""
    from stepforge.cli import _registry
    from stepforge.client import Client

    _registry.reject(Client(env), reference, comment=comment, as_json=json)


@registry_app.command("pull")
def registry_pull(
    reference: Reference,
    out: Annotated[Path, typer.Option(help="New folder for the weights.")],
    env: Env = "local",
    json: Json = False,
) -> None:
    """Download a model's weights; every file is checked against its digest."""
    from stepforge.client import Client

    folder = Client(env).registry.pull(reference, out)
    emit({"folder": str(folder)}, as_json=json, text=f"model: {folder}")
