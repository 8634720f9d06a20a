"""SageMaker as tasks of Step Functions, events on the bus and a type of CloudFormation: upstream has none of it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import ministack.services.cloudformation.provisioners as provisioners
import ministack.services.eventbridge as eventbridge
import ministack.services.stepfunctions as sfn

from stepforge.local.backend import waiting
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.service import SageMakerService
from stepforge.local.sagemaker.shapes import modelled_errors, with_times

Json = Any
_invoke_aws_sdk_integration = sfn._invoke_aws_sdk_integration
_OPTIMISED = "arn:aws:states:::sagemaker:"
_SDK = "arn:aws:states:::aws-sdk:sagemaker:"
_STACK_TAG = "aws:cloudformation:stack-name"
_ENDED = ("Completed", "Failed", "Stopped")


def publish(events: list[Json]) -> None:
    """Put the service's events on the default bus as AWS does, from the source aws.sagemaker."""
    for event in events:
        entry = {
            "Source": "aws.sagemaker",
            "DetailType": event["detail_type"],
            "Resources": [event["resource"]],
            "Detail": json.dumps(event["detail"]),
        }
        eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)


def install(service: SageMakerService) -> None:
    tasks = _Tasks(service)
    sfn._SERVICE_DISPATCH[_OPTIMISED] = tasks.optimised
    sfn._invoke_aws_sdk_integration = tasks.sdk
    provisioners._RESOURCE_HANDLERS["AWS::SageMaker::ModelPackageGroup"] = {
        "create": tasks.create_group, "update": tasks.update_group, "delete": tasks.delete_group,
    }  # fmt: skip


class _Tasks:
    def __init__(self, service: SageMakerService) -> None:
        self._service = service

    def optimised(self, resource: str, params: Json) -> Json:
        """https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html"""
        action, _, sync = resource.removeprefix(_OPTIMISED).partition(".")
        name = action[0].upper() + action[1:]
        answer = self._call(name, params, base="AmazonSageMakerException")
        if not sync:
            return answer
        if name != "CreateTrainingJob":
            raise sfn._ExecutionError(
                "States.Runtime", f"{resource} is not covered here: only createTrainingJob has .sync"
            )
        return self._follow(params["TrainingJobName"])

    def sdk(self, resource: str, params: Json) -> Json:
        """https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html"""
        if not resource.startswith(_SDK):
            return _invoke_aws_sdk_integration(resource, params)
        action = resource.removeprefix(_SDK).partition(".")[0]
        name = action[0].upper() + action[1:]
        return with_times(name, self._call(name, params, base="SageMakerException"), _iso)

    def _call(self, name: str, params: Json, *, base: str) -> Json:
        try:
            return self._service.call(name, params)
        except ServiceError as error:
            # An error without a shape of its own comes as the base class of the SDK for Java.
            code = error.code if error.code in modelled_errors() else base
            named = code if code.endswith("Exception") else f"{code}Exception"
            raise sfn._ExecutionError(
                f"SageMaker.{named}", f"{error.message} (Service: SageMaker, Status Code: {error.status})"
            ) from error

    def _follow(self, job: str) -> Json:
        """Wait for a job; stop it where its execution is stopped or its task is over time."""
        while True:
            known = self._service.call("DescribeTrainingJob", {"TrainingJobName": job})
            if known["TrainingJobStatus"] in _ENDED:
                break
            try:
                waiting.check()
            except sfn._ExecutionError:
                self._stop(job)
                raise
            time.sleep(waiting.POLL_SECONDS * 2)
        view = with_times("DescribeTrainingJob", known, lambda seconds: int(seconds * 1000))
        if known["TrainingJobStatus"] != "Completed":
            raise sfn._ExecutionError("States.TaskFailed", json.dumps(view))
        return view

    def _stop(self, job: str) -> None:
        try:
            self._service.call("StopTrainingJob", {"TrainingJobName": job})
        except ServiceError as error:
            if error.code != "ValidationException":
                raise

    def create_group(self, logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
        known = ("ModelPackageGroupName", "ModelPackageGroupDescription", "Tags")
        request = {key: properties[key] for key in known if key in properties}
        owner = {"Key": _STACK_TAG, "Value": stack}
        try:
            answer = self._service.call(
                "CreateModelPackageGroup", request | {"Tags": [*request.get("Tags", []), owner]}
            )
        except ServiceError:
            # Groups are on disk at once, stacks a moment later: after a kill the group may be there before its stack.
            name = {"ModelPackageGroupName": properties["ModelPackageGroupName"]}
            answer = self._service.call("DescribeModelPackageGroup", name)
            if owner not in self._service.call("ListTags", {"ResourceArn": answer["ModelPackageGroupArn"]})["Tags"]:
                raise
        arn = answer["ModelPackageGroupArn"]
        return arn, {"ModelPackageGroupArn": arn, "ModelPackageGroupStatus": "Completed"}

    def update_group(self, arn: str, old: Json, new: Json, stack: str) -> tuple[str, Json]:
        """Tags change in place; anything else is another group, as CloudFormation has it."""
        if {**old, "Tags": None} != {**new, "Tags": None}:
            raise ValueError("AWS::SageMaker::ModelPackageGroup: only Tags can be changed here; give a new logical id")
        gone = {tag["Key"] for tag in old.get("Tags", [])} - {tag["Key"] for tag in new.get("Tags", [])}
        if gone:
            self._service.call("DeleteTags", {"ResourceArn": arn, "TagKeys": sorted(gone)})
        if new.get("Tags"):
            self._service.call("AddTags", {"ResourceArn": arn, "Tags": new["Tags"]})
        return arn, {"ModelPackageGroupArn": arn, "ModelPackageGroupStatus": "Completed"}

    def delete_group(self, physical_id: str, properties: Json) -> None:
        try:
            self._service.call("DeleteModelPackageGroup", {"ModelPackageGroupName": physical_id.rpartition("/")[2]})
        except ServiceError as error:
            if "does not exist" not in error.message:
                raise


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
