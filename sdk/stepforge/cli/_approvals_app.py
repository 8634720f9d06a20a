"""Commands about questions that wait for a person. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from typing import Annotated

import typer

from stepforge.cli._output import Env, Json, emit, table

approvals_app = typer.Typer(help="Questions that wait for a person: list, ask, answer.", no_args_is_help=True)


@approvals_app.command("list")
def approvals_list(env: Env = "local", json: Json = False) -> None:
    """List what waits for an answer, and until when."""
    from stepforge.approvals import Approvals
    from stepforge.client import Client

    waiting = Approvals(Client(env).connection).pending()
    plain = [
        {**asked.request.model_dump(mode="json"), "name": asked.name, "expires": asked.expires.isoformat()}
        for asked in waiting
    ]
    emit(plain, as_json=json, text="" if waiting else "nothing waits for an answer")
    if waiting and not json:
        rows = [(a.name, a.request.kind, f"{a.expires:%Y-%m-%d %H:%M}", a.request.question) for a in waiting]
        table(["NAME", "KIND", "EXPIRES", "QUESTION"], rows)


@approvals_app.command("ask")
def approvals_ask(
    reference: Annotated[str, typer.Argument(help="Model, such as facial/3 (facial alone is its newest version).")],
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="After which it counts as not approved.")] = 72,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Wait for the answer.")] = False,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Ask whether a model shall be promoted. Yes starts its promotion, no rejects it with the reason."""
    from stepforge.approvals import Approvals
    from stepforge.client import Client
    from stepforge.connection import command

    client = Client(env)
    package = client.registry.get(reference)
    started = Approvals(client.connection).ask_promotion(package, expires_seconds=round(hours * 3600))
    if wait:
        said = started.wait(timeout_seconds=hours * 3600 + 60)
        emit(
            said.model_dump(mode="json"), as_json=json, text=f"{said.by} said yes: {said.reason or 'without a reason'}"
        )
        return
    answer = command(f"approvals answer {started.name} --yes", env)
    text = f"asked as {started.name}: answer with `{answer}`, or --no"
    emit({"name": started.name, "model": package.reference}, as_json=json, text=text)


@approvals_app.command("answer")
def approvals_answer(
    name: Annotated[str, typer.Argument(help="Question, as `approvals list` names it.")],
    yes: Annotated[bool, typer.Option("--yes/--no", help="What you say.")],
    reason: Annotated[str, typer.Option(help="Why; kept with what it is about.")] = "",
    env: Env = "local",
    json: Json = False,
) -> None:
    """Answer a question that waits. It needs the approvers' rights; who you are is taken from your credentials."""
    from stepforge.approvals import Approvals
    from stepforge.client import Client

    connection = Client(env).connection
    identity = connection.client("sts").get_caller_identity()["Arn"]
    asked = Approvals(connection).answer(name, approved=yes, by=identity, reason=reason)
    said = "yes" if yes else "no"
    plain = {"name": name, "approved": yes, "by": identity, "subject": asked.request.subject}
    emit(plain, as_json=json, text=f"said {said} about {asked.request.subject} as {identity}")
