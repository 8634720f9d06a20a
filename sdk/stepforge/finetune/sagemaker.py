"""SageMaker's serverless customization: CreateTrainingJob with a ServerlessJobConfig.

The job's name is the only lock that SageMaker has, so the launch's key is the name. Not covered: evaluation jobs,
RLAIF, serving (register the model package, and promote it like any other).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from stepforge.finetune import job as jobs
from stepforge.finetune.bedrock import AwsCalls, is_taken
from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, State, Tuned, model_of, normalise
from stepforge.finetune.keys import is_loopback, quiet
from stepforge.finetune.spec import LambdaGrader, ProviderName, TuneSpec

_STATES = {
    "InProgress": State.RUNNING,
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.CANCELLING,
    "Stopped": State.CANCELLED,
    "Deleting": State.CANCELLED,
}
_TECHNIQUES = {"sft": "SFT", "dpo": "DPO", "rft": "RLVR"}


class SageMakerProvider(AwsCalls):
    """Serverless customization in one account and region; tuned models are packages of `group_arn`."""

    name: ProviderName = "sagemaker"
    remembers_seconds = 0.0
    """Names are unique: a second call with the same one is refused."""

    def __init__(
        self,
        session: Any,
        *,
        role_arn: str,
        folder_uri: str,
        group_arn: str,
        accept_eula: bool = False,
        kms_key: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        """`accept_eula` says that somebody has read the base model's licence and takes it."""
        from botocore.config import Config

        quiet()
        config = Config(retries={"mode": "standard", "max_attempts": 2}, user_agent_extra="stepforge")
        self._sagemaker, self._s3 = (
            session.client(name, endpoint_url=endpoint_url, config=config) for name in ("sagemaker", "s3")
        )
        self._role, self._folder_uri, self._group, self._kms_key = role_arn, folder_uri, group_arn, kms_key
        self._accept_eula = accept_eula
        self.local = is_loopback(endpoint_url)
        self.target = f"sagemaker:{role_arn.split(':')[4]}:{session.region_name}" + (
            f":{endpoint_url}" if endpoint_url else ""
        )

    def validate(self, spec: TuneSpec) -> None:
        if spec.method not in _TECHNIQUES:
            raise InvalidInput(f"method {spec.method!r} is not offered here: use one of {', '.join(_TECHNIQUES)}")
        if spec.training.format != "sagemaker":
            raise InvalidInput(f"the data is in {spec.training.format!r} format: write it for 'sagemaker'")
        if ":hub-content/" not in spec.base_model:
            raise InvalidInput(
                f"base model {spec.base_model!r} is no model of SageMaker's hub: give its ARN (hub-content)"
            )
        if spec.grader is not None and not isinstance(spec.grader, LambdaGrader):
            raise InvalidInput(
                f"grader {spec.grader.type!r} is not offered here: give an evaluator's ARN as a grader of type 'lambda'"
            )

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        return jobs.estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        return self._upload(spec, folder, self._folder_uri)

    def find(self, key: str, prepared: Prepared) -> Job | None:
        del prepared
        try:
            return self.status(key)
        except ProviderRefused as refusal:
            if "not found" in str(refusal).lower():
                return None
            raise

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        h = spec.hyperparameters
        given = {"max_epochs": h.epochs, "global_batch_size": h.batch_size}
        serverless: dict[str, Any] = {
            "BaseModelArn": spec.base_model,
            "AcceptEula": self._accept_eula,
            "JobType": "FineTuning",
            "CustomizationTechnique": _TECHNIQUES[spec.method],
        }
        if isinstance(spec.grader, LambdaGrader):
            serverless["EvaluatorArn"] = spec.grader.arn
        output = {"S3OutputPath": f"{self._folder_uri.rstrip('/')}/output"}
        if self._kms_key is not None:
            output["KmsKeyId"] = self._kms_key
        channels = [_channel("train", prepared.training)]
        if prepared.validation is not None:
            channels.append(_channel("validation", prepared.validation))
        try:
            with self._calling("CreateTrainingJob"):
                arn = self._sagemaker.create_training_job(
                    TrainingJobName=key,
                    RoleArn=self._role,
                    InputDataConfig=channels,
                    OutputDataConfig=output,
                    HyperParameters={name: str(value) for name, value in given.items() if value is not None},
                    ServerlessJobConfig=serverless,
                    ModelPackageConfig={"ModelPackageGroupArn": self._group},
                    Tags=[{"Key": "stepforge:key", "Value": key}],
                )["TrainingJobArn"]
        except ProviderRefused as refusal:
            if not is_taken(refusal):
                raise
            return self.status(key)  # another machine was faster
        try:
            return self.status(arn)
        except (ProviderRefused, ProviderUnavailable):
            return Job(provider=self.name, id=arn, key=key, state=State.UNKNOWN, raw_state="not described yet")

    def status(self, job_id: str) -> Job:
        with self._calling("DescribeTrainingJob"):
            found = self._sagemaker.describe_training_job(TrainingJobName=_name(job_id))
            return Job(
                provider=self.name,
                id=found["TrainingJobArn"],
                key=found["TrainingJobName"],
                state=normalise(found["TrainingJobStatus"], _STATES),
                raw_state=found["TrainingJobStatus"],
                base_model=found.get("ServerlessJobConfig", {}).get("BaseModelArn", ""),
                model=found.get("OutputModelPackageArn"),
                created_at=found.get("CreationTime"),
                billable_tokens=found.get("BillableTokenCount"),
                error=found.get("FailureReason"),
            )

    def cancel(self, job_id: str) -> Job:
        before = self.status(job_id)
        if before.state.terminal:
            return before
        try:
            with self._calling("StopTrainingJob"):
                self._sagemaker.stop_training_job(TrainingJobName=_name(job_id))
        except ProviderRefused:
            if not self.status(job_id).state.terminal:  # it may have ended between the two calls
                raise
        return self.status(job_id)

    def retrieve(self, job_id: str) -> Tuned:
        model = model_of(self.status(job_id))
        return Tuned(provider=self.name, job_id=job_id, model=model, handle=model)

    def invoke(self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        raise InvalidInput(
            f"{tuned.handle} is a model package, which answers nothing by itself: approve it, so that it is deployed, "
            "and ask its endpoint with `stepforge predict`"
        )

    def delete(self, tuned: Tuned) -> None:
        try:
            with self._calling("DeleteModelPackage"):
                self._sagemaker.delete_model_package(ModelPackageName=tuned.model)
        except ProviderRefused as refusal:
            if not any(words in str(refusal) for words in ("does not exist", "no such", "not found")):
                raise


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _name(job_id: str) -> str:
    """The name in an ARN, or the name itself."""
    return job_id.rpartition("/")[2]
