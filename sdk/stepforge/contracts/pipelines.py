"""A pipeline: dataset, gate, training stages, evaluation, and where the result is registered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from stepforge.contracts.base import Contract, S3Uri, Sha256, digest
from stepforge.contracts.jobs import ArtifactRef, JobOutcome, JobSpec, Plugin
from stepforge.contracts.names import LONGEST_GROUP
from stepforge.contracts.resources import Resources, check_hosts, check_pinned
from stepforge.contracts.work import (
    DatasetWork,
    EvaluateWork,
    GateWork,
    LocalModel,
    ScratchModel,
    SftWork,
    SrlWork,
    TrainingWork,
    WorkType,
)

DATA_WORK: tuple[WorkType, ...] = ("dataset", "gate")
"""What the image `data` runs, where there is one."""


def splits_of(stage: TrainingWork) -> tuple[str, ...]:
    """Splits of which a stage needs records: one of them is enough."""
    if isinstance(stage, SftWork):
        return (stage.split,)
    return ("train",) if isinstance(stage, SrlWork) else ("rl", "train")


class PipelineSpec(Contract):
    """What `stepforge run train` submits. The execution's name carries the digest of this.

    `model` is where the first stage starts; every later stage starts from the one before it.
    """

    version: Literal[1] = 1
    domain: str
    dataset: DatasetWork
    records: ArtifactRef | None = None
    """The user's own records; None where the domain generates them."""
    gate: GateWork = GateWork()
    model: Annotated[ScratchModel | LocalModel, Field(discriminator="type")] = ScratchModel()
    model_artifact: ArtifactRef | None = None
    stages: Annotated[tuple[TrainingWork, ...], Field(min_length=1)]
    evaluation: EvaluateWork = EvaluateWork()
    plugin: Plugin | None = None
    plugin_artifact: ArtifactRef | None = None
    code: dict[WorkType, Sha256]
    """Digest of what runs each type of job, as the environment publishes it."""
    image: Annotated[str, AfterValidator(check_pinned)]
    data_image: Annotated[str, AfterValidator(check_pinned)] | None = None
    """Of datasets and gates, which need no torch. None is `image`."""
    resources: dict[WorkType, Resources] = {}
    group: Annotated[str, Field(pattern=r"^stepforge-[a-zA-Z0-9](-{0,3}[a-zA-Z0-9])*$", max_length=LONGEST_GROUP)]
    """The model package group and the endpoint. Roles are scoped to the prefix, and `-candidate` must fit."""

    @model_validator(mode="after")
    def _coherent(self) -> PipelineSpec:
        if isinstance(self.model, LocalModel) != (self.model_artifact is not None):
            raise ValueError("a local model needs model_artifact, and a scratch model must not have one")
        if self.dataset.part is not None:
            raise ValueError("dataset.part is for `stepforge run dataset`, which joins all parts: leave it out")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages need different names, given {names}: set `name` on each")
        for work, resources in self.resources.items():
            check_hosts(work, resources, own_records=self.records is not None)
        if self.records is None:
            self._has_records()
        if isinstance(self.model, ScratchModel):
            self._fits(self.model.context)
            self._is_asked_plainly()
            self._starts_unquantised()
        return self

    def _has_records(self) -> None:
        """The user's own records are counted where they are read."""
        if not self.dataset.test:
            raise ValueError("dataset.test is 0, so nothing could be evaluated: set dataset.test to 1 or more")
        for stage in self.stages:
            if not any(getattr(self.dataset, split) for split in splits_of(stage)):
                counts = " and ".join(f"dataset.{split}" for split in splits_of(stage))
                raise ValueError(
                    f"stage {stage.name!r} has nothing to read where {counts} is 0: raise it, or leave the stage out"
                )

    def _fits(self, context: int) -> None:
        for where in (*self.stages, self.evaluation):
            tokens = getattr(where, "max_new_tokens", 0)
            if tokens > context:
                raise ValueError(
                    f"max_new_tokens {tokens} of {getattr(where, 'name', 'evaluation')!r} is over model.context "
                    f"{context}: lower it, or lengthen the context"
                )

    def _is_asked_plainly(self) -> None:
        for stage in self.stages:
            if (asking := getattr(stage, "asking", None)) not in (None, "plain"):
                raise ValueError(
                    f"stage {stage.name!r} has asking {asking!r}, but a model that starts from scratch knows its "
                    f"dataset's words alone: set asking = 'plain' in this stage, or give a model"
                )

            if getattr(stage, "next_title", False):
                raise ValueError(
                    f"stage {stage.name!r} has next_title, but a model that starts from scratch knows its dataset's "
                    "words alone, and `**Title**` is none of them: leave next_title out, or give a model"
                )

    def _starts_unquantised(self) -> None:
        first = self.stages[0]
        if first.lora is not None and first.lora.bits is not None:
            raise ValueError(
                f"stage {first.name!r} has lora.bits {first.lora.bits}, but it starts from random weights, which "
                "cannot be trained in so few: leave lora.bits out, or give a model"
            )

    def image_of(self, work: WorkType) -> str:
        """The image that a type of job runs in."""
        return self.data_image if self.data_image is not None and work in DATA_WORK else self.image

    @property
    def identity(self) -> str:
        """SHA-256 of what decides the result; the instances that it runs on do not."""
        plain = self.model_dump(mode="json", exclude={"resources", "image", "data_image"})
        for ref in ("records", "model_artifact", "plugin_artifact"):
            if plain[ref] is not None:
                plain[ref] = plain[ref]["sha256"]
        return digest(plain)


class PipelineState(Contract):
    """What a `train` execution has done so far; it travels through the machine as its input."""

    pipeline_uri: S3Uri
    pipeline_sha256: Sha256
    """Identity of the pipeline."""
    dataset: JobOutcome | None = None
    gate: JobOutcome | None = None
    stages: tuple[JobOutcome, ...] = ()
    evaluation: JobOutcome | None = None


def next_job(spec: PipelineSpec, state: PipelineState) -> JobSpec | None:
    """The job that follows from what is done; None when the evaluation is done. Pure, so it can be planned offline."""
    plugin = {} if spec.plugin_artifact is None else {"plugin": spec.plugin_artifact}
    shared = {"domain": spec.domain, "plugin": spec.plugin}
    if state.dataset is None:
        records = {} if spec.records is None else {"records": spec.records}
        return JobSpec(work=spec.dataset, inputs={**records, **plugin}, code_sha256=spec.code["dataset"], **shared)
    data = {"data": state.dataset.artifact, **plugin}
    if state.gate is None:
        return JobSpec(work=spec.gate, inputs=data, code_sha256=spec.code["gate"], **shared)
    if len(state.stages) < len(spec.stages):
        work = spec.stages[len(state.stages)]
        start = state.stages[-1].artifact if state.stages else spec.model_artifact
        return JobSpec(
            work=work,
            model=spec.model if start is None else LocalModel(),
            inputs={**data, "gate": state.gate.artifact, **({} if start is None else {"model": start})},
            code_sha256=spec.code[work.type],
            **shared,
        )
    if state.evaluation is None:
        return JobSpec(
            work=spec.evaluation,
            inputs={**data, "model": state.stages[-1].artifact},
            code_sha256=spec.code["evaluate"],
            **shared,
        )
    return None
