"""The options that several commands share: what is trained, and what jobs run on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Domain = Annotated[str | None, typer.Option(help="Domain to train, such as facial.")]
Data = Annotated[Path | None, typer.Option(help="Your own records, one JSON object a line.")]
Verifier = Annotated[str | None, typer.Option(help="Your own verifier: package.module:function.")]
Model = Annotated[Path | None, typer.Option(help="Local Hugging Face directory to start from.")]
RecipeFile = Annotated[Path | None, typer.Option(help="Recipe (TOML) instead of the domain's own.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override: stages.srl.steps=50")]
MaxUsd = Annotated[float | None, typer.Option(min=0.0, help="Refuse what may cost more, in US dollars.")]
DryRun = Annotated[bool, typer.Option(help="Print the plan and change nothing.")]
Wait = Annotated[bool, typer.Option("--wait/--detach", help="Follow the run, or return once it is submitted.")]

InstanceType = Annotated[
    list[str] | None,
    typer.Option(help="Instance of the jobs, such as ml.g5.xlarge. Give more: each is tried where the one before it "
                 "has no capacity."),
]  # fmt: skip
Spot = Annotated[
    bool | None,
    typer.Option("--spot/--no-spot", help="Cheaper instances that may be taken away; jobs go on from a checkpoint."),
]
Instances = Annotated[int | None, typer.Option(help="Hosts of each training stage and of a generated dataset.")]
MaxRuntime = Annotated[int | None, typer.Option(help="Longest that a job may run, in seconds.")]
KeepWarm = Annotated[
    int | None, typer.Option(help="Keep the instances, billed, so many seconds, so that the next job starts at once.")
]


def resources(
    *, instance_type: list[str] | None, spot: bool | None, max_runtime: int | None, keep_warm: int | None
) -> dict[str, Any]:
    """Fields of `Resources`; None is what was not given."""
    types = instance_type or []
    return {
        "instance_type": types[0] if types else None,
        "fallback_instance_types": tuple(types[1:]) if types else None,
        "spot": spot,
        "max_runtime_seconds": max_runtime,
        "keep_alive_seconds": keep_warm,
    }
