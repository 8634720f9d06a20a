"""Commands about what would pay. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepforge.cli._finetune import Advice, Known, Own
from stepforge.cli._finetune import app as finetune_app
from stepforge.cli._output import Json


@finetune_app.command("decide")
def decide(
    question: Annotated[Path, typer.Argument(help="The question: a .toml or .json file.")],
    own: Own = None,
    experience: Known = None,
    criteria: Advice = None,
    page: Annotated[Path | None, typer.Option(help="Write the verdict as Markdown too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the tornado plot too (SVG).")] = None,
    json: Json = False,
) -> None:
    """Say which way to a better model pays, by how much, how surely, and why. Nothing is launched."""
    from stepforge.cli import _decide

    _decide.decide(
        question,
        own or [],
        experience=experience,
        criteria=criteria or [],
        page=page,
        plot=plot,
        as_json=json,
    )


def catalogue(
    model: Annotated[str | None, typer.Argument(help="One model, such as bedrock/amazon.nova-micro-v1:0.")] = None,
    own: Own = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask AWS's price list for the prices that it has.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write what differs from what ships, for --catalogue (TOML).")
    ] = None,
    json: Json = False,
) -> None:
    """List base models that can be paid for: how they are tuned, until when, and dated prices with their source."""
    from stepforge.cli import _decide

    if refresh or out is not None:
        _decide.refresh_catalogue(own or [], ask=refresh, out=out, as_json=json)
        return
    _decide.print_catalogue(model, own or [], as_json=json)


def add_decide_commands(app: typer.Typer) -> None:
    app.add_typer(finetune_app, name="finetune")
    app.command("catalogue")(catalogue)
