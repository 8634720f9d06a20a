"""SageMaker's serverless customization: CreateTrainingJob with a ServerlessJobConfig.

The job's name is the only lock that SageMaker has, so the launch's key is the name. A tuned model is a model package,
which answers once it is on an endpoint (`sagemaker_serving`). Not covered: SageMaker's evaluation jobs, RLAIF.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepforge.contracts.names import ENVIRONMENT_TAG
from stepforge.errors import InvalidInput, NotReady, ProviderRefused
from stepforge.finetune.aws import AwsCustomization, is_taken
from stepforge.finetune.job import FAKE_MARK, Completion, Job, Message, Prepared, State, Tuned, model_of, normalise
from stepforge.finetune.keys import unreadable
from stepforge.finetune.sagemaker_serving import TRIAL, Endpoint
from stepforge.finetune.sent import check_sent
from stepforge.finetune.spec import LambdaGrader, ProviderName, TuneSpec

_STATES = {
    "InProgress": State.RUNNING,
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.CANCELLING,
    "Stopped": State.CANCELLED,
    "Deleting": State.CANCELLED,
}
_FAKE = f"{FAKE_MARK}-"
"""Before the name in the ARNs of jobs of a local server."""
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
        instance_type: str | None = None,
        image: str | None = None,
        deploy_seconds: float = 1_800,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`accept_eula` says that somebody has read the base model's licence and takes it.

        `instance_type` is what an endpoint runs on, with `image` in the place of the hub's container; `deploy_seconds`
        is how long `deploy` waits for it.
        """
        super().__init__(
            session,
            ("sagemaker", "sagemaker-runtime", "s3"),
            role_arn=role_arn,
            folder_uri=folder_uri,
            kms_key=kms_key,
            endpoint_url=endpoint_url,
        )
        self._sagemaker = self._clients["sagemaker"]
        self._group, self._accept_eula = group_arn, accept_eula
        self._instance_type, self._image = instance_type, image
        self._deploy_seconds, self._sleep = deploy_seconds, sleep

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
        check_sent(spec)

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
                    Tags=[
                        {"Key": "stepforge:key", "Value": key},
                        {"Key": ENVIRONMENT_TAG, "Value": spec.environment},
                    ],
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
        """The package, and the name of the endpoint that it answers on once it is deployed. Deploys nothing."""
        job = self.status(job_id)
        return Tuned(provider=self.name, job_id=job_id, model=model_of(job), handle=_name(job.key or job_id))

    def check_serving(self, spec: TuneSpec) -> None:
        if self._instance_type is None:
            raise InvalidInput(
                "a model that SageMaker customizes answers only on an endpoint, and it is not said what that may run "
                'on: give instance_type = "ml.g5.2xlarge", say, in [provider]. It is charged by the hour while the '
                "tuned model is evaluated, and for as long as it serves"
            )
        if "nova" in spec.base_model.lower():
            raise InvalidInput(
                f"{spec.base_model!r} is a Nova model, whose weights AWS keeps: customize it at provider 'bedrock', "
                "which serves it too"
            )

    def deploy(self, job_id: str, *, trial: bool, tags: Mapping[str, str]) -> Tuned:
        tuned = self.retrieve(job_id)
        if self._instance_type is None:
            raise InvalidInput('it is not said what to deploy on: give instance_type = "ml.g5.2xlarge", say')
        endpoint = self._endpoint(tuned.handle, trial=trial)
        waited, seen = 0.0, False
        while True:
            status, why = endpoint.status()
            if status == "":
                if seen:
                    raise ProviderRefused(
                        f"endpoint {endpoint.name} was removed while it was being made, as it is when an execution is "
                        "stopped: it is not made again"
                    )
                endpoint.create(
                    tuned.model,
                    role_arn=self._role,
                    instance_type=self._instance_type,
                    image=self._image,
                    hub=self._hub(job_id),
                    kms_key=self._kms_key,
                    tags=tags,
                )
            elif status == "InService":
                return tuned.model_copy(update={"handle": endpoint.name})
            elif status == "Failed":
                endpoint.remove()
                raise ProviderRefused(f"endpoint {endpoint.name} failed and was removed: {why or 'no reason is given'}")
            elif waited >= self._deploy_seconds:
                raise NotReady(f"endpoint {endpoint.name} is {status!r} after {waited:.0f} s: ask for it again later")
            else:
                seen = True
                self._sleep(self._pause)
                waited += self._pause

    def undeploy(self, job_id: str, *, trial: bool) -> None:
        self._endpoint(_name(job_id), trial=trial).remove()

    def _endpoint(self, name: str, *, trial: bool) -> Endpoint:
        return Endpoint(self._sagemaker, self._calling, f"{name.removeprefix(_FAKE)}{TRIAL * trial}")

    def _hub(self, job_id: str) -> str:
        """Of `arn:aws:sagemaker:REGION:aws:hub-content/HUB/Model/NAME/VERSION`."""
        return self.status(job_id).base_model.partition(":hub-content/")[2].partition("/")[0]

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        """In the form of OpenAI's chat completions, which the containers of customized models speak."""
        asked: dict[str, Any] = {"messages": [m.model_dump() for m in messages], "max_tokens": max_tokens}
        if temperature is not None:
            asked["temperature"] = temperature
        try:
            with self._calling("InvokeEndpoint", about_content=True):
                answer = self._clients["sagemaker-runtime"].invoke_endpoint(
                    EndpointName=tuned.handle, ContentType="application/json", Body=json.dumps(asked).encode()
                )
                found = json.loads(answer["Body"].read())
                choice, usage = found["choices"][0], found["usage"]
                return Completion(
                    text=choice["message"]["content"] or "",
                    model=tuned.handle,
                    input_tokens=usage["prompt_tokens"],
                    output_tokens=usage["completion_tokens"],
                )
        except (ValueError, LookupError) as error:
            raise unreadable(self.target, "InvokeEndpoint", type(error)) from None
        except ProviderRefused as refusal:
            if self._endpoint(tuned.handle, trial=False).status()[0] == "":
                raise ProviderRefused(
                    f"{tuned.handle} is not deployed, so nothing answers: `stepforge registry approve` deploys the "
                    "registered model"
                ) from refusal
            raise

    def delete(self, tuned: Tuned) -> None:
        for trial in (True, False):
            self.undeploy(tuned.job_id, trial=trial)
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
