"""What a `train` execution does next. Pure but for the spec that is written beside the request."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from stepforge.artifacts import folder, read_bytes, write_json
from stepforge.contracts.base import Contract
from stepforge.contracts.jobs import JobOutcome, JobRequest, JobSpec, Resources
from stepforge.contracts.names import DOMAIN_TAG, ENVIRONMENT_TAG, MODEL_TAG, RUN_TAG, Keys
from stepforge.contracts.pipelines import PipelineSpec, PipelineState, next_job
from stepforge.contracts.requests import AssemblySpec, EvaluationSpec
from stepforge.contracts.work import ScratchModel
from stepforge.economics.estimate import model_name, scratch_name
from stepforge.errors import IdentityConflict, InvalidInput

Started = TypeVar("Started", PipelineSpec, EvaluationSpec, AssemblySpec)
Phase = Literal["dataset", "gate", "stage", "evaluation", "end"]


class PlanRequest(Contract):
    """Where an execution stands, and the job that ended since it was last asked."""

    state: PipelineState
    finished: JobOutcome | None = None
    run: str = ""
    """The execution's name."""


class Planned(Contract):
    """The state with what finished in it, and the job that follows; `job` is None at the end."""

    state: PipelineState
    phase: Phase
    job: JobRequest | None = None


def phase(spec: PipelineSpec, state: PipelineState) -> Phase:
    """What is due."""
    if state.dataset is None:
        return "dataset"
    if state.gate is None:
        return "gate"
    if len(state.stages) < len(spec.stages):
        return "stage"
    return "evaluation" if state.evaluation is None else "end"


def advance(spec: PipelineSpec, state: PipelineState, finished: JobOutcome) -> PipelineState:
    """`state` with the outcome of the job that was due. Raises IdentityConflict where another kind of job ended."""
    due = next_job(spec, state)
    if due is None or due.type != finished.type:
        expected = "nothing" if due is None else f"a {due.type!r} job"
        raise IdentityConflict(f"{finished.name!r} is a {finished.type!r} job, but {expected} was due")
    where = phase(spec, state)
    change: dict[str, Any] = {"stages": (*state.stages, finished)} if where == "stage" else {where: finished}
    return state.model_copy(update=change)


def job_request(
    job: JobSpec, *, image: str, resources: Resources, bucket: str, tags: dict[str, str] | None = None
) -> JobRequest:
    """The input of `run-job` for one job."""
    spec_uri = f"s3://{bucket}/{Keys.spec(job.identity)}"
    inputs = {str(channel): folder(ref.uri) for channel, ref in sorted(job.inputs.items())}
    return JobRequest(
        prefix=job.prefix,
        spec_sha256=job.identity,
        spec_uri=spec_uri,
        image=image,
        channels={"spec": spec_uri.removesuffix("spec.json"), **inputs},
        resources=resources,
        tags=tags or {},
    )


def job_tags(*, domain: str, environment: str = "", run: str = "", model: str = "") -> dict[str, str]:
    """Tags of a job; what is empty is left out, as a tag must not be."""
    given = {DOMAIN_TAG: domain, ENVIRONMENT_TAG: environment, RUN_TAG: run, MODEL_TAG: model}
    return {key: value for key, value in given.items() if value}


def pipeline_job_request(
    job: JobSpec, pipeline: PipelineSpec, *, bucket: str, environment: str = "", run: str = ""
) -> JobRequest:
    """The input of `run-job` for one job of a pipeline."""
    resources = pipeline.resources.get(job.type, Resources())
    model = "" if job.type in ("dataset", "gate") else pipeline_model(pipeline)
    tags = job_tags(domain=pipeline.domain, environment=environment, run=run, model=model)
    return job_request(job, image=pipeline.image_of(job.type), resources=resources, bucket=bucket, tags=tags)


def pipeline_model(pipeline: PipelineSpec) -> str:
    """Where all weights of a pipeline began: a size, or the digest of a model."""
    if isinstance(pipeline.model, ScratchModel):
        return scratch_name(pipeline.model)
    assert pipeline.model_artifact is not None  # by the pipeline's own validation
    return model_name(pipeline.model_artifact)


def put_spec(s3: Any, job: JobSpec, *, bucket: str, key_arn: str) -> None:
    """Write a job's spec where its channel `spec` reads it. Twice writes the same bytes."""
    write_json(s3, job, bucket=bucket, key=Keys.spec(job.identity), key_arn=key_arn)


def read_pipeline(s3: Any, state: PipelineState) -> PipelineSpec:
    """The pipeline that `state` names. Raises IdentityConflict where the object was replaced by another pipeline."""
    return read_started(s3, state.pipeline_uri, state.pipeline_sha256, PipelineSpec, called="pipeline")


def read_started(s3: Any, uri: str, sha256: str, model: type[Started], *, called: str) -> Started:
    """What an execution was started with. Raises IdentityConflict where the object was replaced by another."""
    try:
        spec = model.model_validate_json(read_bytes(s3, uri))
    except ValueError as error:
        raise InvalidInput(f"{uri} is not a {called}: {error}") from error
    if spec.identity != sha256:
        raise IdentityConflict(f"{uri} holds the {called} {spec.identity}, but {sha256} was started: submit it again")
    return spec


def finish(s3: Any, request: PlanRequest) -> tuple[PipelineSpec, PipelineState]:
    """The pipeline and its final state. Raises InvalidInput where something is still due."""
    spec = read_pipeline(s3, request.state)
    state = request.state if request.finished is None else advance(spec, request.state, request.finished)
    if (due := phase(spec, state)) != "end":
        raise InvalidInput(f"the pipeline is not done: its {due} is due")
    return spec, state


def plan(s3: Any, request: PlanRequest, *, bucket: str, key_arn: str, environment: str = "") -> Planned:
    """Take in what finished, and write the spec of the next job to S3. The same call twice writes the same bytes."""
    spec = read_pipeline(s3, request.state)
    state = request.state if request.finished is None else advance(spec, request.state, request.finished)
    job = next_job(spec, state)
    if job is None:
        return Planned(state=state, phase="end")
    put_spec(s3, job, bucket=bucket, key_arn=key_arn)
    due = pipeline_job_request(job, spec, bucket=bucket, environment=environment, run=request.run)
    return Planned(state=state, phase=phase(spec, state), job=due)
