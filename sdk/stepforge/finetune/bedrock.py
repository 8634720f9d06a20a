"""Customization of models on Amazon Bedrock: supervised, and reinforcement with a function as the grader.

boto3 is part of the base. `clientRequestToken` makes a launch one launch by Bedrock's own promise. Not covered:
distillation, provisioned throughput, continued pre-training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from stepforge.contracts.names import split_uri
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput, ModelGone, ProviderRefused, ProviderUnavailable
from stepforge.finetune import job as jobs
from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, State, Tuned, model_of, normalise
from stepforge.finetune.keys import failure, is_loopback, quiet, unreadable
from stepforge.finetune.spec import LambdaGrader, ProviderName, TuneSpec
from stepforge.finetune.uploads import checked_bytes

CLAUDE_ENDED = date(2026, 9, 10)
"""Claude 3 Haiku was the last Claude that Bedrock customized."""
_STATES = {
    "InProgress": State.RUNNING,
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.CANCELLING,
    "Stopped": State.CANCELLED,
}
_TYPES = {"sft": "FINE_TUNING", "rft": "REINFORCEMENT_FINE_TUNING"}
_ABSENT = ("ResourceNotFoundException", "404", "NoSuchKey", "NotFound")
DEPLOY_SECONDS = 1_800.0


def is_taken(refusal: ProviderRefused) -> bool:
    """Whether the name or the token is another job's already: ours, from another machine."""
    return any(code in str(refusal) for code in ("ConflictException", "ResourceInUse"))


class AwsCalls:
    """What Bedrock and SageMaker have in common: S3, and errors in our words."""

    target: str
    _s3: Any

    def _put(self, uri: str, data: bytes) -> str:
        bucket, key = split_uri(uri)
        with self._calling("PutObject", about_content=True):
            self._s3.put_object(Bucket=bucket, Key=key, Body=data)
        return uri

    def _upload(self, spec: TuneSpec, folder: Path, folder_uri: str) -> Prepared:
        uris = [
            self._put(f"{folder_uri.rstrip('/')}/{f.filename}", checked_bytes(folder / f.filename, f.sha256))
            for f in (spec.training, spec.validation)
            if f is not None
        ]
        return Prepared(training=uris[0], validation=uris[1] if len(uris) > 1 else None)

    @contextmanager
    def _calling(self, call: str, *, about_content: bool = False) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except ClientError as error:
            code = str(error.response["Error"].get("Code", ""))
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if "Throttl" in code or code == "TooManyRequestsException":
                status = 429
            elif code in ("ConflictException", "ResourceInUse"):
                status = 400  # the name or token is taken: nothing was done
            message = str(error.response["Error"].get("Message", ""))
            raise failure(
                self.target, call, status=status, code=code, message=message, about_content=about_content
            ) from None
        except ParamValidationError as error:
            raise InvalidInput(f"{self.target} {call}: {' '.join(str(error).split())[:300]}") from None
        except (BotoCoreError, ResponseParserError) as error:
            raise failure(self.target, call, status=None, code=type(error).__name__) from None
        except (KeyError, TypeError) as error:
            raise unreadable(self.target, call, type(error)) from None


