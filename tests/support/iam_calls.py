"""What IAM is asked for each call of a boto3 client: so that a policy can be held to what code really calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.iam import Request

from stepforge.machines.executions import unqualified

Json = Any
_S3 = {"ListObjectsV2": "s3:ListBucket", "DeleteObjects": "s3:DeleteObject", "HeadObject": "s3:GetObject"}
_NAMED = {
    "TrainingJobName": "training-job", "EndpointName": "endpoint", "EndpointConfigName": "endpoint-config",
    "ModelName": "model",
}  # fmt: skip
"""Parameter that names a resource of SageMaker to the resource's kind in its ARN."""


@dataclass(frozen=True)
class Call:
    service: str
    operation: str
    parameters: dict[str, Json]


def listen(session: Any) -> list[Call]:
    """The calls of all clients that a boto3 session makes from now on, as they happen."""
    calls: list[Call] = []

    def note(params: dict[str, Json], model: Any, **_: Any) -> None:
        calls.append(Call(model.service_model.service_name, model.name, dict(params)))

    session.events.register("before-parameter-build", note)
    return calls


def requests(call: Call, *, stem: str) -> list[Request]:
    """`stem` is region and account. Raises KeyError for a service that is not known here."""
    given = call.parameters
    if call.service == "s3":
        action = _S3.get(call.operation, f"s3:{call.operation}")
        bucket = f"arn:aws:s3:::{given['Bucket']}"
        if action == "s3:ListBucket":
            return [Request(action, bucket, {"s3:prefix": given.get("Prefix", "")})]
        keys = [one["Key"] for one in given["Delete"]["Objects"]] if "Delete" in given else [given["Key"]]
        return [Request(action, f"{bucket}/{key}") for key in keys]
    if call.service == "sagemaker":
        return [Request(f"sagemaker:{call.operation}", _of_sagemaker(given, stem))]
    if call.service == "stepfunctions":
        arn = given.get("stateMachineArn") or given["executionArn"]
        machine = unqualified(arn) if ":stateMachine:" in arn else arn
        qualifier = {"states:statemachinequalifier": [arn.removeprefix(f"{machine}:")]} if machine != arn else {}
        return [Request(f"states:{call.operation}", machine, qualifier)]
    if call.service == "dynamodb":
        key = given["Key"]["pk"] if "Key" in given else given["ExpressionAttributeValues"][":pk"]
        arn = f"arn:aws:dynamodb:{stem}:table/{given['TableName']}"
        return [Request(f"dynamodb:{call.operation}", arn, {"dynamodb:leadingkeys": [key["S"]]})]
    if (call.service, call.operation) == ("ssm", "GetParametersByPath"):
        return [Request(f"ssm:{call.operation}", f"arn:aws:ssm:{stem}:parameter{given['Path'].rstrip('/')}")]
    raise KeyError(f"{call.service}:{call.operation} is not known here: say what IAM is asked for it")


def _of_sagemaker(given: dict[str, Json], stem: str) -> str:
    for name, kind in _NAMED.items():
        if name in given:
            return f"arn:aws:sagemaker:{stem}:{kind}/{given[name]}"
    if "ModelPackageGroupName" in given:
        # A list of packages is granted on what it lists.
        return f"arn:aws:sagemaker:{stem}:model-package/{given['ModelPackageGroupName']}/1"
    return str(given.get("ModelPackageName") or given.get("ResourceArn") or "*")
