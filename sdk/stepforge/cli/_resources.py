"""The options that say what jobs run on, for every command that starts some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from stepforge.recipes import Recipe

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


def apply(
    recipe: Recipe,
    *,
    instance_type: list[str] | None = None,
    spot: bool | None = None,
    instances: int | None = None,
    max_runtime: int | None = None,
    keep_warm: int | None = None,
) -> Recipe:
    """The recipe with what was given on the command line. Raises InvalidInput for a value that cannot work."""
    changes = fields(instance_type=instance_type, spot=spot, max_runtime=max_runtime, keep_warm=keep_warm)
    return recipe.running_on(**changes, instance_count=instances)


def fields(
    *,
    instance_type: list[str] | None = None,
    spot: bool | None = None,
    max_runtime: int | None = None,
    keep_warm: int | None = None,
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
