"""SageMaker's serverless customization: CreateTrainingJob with a ServerlessJobConfig.

The job's name is the only lock that SageMaker has, so the launch's key is the name. Not covered: evaluation jobs,
RLAIF, serving (register the model package, and promote it like any other).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepforge.errors import InvalidInput, ProviderRefused
from stepforge.finetune.aws import AwsCustomization, is_taken
from stepforge.finetune.job import Completion, Job, Message, Prepared, State, Tuned, model_of, normalise
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


class SageMakerProvider(AwsCustomization):
    """Serverless customization in one account and region; tuned models are packages of `group_arn`."""

    name: ProviderName = "sagemaker"
    _absent = ("does not exist", "no such", "not found")

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
        super().__init__(
            session,
            ("sagemaker", "s3"),
            role_arn=role_arn,
            folder_uri=folder_uri,
            kms_key=kms_key,
            endpoint_url=endpoint_url,
        )
        self._sagemaker = self._clients["sagemaker"]
        self._group, self._accept_eula = group_arn, accept_eula

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
        return self._made(arn, key)

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

    def _stop(self, job_id: str) -> None:
        with self._calling("StopTrainingJob"):
            self._sagemaker.stop_training_job(TrainingJobName=_name(job_id))

    def retrieve(self, job_id: str) -> Tuned:
        model = model_of(self.status(job_id))
        return Tuned(provider=self.name, job_id=job_id, model=model, handle=model)

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        raise InvalidInput(
            f"{tuned.handle} is a model package, which answers nothing by itself: approve it, so that it is deployed, "
            "and ask its endpoint with `stepforge predict`"
        )

    def delete(self, tuned: Tuned) -> None:
        try:
            with self._calling("DeleteModelPackage"):
                self._sagemaker.delete_model_package(ModelPackageName=tuned.model)
        except ProviderRefused as refusal:
            if not self._is_absent(refusal):
                raise


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _name(job_id: str) -> str:
    """The name in an ARN, or the name itself."""
    return job_id.rpartition("/")[2]
