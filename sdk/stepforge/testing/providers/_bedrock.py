"""Bedrock's model customization, SageMaker's serverless customization, and the S3 objects that they read.

Follows the service models of botocore (`bedrock`, `bedrock-runtime`, `sagemaker`, `sagemaker-runtime`) and, for S3,
PUT, HEAD and GET of objects with the bucket in the path. Signatures are not looked at.
"""

from __future__ import annotations

import re
import time
from typing import Any

from stepforge.testing.providers._distillation import refused_by_bedrock
from stepforge.testing.providers._endpoints import Endpoints
from stepforge.testing.providers._rewriting import Rewrite, Rewriter
from stepforge.testing.providers._server import (
    DISCLAIMER,
    FAKE,
    Handler,
    LocalProvider,
    Phases,
    Refusal,
    Reply,
    Request,
)

ACCOUNT = "000000000000"
PHASES = ("InProgress", "InProgress", "InProgress", "InProgress", "Completed")


class LocalBedrock(LocalProvider):
    """Bedrock, SageMaker and S3 on loopback: one `endpoint_url` for all clients. `rewrite` optimises prompts."""

    def __init__(self, *, region: str = "us-east-1", rewrite: Rewrite | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.region = region
        self.objects: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        """By name, of both services."""
        self.phases: dict[str, Phases] = {}
        self.tokens: dict[str, tuple[str, dict[str, Any]]] = {}
        """clientRequestToken to the job's name and what was asked."""
        self.models: dict[str, str] = {}
        self.deployments: dict[str, str] = {}
        self.endpoints = Endpoints()
        """SageMaker's."""
        self.rewriter = Rewriter(rewrite)

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("POST", r"/model-customization-jobs", self._create),
            ("GET", r"/model-customization-jobs/(.+)", lambda _, m: Reply(200, self._describe(m[1]))),
            ("POST", r"/model-customization-jobs/(.+)/stop", self._stop),
            ("DELETE", r"/custom-models/(.+)", self._delete_model),
            ("POST", r"/model-customization/custom-model-deployments", self._deploy),
            ("GET", r"/model-customization/custom-model-deployments/(.+)", self._deployment),
            ("DELETE", r"/model-customization/custom-model-deployments/(.+)", self._undeploy),
            ("POST", r"/optimize-prompt", lambda request, _: self.rewriter.answer(request.json())),
            ("POST", r"/model/(.+)/converse", self._converse),
            ("POST", r"/endpoints/([^/]+)/invocations", self.endpoints.invoke),
            ("POST", r"/", self._sagemaker),
            ("PUT", r"/([a-z0-9][a-z0-9.-]+)/(.+)", self._put),
            ("HEAD", r"/([a-z0-9][a-z0-9.-]+)/(.+)", self._head),
        ]

    def error(self, status: int, code: str, message: str) -> Any:
        return {"__type": code, "message": message}

    # S3

    def _put(self, request: Request, match: re.Match[str]) -> Reply:
        self.objects[f"s3://{match[1]}/{match[2]}"] = _unchunked(request)
        return Reply(200, b"", {"etag": f'"{FAKE}"'})

    def _head(self, _: Request, match: re.Match[str]) -> Reply:
        found = self.objects.get(f"s3://{match[1]}/{match[2]}")
        return Reply(404, b"") if found is None else Reply(200, b"", {"etag": f'"{FAKE}"'})

    # Bedrock

    def _create(self, request: Request, _: re.Match[str]) -> Reply:
        asked = request.json()
        token = asked.get("clientRequestToken", "")
        if token in self.tokens:
            name, before = self.tokens[token]
            if before != asked:
                raise _refusal("ConflictException", "the token was used for another request")
            return Reply(201, {"jobArn": self.jobs[name]["jobArn"]})
        if asked["jobName"] in self.jobs:
            raise _refusal("ConflictException", f"the job name {asked['jobName']!r} is taken")
        if asked["trainingDataConfig"]["s3Uri"] not in self.objects:
            raise _refusal("ValidationException", "the training data cannot be read")
        distils = asked.get("customizationType") == "DISTILLATION"
        if distils != ("distillationConfig" in (asked.get("customizationConfig") or {})):
            raise _refusal("ValidationException", "DISTILLATION needs a distillationConfig, and no other type has one")
        if distils and (why := refused_by_bedrock(asked, self.objects[asked["trainingDataConfig"]["s3Uri"]])):
            raise _refusal("ValidationException", why)
        arn = f"arn:aws:bedrock:{self.region}:{ACCOUNT}:model-customization-job/{FAKE}.base/{self.number():012d}"
        self.jobs[asked["jobName"]] = {"asked": asked, "jobArn": arn, "creationTime": _now()}
        self.phases[asked["jobName"]] = Phases(PHASES)
        if token:
            self.tokens[token] = (asked["jobName"], asked)
        return Reply(201, {"jobArn": arn})

    def _named(self, identifier: str) -> str:
        for name, job in self.jobs.items():
            if identifier in (name, job.get("jobArn")):
                return name
        raise _refusal("ResourceNotFoundException", f"no such job: {identifier!r}", 404)

    def _describe(self, identifier: str) -> dict[str, Any]:
        name = self._named(identifier)
        job, status = self.jobs[name], self.phases[name].look()
        asked = job["asked"]
        found: dict[str, Any] = {
            "jobArn": job["jobArn"],
            "jobName": name,
            "outputModelName": asked["customModelName"],
            "clientRequestToken": asked.get("clientRequestToken", ""),
            "roleArn": asked["roleArn"],
            "status": status,
            "creationTime": job["creationTime"],
            "baseModelArn": f"arn:aws:bedrock:{self.region}::foundation-model/{asked['baseModelIdentifier']}",
            "trainingDataConfig": asked["trainingDataConfig"],
            "validationDataConfig": asked.get("validationDataConfig", {"validators": []}),
            "outputDataConfig": asked["outputDataConfig"],
            "customizationType": asked.get("customizationType", "FINE_TUNING"),
            "hyperParameters": asked.get("hyperParameters", {}),
        }
        if found["customizationType"] == "DISTILLATION":
            found["customizationConfig"] = asked["customizationConfig"]
            done = {"status": status, "creationTime": job["creationTime"]}
            found["statusDetails"] = {"validationDetails": done, "dataProcessingDetails": done, "trainingDetails": done}
        if status == "Completed":
            number = job["jobArn"][-12:]
            arn = f"arn:aws:bedrock:{self.region}:{ACCOUNT}:custom-model/{FAKE}.base/{number}"
            self.models.setdefault(arn, asked["customModelName"])
            found["outputModelArn"] = arn
        return found

    def _stop(self, _: Request, match: re.Match[str]) -> Reply:
        name = self._named(match[1])
        if self.phases[name].over:
            raise _refusal("ConflictException", f"the job has ended: {self.phases[name].now}")
        self.phases[name].end("Stopped")
        return Reply(200, {})

    def _delete_model(self, _: Request, match: re.Match[str]) -> Reply:
        if self.models.pop(match[1], None) is None:
            raise _refusal("ResourceNotFoundException", f"no such model: {match[1]!r}", 404)
        return Reply(200, {})

    def _deploy(self, request: Request, _: re.Match[str]) -> Reply:
        asked = request.json()
        if asked["modelArn"] not in self.models:
            raise _refusal("ResourceNotFoundException", "no such model", 404)
        for arn, model in self.deployments.items():
            if model == asked["modelArn"]:
                return Reply(202, {"customModelDeploymentArn": arn})
        number = asked["modelArn"][-12:]
        arn = f"arn:aws:bedrock:{self.region}:{ACCOUNT}:custom-model-deployment/{number}"
        self.deployments[arn] = asked["modelArn"]
        return Reply(202, {"customModelDeploymentArn": arn})

    def _deployment(self, _: Request, match: re.Match[str]) -> Reply:
        model = self.deployments.get(match[1])
        if model is None:
            raise _refusal("ResourceNotFoundException", "no such deployment", 404)
        about = {"customModelDeploymentArn": match[1], "modelArn": model, "modelDeploymentName": FAKE}
        return Reply(200, {**about, "status": "Active", "createdAt": _now()})

    def _undeploy(self, _: Request, match: re.Match[str]) -> Reply:
        if self.deployments.pop(match[1], None) is None:
            raise _refusal("ResourceNotFoundException", "no such deployment", 404)
        return Reply(200, {})

    def _converse(self, request: Request, match: re.Match[str]) -> Reply:
        if ":custom-model-deployment/" in match[1] and match[1] not in self.deployments:
            raise _refusal("ResourceNotFoundException", "no such deployment", 404)
        text = request.json()["messages"][-1]["content"][0]["text"]
        words = len(text.split())
        message = {"role": "assistant", "content": [{"text": f"{DISCLAIMER} {text}"}]}
        usage = {"inputTokens": words, "outputTokens": words + 5, "totalTokens": 2 * words + 5}
        about = {"stopReason": "end_turn", "metrics": {"latencyMs": 1}}
        return Reply(200, {"output": {"message": message}, "usage": usage, **about})

    # SageMaker

    def _sagemaker(self, request: Request, _: re.Match[str]) -> Reply:
        action = request.headers.get("x-amz-target", "").removeprefix("SageMaker.")
        asked = request.json()
        if action == "CreateTrainingJob":
            return self._create_training_job(asked)
        if action == "DescribeTrainingJob":
            return Reply(200, self._describe_training_job(asked["TrainingJobName"]))
        if action == "StopTrainingJob":
            phases = self.phases[self._training_job(asked["TrainingJobName"])]
            if phases.over:
                raise _refusal("ValidationException", "the job has ended")
            phases.end("Stopped")
            return Reply(200, {})
        if action == "DeleteModelPackage":
            if self.models.pop(asked["ModelPackageName"], None) is None:
                raise _refusal("ValidationException", "no such model package")
            return Reply(200, {})
        if (reply := self.endpoints.answer(action, asked, self.models)) is not None:
            return reply
        raise _refusal("UnknownOperationException", f"the local fake has no {action!r}")

    def _create_training_job(self, asked: dict[str, Any]) -> Reply:
        name = asked["TrainingJobName"]
        if name in self.jobs:
            raise _refusal("ResourceInUse", f"training job names must be unique: {name}")
        uri = asked["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
        if uri not in self.objects:
            raise _refusal("ValidationException", "the training data cannot be read")
        arn = f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:training-job/{FAKE}-{name}"
        self.jobs[name] = {"asked": asked, "arn": arn, "creationTime": _now(), "uri": uri}
        self.phases[name] = Phases(PHASES)
        return Reply(200, {"TrainingJobArn": arn})

    def _training_job(self, given: str) -> str:
        name = given.removeprefix(f"{FAKE}-")  # in the ARN, so that no job of ours looks like a real one
        if name not in self.jobs:
            raise _refusal("ValidationException", "Requested resource not found.")
        return name

    def _describe_training_job(self, given: str) -> dict[str, Any]:
        name = self._training_job(given)
        job, status = self.jobs[name], self.phases[name].look()
        asked = job["asked"]
        found: dict[str, Any] = {
            "TrainingJobName": name,
            "TrainingJobArn": job["arn"],
            "TrainingJobStatus": status,
            "SecondaryStatus": "Completed" if status == "Completed" else "Training",
            "CreationTime": job["creationTime"],
            "ModelArtifacts": {"S3ModelArtifacts": asked["OutputDataConfig"]["S3OutputPath"]},
            "ServerlessJobConfig": asked.get("ServerlessJobConfig", {}),
        }
        if status == "Completed":
            group = asked["ModelPackageConfig"]["ModelPackageGroupArn"].rpartition("/")[2]
            arn = f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:model-package/{group}-{FAKE}/1"
            self.models.setdefault(arn, name)
            found |= {"OutputModelPackageArn": arn, "BillableTokenCount": len(self.objects[job["uri"]]) // 4}
        return found


def _refusal(code: str, message: str, status: int = 400) -> Refusal:
    return Refusal(status, code, message)


def _now() -> float:
    return time.time()


def _unchunked(request: Request) -> bytes:
    """The object's bytes: S3's clients may send them in chunks with a signature or a checksum each."""
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return request.body
    rest, data = request.body, b""
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            break
        data, rest = data + rest[:size], rest[size + 2 :]
    return data