class BedrockProvider(AwsCalls):
    """Customization jobs in one account and region. `folder_uri` is where data and results go, `s3://bucket/prefix`."""

    name: ProviderName = "bedrock"
    remembers_seconds = 0.0
    """The token makes a second call the same job."""

    def __init__(
        self,
        session: Any,
        *,
        role_arn: str,
        folder_uri: str,
        kms_key: str | None = None,
        endpoint_url: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`session` is the caller's boto3.Session: its credentials and its region pay."""
        from botocore.config import Config

        quiet()
        config = Config(retries={"mode": "standard", "max_attempts": 2}, user_agent_extra="stepforge")
        services = ("bedrock", "bedrock-runtime", "s3")
        self._bedrock, self._runtime, self._s3 = (
            session.client(name, endpoint_url=endpoint_url, config=config) for name in services
        )
        self._role, self._folder_uri, self._kms_key, self._sleep = role_arn, folder_uri, kms_key, sleep
        self.local = is_loopback(endpoint_url)
        self.target = f"bedrock:{role_arn.split(':')[4]}:{session.region_name}" + (
            f":{endpoint_url}" if endpoint_url else ""
        )

    def validate(self, spec: TuneSpec) -> None:
        if "anthropic." in spec.base_model:
            raise ModelGone(
                f"{spec.base_model!r} cannot be customized: the last Claude that could be, Claude 3 Haiku, ended on "
                f"{CLAUDE_ENDED}. Optimise the prompt instead (provider 'anthropic'), or choose another base model"
            )
        if spec.method not in _TYPES:
            raise InvalidInput(f"method {spec.method!r} is not offered by Bedrock: use one of {', '.join(_TYPES)}")
        wanted = "bedrock" if spec.method == "sft" else "openai"
        if spec.training.format != wanted:
            raise InvalidInput(f"the data is in {spec.training.format!r} format: write it for {wanted!r}")
        if spec.grader is not None and not isinstance(spec.grader, LambdaGrader):
            raise InvalidInput(
                f"grader {spec.grader.type!r} is not offered by Bedrock: put the verifier into a Lambda function, and "
                "give its ARN as a grader of type 'lambda'"
            )
        if spec.method == "sft" and spec.hyperparameters.epochs > 5:
            raise InvalidInput(f"epochs {spec.hyperparameters.epochs}: Bedrock takes 1 to 5")

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        return jobs.estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        return self._upload(spec, folder, self._folder_uri)

    def find(self, key: str, prepared: Prepared) -> Job | None:
        del prepared
        try:
            return self.status(key)
        except ProviderRefused as refusal:
            if any(code in str(refusal) for code in _ABSENT):
                return None
            raise

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
        return self._patient_status(arn, key)

    def _patient_status(self, arn: str, key: str) -> Job:
        """What was made, even where it cannot be described at once."""
        try:
            return self.status(arn)
        except (ProviderRefused, ProviderUnavailable):
            return Job(provider=self.name, id=arn, key=key, state=State.UNKNOWN, raw_state="not described yet")

    @staticmethod
    def _settings(spec: TuneSpec) -> dict[str, Any]:
        h = spec.hyperparameters
        if spec.method == "sft":
            given = {"epochCount": h.epochs, "batchSize": h.batch_size}
            return {"hyperParameters": {name: str(value) for name, value in given.items() if value is not None}}
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

    def cancel(self, job_id: str) -> Job:
        before = self.status(job_id)
        if before.state.terminal:
            return before
        try:
            with self._calling("StopModelCustomizationJob"):
                self._bedrock.stop_model_customization_job(jobIdentifier=job_id)
        except ProviderRefused:
            if not self.status(job_id).state.terminal:  # it may have ended between the two calls
                raise
        return self.status(job_id)

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
            if status == "Failed" or waited >= DEPLOY_SECONDS:
                raise ProviderRefused(
                    f"deployment {arn} is {status!r} after {waited:.0f} s: see it in Bedrock's console"
                )
            self._sleep(15)
            waited += 15
        return Tuned(provider=self.name, job_id=job_id, model=model, handle=arn)

    def _deployment(self, arn: str) -> str:
        with self._calling("GetCustomModelDeployment"):
            return str(self._bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=arn)["status"])

    def invoke(self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        system = [{"text": m.content} for m in messages if m.role == "system"]
        asked = [{"role": m.role, "content": [{"text": m.content}]} for m in messages if m.role != "system"]
        with self._calling("Converse", about_content=True):
            answer = self._runtime.converse(
                modelId=tuned.handle,
                messages=asked,
                inferenceConfig={"maxTokens": max_tokens},
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
                if not any(code in str(refusal) for code in _ABSENT):
                    raise
