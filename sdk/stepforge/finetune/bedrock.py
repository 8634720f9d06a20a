"""Customization of models on Amazon Bedrock: supervised, reinforcement with a function as the grader, distillation.

boto3 is part of the base. `clientRequestToken` makes a launch one launch by Bedrock's own promise. Not covered:
invocation logs as a distillation's data, provisioned throughput, continued pre-training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

from stepforge.errors import InvalidInput, ModelGone, NotReady, ProviderRefused
from stepforge.finetune.aws import AwsCustomization, is_taken
from stepforge.finetune.job import Completion, Job, Message, Prepared, State, Tuned, model_of, normalise
from stepforge.finetune.sent import MOST_EPOCHS, check_sent
from stepforge.finetune.spec import LambdaGrader, ProviderName, Teacher, TuneSpec

CLAUDE_ENDED = date(2026, 9, 10)
"""Claude 3 Haiku was the last Claude that Bedrock customized."""
_STATES = {
    "InProgress": State.RUNNING,
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.CANCELLING,
    "Stopped": State.CANCELLED,
}
_TYPES = {"sft": "FINE_TUNING", "rft": "REINFORCEMENT_FINE_TUNING", "distillation": "DISTILLATION"}


class BedrockProvider(AwsCustomization):
    """Customization jobs in one account and region. `folder_uri` is where data and results go, `s3://bucket/prefix`."""

    name: ProviderName = "bedrock"
    _absent = (": 404 ", "ResourceNotFoundException", "NoSuchKey")

    def __init__(
        self,
        session: Any,
        *,
        role_arn: str,
        folder_uri: str,
        kms_key: str | None = None,
        endpoint_url: str | None = None,
        deploy_seconds: float = 1_800,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`session` is the caller's boto3.Session: its credentials and its region pay. `deploy_seconds` is how long
        `retrieve` waits for a deployment."""
        super().__init__(
            session,
            ("bedrock", "bedrock-runtime", "s3"),
            role_arn=role_arn,
            folder_uri=folder_uri,
            kms_key=kms_key,
            endpoint_url=endpoint_url,
        )
        self._bedrock, self._runtime = self._clients["bedrock"], self._clients["bedrock-runtime"]
        self._deploy_seconds, self._sleep = deploy_seconds, sleep

    def validate(self, spec: TuneSpec) -> None:
        if "anthropic." in spec.base_model:
            raise ModelGone(
                f"{spec.base_model!r} cannot be customized: the last Claude that could be, Claude 3 Haiku, ended on "
                f"{CLAUDE_ENDED}. Optimise the prompt instead (provider 'anthropic'), or choose another base model"
            )
        if spec.method not in _TYPES:
            raise InvalidInput(f"method {spec.method!r} is not offered by Bedrock: use one of {', '.join(_TYPES)}")
        wanted = "openai" if spec.method == "rft" else "bedrock"
        if spec.training.format != wanted:
            raise InvalidInput(f"the data is in {spec.training.format!r} format: write it for {wanted!r}")
        if spec.grader is not None and not isinstance(spec.grader, LambdaGrader):
            raise InvalidInput(
                f"grader {spec.grader.type!r} is not offered by Bedrock: put the verifier into a Lambda function, and "
                "give its ARN as a grader of type 'lambda'"
            )
        most = MOST_EPOCHS.get((self.name, spec.method))
        if most is not None and spec.hyperparameters.epochs > most:
            raise InvalidInput(f"epochs {spec.hyperparameters.epochs}: Bedrock takes 1 to {most}")
        if spec.teacher is not None:
            self._validate_distillation(spec.teacher)
        check_sent(spec)

    @staticmethod
    def _validate_distillation(teacher: Teacher) -> None:
        if "anthropic." in teacher.model:
            raise ModelGone(
                f"{teacher.model!r}: Bedrock no longer distils from a Claude. Choose a teacher of the base model's"
            )
        if teacher.sft_loss_weight is not None:
            raise InvalidInput("sft_loss_weight belongs to Vertex's distillation: leave it out")

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        asked: dict[str, Any] = {
            "jobName": key,
            "customModelName": f"{spec.suffix}-{key[-12:]}",
            "clientRequestToken": key,
            "roleArn": self._role,
            "baseModelIdentifier": spec.base_model,
            "customizationType": _TYPES[spec.method],
            "trainingDataConfig": {"s3Uri": prepared.training},
            "outputDataConfig": {"s3Uri": f"{self._folder_uri.rstrip('/')}/output/{key}"},
            "jobTags": [{"key": "stepforge-key", "value": key}],
            **self._settings(spec),
        }
        if prepared.validation is not None:
            asked["validationDataConfig"] = {"validators": [{"s3Uri": prepared.validation}]}
        if self._kms_key is not None:
            asked["customModelKmsKeyId"] = self._kms_key
        try:
            with self._calling("CreateModelCustomizationJob"):
                arn = self._bedrock.create_model_customization_job(**asked)["jobArn"]
        except ProviderRefused as refusal:
            if not is_taken(refusal):
                raise
            return self.status(key)  # another machine was faster
        return self._made(arn, key)

    @staticmethod
    def _settings(spec: TuneSpec) -> dict[str, Any]:
        h = spec.hyperparameters
        if spec.method == "sft":
            given = {"epochCount": h.epochs, "batchSize": h.batch_size}
            return {"hyperParameters": {name: str(value) for name, value in given.items() if value is not None}}
        if spec.teacher is not None:
            teacher = {
                "teacherModelIdentifier": spec.teacher.model,
                "maxResponseLengthForInference": spec.teacher.max_response_tokens,
            }
            return {"customizationConfig": {"distillationConfig": {"teacherModelConfig": teacher}}}
        assert isinstance(spec.grader, LambdaGrader)
        settings = {"epochCount": h.epochs, "batchSize": h.batch_size, "trainingSamplePerPrompt": h.samples_per_prompt}
        rft = {
            "graderConfig": {"lambdaGrader": {"lambdaArn": spec.grader.arn}},
            "hyperParameters": {name: value for name, value in settings.items() if value is not None},
        }
        return {"customizationConfig": {"rftConfig": rft}}

    def status(self, job_id: str) -> Job:
        with self._calling("GetModelCustomizationJob"):
            found = self._bedrock.get_model_customization_job(jobIdentifier=job_id)
            return Job(
                provider=self.name,
                id=found["jobArn"],
                key=found.get("clientRequestToken"),
                state=normalise(found["status"], _STATES),
                raw_state=found["status"],
                base_model=found.get("baseModelArn", ""),
                model=found.get("outputModelArn"),
                created_at=found.get("creationTime"),
                error=found.get("failureMessage"),
            )

    def _stop(self, job_id: str) -> None:
        with self._calling("StopModelCustomizationJob"):
            self._bedrock.stop_model_customization_job(jobIdentifier=job_id)

    def retrieve(self, job_id: str) -> Tuned:
        """Deploys the model for calls that are charged by the token, where that was not done yet."""
        model = model_of(self.status(job_id))
        name = f"stepforge-{model.rpartition('/')[2]}"
        with self._calling("CreateCustomModelDeployment"):
            made = self._bedrock.create_custom_model_deployment(
                modelDeploymentName=name, modelArn=model, clientRequestToken=name
            )
            arn = made["customModelDeploymentArn"]
        waited = 0.0
        while (status := self._deployment(arn)) != "Active":
            if status == "Failed":
                raise ProviderRefused(f"deployment {arn} is {status!r}: see why in Bedrock's console")
            if waited >= self._deploy_seconds:
                raise NotReady(f"deployment {arn} is {status!r} after {waited:.0f} s: ask for it again later")
            self._sleep(self._pause)
            waited += self._pause
        return Tuned(provider=self.name, job_id=job_id, model=model, handle=arn)

    def _deployment(self, arn: str) -> str:
        with self._calling("GetCustomModelDeployment"):
            return str(self._bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=arn)["status"])

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        system = [{"text": m.content} for m in messages if m.role == "system"]
        asked = [{"role": m.role, "content": [{"text": m.content}]} for m in messages if m.role != "system"]
        with self._calling("Converse", about_content=True):
            answer = self._runtime.converse(
                modelId=tuned.handle,
                messages=asked,
                inferenceConfig={
                    "maxTokens": max_tokens,
                    **({} if temperature is None else {"temperature": temperature}),
                },
                **({"system": system} if system else {}),
            )
            parts = answer["output"]["message"]["content"]
            usage = answer["usage"]
            return Completion(
                text="".join(part.get("text", "") for part in parts),
                model=tuned.handle,
                input_tokens=usage["inputTokens"],
                output_tokens=usage["outputTokens"],
            )

    def delete(self, tuned: Tuned) -> None:
        for call, given in (
            ("delete_custom_model_deployment", {"customModelDeploymentIdentifier": tuned.handle}),
            ("delete_custom_model", {"modelIdentifier": tuned.model}),
        ):
            try:
                with self._calling(call):
                    getattr(self._bedrock, call)(**given)
            except ProviderRefused as refusal:
                if not self._is_absent(refusal):
                    raise
