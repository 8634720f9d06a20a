"""Commands about what would pay. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from stepforge.cli._finetune import Advice, Known, Own
from stepforge.cli._finetune import app as finetune_app
from stepforge.cli._output import Json


@finetune_app.command("arms")
def arms(
    data: Annotated[Path, typer.Option(help="Your records, one JSON object a line.")],
    out: Annotated[Path, typer.Option(help="The question's file, .toml or .json.")] = Path("question.toml"),
    domain: Annotated[str, typer.Option(help="Whose records these are.")] = "records",
    question: Annotated[Path | None, typer.Option(help="A question that is begun: arms are added to it.")] = None,
    base: Annotated[str | None, typer.Option(help="Row of the model that answers now: its prompt is an arm.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Look at this one alone; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="This way to tune alone; may be repeated.")] = None,
    own: Own = None,
    needed_until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="A base model has to answer on this day; a year from now."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=50, help="Of a tune that is charged by the token.")] = 2,
    hours: Annotated[float | None, typer.Option(help="Of a tune that is charged by the hour.")] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Of one answer; as long as those of the data.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt that each row would have.")] = None,
    people_usd: Annotated[
        float | None, typer.Option(min=0, max=1e12, help="US dollars of people's time for one training.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a question whose arms are what the catalogue has for your records, and say why the others are none."""
    from stepforge.cli import _arms

    _arms.arms(
        data,
        out,
        domain=domain,
        question=question,
        own=own or [],
        wish=_arms.Wish(
            base=base,
            providers=provider or [],
            methods=method or [],
            needed_until=None if needed_until is None else needed_until.date(),
            epochs=epochs,
            hours=hours,
            answer_tokens=answer_tokens,
            system=system,
            people_usd=people_usd,
        ),
        as_json=json,
    )


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
