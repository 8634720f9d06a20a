"""What a person brings to a pipeline, checked and described before an environment is asked for anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stepforge.contracts.jobs import Plugin
from stepforge.contracts.manifests import ArtifactKind, Manifest, describe_folder
from stepforge.contracts.resources import Resources
from stepforge.contracts.user_records import plugin_version
from stepforge.contracts.work import RlvrWork, SrlWork, TrainingWork, WorkType
from stepforge.errors import InvalidInput
from stepforge.installation import user_code
from stepforge.recipes import Recipe
from stepforge.submitting.models import check_model_folder, check_stages


@dataclass(frozen=True)
class Inputs:
    """A recipe, and the folders that have to be uploaded for it."""

    recipe: Recipe
    plugin: Plugin | None = None
    folders: dict[ArtifactKind, tuple[Path, Manifest]] = field(default_factory=dict)


@contextmanager
def prepare(
    recipe: Recipe, *, model: Path | None = None, data: Path | None = None, verifier: str | None = None
) -> Iterator[Inputs]:
    """Check and stage what a recipe is run with; what was staged is gone afterwards.

    `model` is a Hugging Face directory, `data` a file of records, `verifier` is `package.module:function`.
    Raises InvalidInput where one of them cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="stepforge-") as scratch:
        folders: dict[ArtifactKind, tuple[Path, Manifest]] = {}
        code = user_code.plugin_for(recipe.domain, verifier, into=Path(scratch) / "plugin")
        if code is not None:
            folders["plugin"] = code.folder, describe_folder(code.folder, "plugin")
        if data is not None:
            judge = f"{recipe.domain}@{plugin_version(folders['plugin'][1].sha256)}" if verifier else None
            staged = Path(scratch) / "records"
            records = user_code.stage_records(data, into=staged, domain=recipe.domain, verifier=judge)
            folders["records"] = staged, describe_folder(staged, "records")
            recipe = recipe.for_records(records)
        if model is not None:
            folders["model"] = model, describe_folder(check_model_folder(model), "model")
            check_stages(model, recipe.stages_for(given_model=True), recipe.evaluation)
        yield Inputs(recipe, None if code is None else code.plugin, folders)


def by_vllm(stages: Sequence[TrainingWork]) -> list[SrlWork | RlvrWork]:
    """Stages whose rollouts come from vLLM."""
    return [stage for stage in stages if isinstance(stage, SrlWork | RlvrWork) and stage.vllm is not None]


def check_instances(stages: Sequence[TrainingWork], resources: Mapping[WorkType, Resources]) -> None:
    """What stages ask of the instances that they get. Raises InvalidInput naming the stage and the instance type."""
    for stage in by_vllm(stages):
        if without := resources.get(stage.type, Resources()).without_gpu:
            raise InvalidInput(
                f"stage {stage.name!r} has vllm, which needs a GPU, and {' and '.join(without)} has none: leave vllm "
                f"out, or give {stage.type!r} jobs an instance such as ml.g5.xlarge"
            )


def check_here(stages: Sequence[TrainingWork]) -> None:
    """What stages ask of the machine on which they would run, this one. Raises InvalidInput naming the stage."""
    quantised = next((stage for stage in stages if stage.lora is not None and stage.lora.bits is not None), None)
    sampled = next(iter(by_vllm(stages)), None)
    if quantised is None and sampled is None:
        return
    from stepforge.installation.health import why_not_in_4_bits, why_not_vllm

    if sampled is not None and (lacking := why_not_vllm()):
        raise InvalidInput(
            f"stage {sampled.name!r} has vllm, which needs CUDA and vLLM; this machine has {lacking}: leave vllm out "
            "to sample with stepforge's own sampler, or run it in an environment with a GPU"
        )
    if quantised is not None and (lacking := why_not_in_4_bits()):
        raise InvalidInput(
            f"stage {quantised.name!r} has lora.bits = 4, which needs CUDA and the package bitsandbytes; this machine "
            f"has {lacking}: leave lora.bits out to train adapters above float32 weights, or run it in an environment "
            "with a GPU"
        )
