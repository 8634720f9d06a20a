"""`stepforge run ...`: what starts executions. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepforge.cli import _resources
from stepforge.cli._output import Env, Json

run_app = typer.Typer(help="Start a pipeline, an evaluation or a dataset by itself.", no_args_is_help=True)
DryRun = Annotated[bool, typer.Option(help="Print the plan and change nothing.")]
Wait = Annotated[bool, typer.Option("--wait/--detach", help="Follow the run, or return once it is submitted.")]
MaxUsd = Annotated[float | None, typer.Option(min=0.0, help="Refuse what may cost more, in US dollars.")]


@run_app.command("train")
def run_train(
    domain: Annotated[str | None, typer.Option(help="Domain to train, such as facial.")] = None,
    data: Annotated[Path | None, typer.Option(help="Your own records, one JSON object a line.")] = None,
    verifier: Annotated[str | None, typer.Option(help="Your own verifier: package.module:function.")] = None,
    model: Annotated[Path | None, typer.Option(help="Local Hugging Face directory to start from.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe (TOML) instead of the domain's own.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: stages.srl.steps=50")] = None,
    instance_type: _resources.InstanceType = None,
    spot: _resources.Spot = None,
    instances: _resources.Instances = None,
    max_runtime: _resources.MaxRuntime = None,
    keep_warm: _resources.KeepWarm = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and change nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Follow the run, or return once it is submitted.")
    ] = True,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Train a domain: dataset, gate, SFT, SRL, RLVR, evaluation, comparison, registration.

    Run it again and everything that is done is adopted. A run that was followed ends with its held-out scores.
    """
    from stepforge.cli import _runs

    _runs.train(
        domain=domain,
        data=data,
        verifier=verifier,
        model=model,
        recipe=recipe,
        overrides=set_ or [],
        resources={
            "instance_type": instance_type,
            "spot": spot,
            "instances": instances,
            "max_runtime": max_runtime,
            "keep_warm": keep_warm,
        },
        dry_run=dry_run,
        wait=wait,
        env=env,
        as_json=json,
    )


@run_app.command("evaluate")
def run_evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="facial/3, facial for its newest version, a run, a training job, an s3:// address, ./folder."
        ),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            help="Held-out data: of a version or run by its name, a dataset's run, job or s3:// address. "
            "Without it, those that the model was evaluated on."
        ),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: evaluation.samples=8")] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="Compare it with the champion of its domain on the same records."),
    ] = True,
    instance_type: _resources.InstanceType = None,
    spot: _resources.Spot = None,
    max_runtime: _resources.MaxRuntime = None,
    keep_warm: _resources.KeepWarm = None,
    max_usd: MaxUsd = None,
    dry_run: DryRun = False,
    wait: Wait = True,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Score a model on held-out data, and compare it with the champion where there is one. Nothing is registered.

    Run it again and what is done is adopted. The champion is evaluated too where it was not asked the same before.
    """
    from stepforge.cli import _job_runs
    from stepforge.client import Client

    _job_runs.evaluate(
        Client(env),
        model,
        on=on,
        overrides=set_ or [],
        compare=compare,
        resources={
            "instance_type": instance_type,
            "spot": spot,
            "max_runtime": max_runtime,
            "keep_warm": keep_warm,
        },
        max_usd=max_usd,
        dry_run=dry_run,
        wait=wait,
        as_json=json,
    )


@run_app.command("dataset")
def run_dataset(
    domain: Annotated[str | None, typer.Option(help="Domain that generates it, such as facial.")] = None,
    parts: Annotated[int, typer.Option(min=1, max=500, help="Jobs that share it; eight run at a time.")] = 1,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Your own records, one JSON object a line. Give more: a job for each file."),
    ] = None,
    verifier: Annotated[str | None, typer.Option(help="Your own verifier: package.module:function.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe (TOML) instead of the domain's own.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: dataset.rl=5000")] = None,
    instance_type: _resources.InstanceType = None,
    spot: _resources.Spot = None,
    max_runtime: _resources.MaxRuntime = None,
    keep_warm: _resources.KeepWarm = None,
    max_usd: MaxUsd = None,
    dry_run: DryRun = False,
    wait: Wait = True,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Make a dataset in parts, a job each, joined and gated: what a domain generates, or files of your own records.

    Run it again and the parts that are done are adopted. However many parts, the dataset is the same, byte for byte.
    """
    from stepforge.cli import _job_runs

    _job_runs.dataset(
        env,
        domain=domain,
        parts=parts,
        data=data or [],
        verifier=verifier,
        recipe=recipe,
        overrides=set_ or [],
        resources={
            "instance_type": instance_type,
            "spot": spot,
            "max_runtime": max_runtime,
            "keep_warm": keep_warm,
        },
        max_usd=max_usd,
        dry_run=dry_run,
        wait=wait,
        as_json=json,
    )
