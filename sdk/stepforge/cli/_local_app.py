"""Commands about the local AWS. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from typing import Annotated

import typer

from stepforge.cli._output import Json, emit, print_lines

local_app = typer.Typer(help="The local AWS on this machine.", no_args_is_help=True)


@local_app.command("up")
def local_up(json: Json = False) -> None:
    """Start the local AWS and deploy the environment `local`; other commands do it by themselves."""
    from stepforge.connection import connect

    connection = connect("local")
    emit(
        {"endpoint": connection.endpoint_url}, as_json=json, text=f"the local AWS listens at {connection.endpoint_url}"
    )


@local_app.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def local_run(
    command: Annotated[
        list[str], typer.Argument(help="A command and its arguments, after `--`.", metavar="COMMAND...")
    ],
) -> None:
    """Run a command whose AWS is this machine's: `stepforge local run -- aws s3 ls`. Its exit code is the answer.

    The AWS CLI, the CDK CLI and boto3 then reach the local AWS, whatever profile you chose. It is started if need be.
    """
    from stepforge.cli import _local

    raise typer.Exit(_local.run(command))


@local_app.command("images")
def local_images(
    environment: Annotated[str, typer.Argument(help="One that was deployed here by the CDK CLI, such as dev.")],
    json: Json = False,
) -> None:
    """Publish the images of an environment that was deployed to the local AWS, where no build can do it."""
    from stepforge.cli import _local

    _local.images(environment, as_json=json)


@local_app.command("interrupt")
def local_interrupt(job: Annotated[str, typer.Argument(help="A spot job that runs.")], json: Json = False) -> None:
    """Take a spot job's instances away, as AWS may at any time: SIGTERM, the grace, and it starts again."""
    from stepforge.cli import _local

    _local.interrupt(job, as_json=json)


@local_app.command("capacity")
def local_capacity(
    instance_type: Annotated[str, typer.Argument(help="Such as ml.g5.xlarge.")],
    available: Annotated[bool, typer.Option("--some/--none", help="Whether there are such instances.")],
    json: Json = False,
) -> None:
    """Let there be no instances of a type, to see what a run does then: the next type, or spot capacity waited for."""
    from stepforge import local

    local.set_capacity(instance_type, available=available)
    text = f"{instance_type}: {'available' if available else 'none'}"
    emit({"instance_type": instance_type, "available": available}, as_json=json, text=text)


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@local_app.command("down")
def local_down(yes: Yes = False, json: Json = False) -> None:
    """Stop the local AWS. What it holds is kept; runs that are under way are interrupted, after a question.

    The command that started a run goes on from its last checkpoint.
    """
    from stepforge.cli import _local

    _local.down(yes=yes, as_json=json)


@local_app.command("status")
def local_status(json: Json = False) -> None:
    """Tell whether the local AWS runs, what it is at, how much memory it holds and where its state lies."""
    from stepforge.cli import _local

    _local.status(as_json=json)


@local_app.command("logs")
def local_logs(
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 50,
    json: Json = False,
) -> None:
    """Print the local server's own log."""
    from stepforge import local

    print_lines(local.logs(follow=follow, lines=lines), as_json=json)


@local_app.command("reset")
def local_reset(yes: Yes = False, json: Json = False) -> None:
    """Stop the local AWS and delete all that it holds: runs, models, endpoints."""
    from stepforge.cli import _local

    _local.reset(yes=yes, as_json=json)
