"""`stepforge run ...`: what starts executions. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepforge.cli._options import (
    Data,
    Domain,
    DryRun,
    Instances,
    InstanceType,
    KeepWarm,
    MaxRuntime,
    MaxUsd,
    Model,
    RecipeFile,
    Set,
    Spot,
    Verifier,
    Wait,
    resources,
)
from stepforge.cli._output import Env, Json

run_app = typer.Typer(help="Start a pipeline, an evaluation or a dataset by itself.", no_args_is_help=True)


@run_app.command("train")
def run_train(
    domain: Domain = None,
    data: Data = None,
    verifier: Verifier = None,
    model: Model = None,
    recipe: RecipeFile = None,
    set_: Set = None,
    instance_type: InstanceType = None,
    spot: Spot = None,
    instances: Instances = None,
    max_runtime: MaxRuntime = None,
    keep_warm: KeepWarm = None,
    dry_run: DryRun = False,
    wait: Wait = True,
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
        resources=resources(instance_type=instance_type, spot=spot, max_runtime=max_runtime, keep_warm=keep_warm)
        | {"instance_count": instances},
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
    instance_type: InstanceType = None,
    spot: Spot = None,
    max_runtime: MaxRuntime = None,
    keep_warm: KeepWarm = None,
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
        resources=resources(instance_type=instance_type, spot=spot, max_runtime=max_runtime, keep_warm=keep_warm),
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
    verifier: Verifier = None,
    recipe: RecipeFile = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: dataset.rl=5000")] = None,
    instance_type: InstanceType = None,
    spot: Spot = None,
    max_runtime: MaxRuntime = None,
    keep_warm: KeepWarm = None,
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
        resources=resources(instance_type=instance_type, spot=spot, max_runtime=max_runtime, keep_warm=keep_warm),
        max_usd=max_usd,
        dry_run=dry_run,
        wait=wait,
        as_json=json,
    )
