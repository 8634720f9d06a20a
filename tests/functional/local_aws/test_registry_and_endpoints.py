"""Model packages, models, endpoints, and the shapes of what the service answers."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.model import ListShape, MapShape, Shape, StructureShape

from stepforge.local import LocalAws
from tests.functional.local_aws.helpers import ROLE, bucket, ended, job_request, register, wait

Json = Any


@pytest.fixture(scope="module")
def image(local_aws: LocalAws) -> str:
    bucket(local_aws, "models")
    for name in ("one", "two", "broken"):
        local_aws.client("s3").put_object(Bucket="models", Key=f"{name}/weights.txt", Body=name.encode())
    return register()


def model(aws: LocalAws, name: str, image: str, weights: str) -> None:
    source = {"S3Uri": f"s3://models/{weights}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"Image": image, "ModelDataSource": {"S3DataSource": source}}
    sagemaker = aws.client("sagemaker")
    sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "all", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def in_service(aws: LocalAws, name: str) -> Json:
    sagemaker = aws.client("sagemaker")
    return wait(
        lambda: sagemaker.describe_endpoint(EndpointName=name),
        lambda d: d["EndpointStatus"] in ("InService", "Failed"),
    )


def ask(aws: LocalAws, name: str, body: bytes = b"?") -> bytes:
    return aws.client("sagemaker-runtime").invoke_endpoint(EndpointName=name, Body=body)["Body"].read()


def test_an_endpoint_answers_and_an_update_that_does_not_ping_leaves_the_old_one(
    local_aws: LocalAws, image: str
) -> None:
    sagemaker = local_aws.client("sagemaker")
    for name in ("one", "two", "broken"):
        model(local_aws, name, image, name)
    sagemaker.create_endpoint(EndpointName="face", EndpointConfigName="one")
    assert in_service(local_aws, "face")["EndpointStatus"] == "InService"
    answer = local_aws.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="face", Body=b"?", ContentType="text/plain"
    )
    assert (answer["Body"].read(), answer["InvokedProductionVariant"], answer["ContentType"]) == (
        b"one:?",
        "all",
        "text/plain",
    )

    sagemaker.update_endpoint(EndpointName="face", EndpointConfigName="broken")
    rolled_back = in_service(local_aws, "face")
    assert (rolled_back["EndpointStatus"], rolled_back["EndpointConfigName"]) == ("InService", "one")
    assert "these weights are broken" in rolled_back["FailureReason"]
    assert ask(local_aws, "face") == b"one:?"

    sagemaker.update_endpoint(EndpointName="face", EndpointConfigName="two")
    assert ask(local_aws, "face") in (b"one:?", b"two:?")
    assert in_service(local_aws, "face")["EndpointConfigName"] == "two"
    assert ask(local_aws, "face") == b"two:?"

    with pytest.raises(ClientError) as caught:
        ask(local_aws, "face", b"fail")
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert caught.value.response["OriginalStatusCode"] == 500
    with pytest.raises(ClientError, match="did not answer"):
        ask(local_aws, "face", b"die")
    assert ask(local_aws, "face") == b"two:?"

    sagemaker.delete_endpoint(EndpointName="face")
    with pytest.raises(ClientError, match="not found"):
        ask(local_aws, "face")


def test_a_model_may_not_say_which_code_its_process_loads(local_aws: LocalAws, image: str) -> None:
    container = {"Image": image, "Environment": {"LD_PRELOAD": "/tmp/mine.so"}}
    with pytest.raises(ClientError, match="'LD_PRELOAD' would run any code"):
        local_aws.client("sagemaker").create_model(
            ModelName="preloaded", ExecutionRoleArn="arn:aws:iam::000000000000:role/jobs", PrimaryContainer=container
        )


def test_an_endpoint_that_never_pings_fails_with_the_reason(local_aws: LocalAws, image: str) -> None:
    model(local_aws, "never", image, "broken")
    local_aws.client("sagemaker").create_endpoint(EndpointName="never", EndpointConfigName="never")
    failed = in_service(local_aws, "never")
    assert failed["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in failed["FailureReason"]
    local_aws.client("sagemaker").delete_endpoint(EndpointName="never")


def test_packages_have_versions_client_tokens_and_keep_what_they_are_given(local_aws: LocalAws, image: str) -> None:
    sagemaker = local_aws.client("sagemaker")
    sagemaker.create_model_package_group(ModelPackageGroupName="faces")
    source = {"S3Uri": "s3://models/one/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"Image": image, "ModelDataSource": {"S3DataSource": source}}
    given: Json = {
        "ModelPackageGroupName": "faces",
        "ClientToken": "t1",
        "ModelApprovalStatus": "PendingManualApproval",
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": ["text/plain"],
            "SupportedResponseMIMETypes": [],
        },
        "CustomerMetadataProperties": {"model_sha256": "0" * 64},
        "ModelMetrics": {
            "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": "s3://models/e.json"}}
        },
        "ModelCard": {"ModelCardContent": "{}", "ModelCardStatus": "Draft"},
        "ModelLifeCycle": {"Stage": "Development", "StageStatus": "Approved"},
    }
    arn = sagemaker.create_model_package(**given)["ModelPackageArn"]
    assert sagemaker.create_model_package(**given)["ModelPackageArn"] == arn
    with pytest.raises(ClientError, match="was used for another"):
        sagemaker.create_model_package(**{**given, "ModelApprovalStatus": "Approved"})
    assert sagemaker.create_model_package(ModelPackageGroupName="faces")["ModelPackageArn"].endswith("faces/2")
    described = sagemaker.describe_model_package(ModelPackageName=arn)
    assert {key: described[key] for key in given if key != "ClientToken"} == {
        k: v for k, v in given.items() if k != "ClientToken"
    }
    assert described["ModelPackageVersion"] == 1
    sagemaker.update_model_package(
        ModelPackageArn=arn, ModelApprovalStatus="Approved", CustomerMetadataProperties={"more": "1"}
    )
    approved = sagemaker.list_model_packages(ModelPackageGroupName="faces", ModelApprovalStatus="Approved")
    assert [p["ModelPackageVersion"] for p in approved["ModelPackageSummaryList"]] == [1]
    assert sagemaker.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"] == {
        "model_sha256": "0" * 64,
        "more": "1",
    }
    with pytest.raises(ClientError, match="still has model packages"):
        sagemaker.delete_model_package_group(ModelPackageGroupName="faces")

    sagemaker.create_model(ModelName="by-package", Containers=[{"ModelPackageName": arn}], ExecutionRoleArn=ROLE)
    variant = {
        "VariantName": "all",
        "ModelName": "by-package",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    sagemaker.create_endpoint_config(EndpointConfigName="by-package", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="by-package", EndpointConfigName="by-package")
    assert in_service(local_aws, "by-package")["EndpointStatus"] == "InService"
    assert ask(local_aws, "by-package") == b"one:?"


def _raw(aws: LocalAws, operation: str, request: Json) -> Json:
    """The JSON as it travels: boto3 would drop what the shape does not have."""
    target = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    call = AWSRequest("POST", aws.endpoint_url + "/", data=json.dumps(request).encode(), headers=target)
    SigV4Auth(Credentials(aws.access_key_id, aws.secret_access_key), "sagemaker", aws.region).add_auth(call)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(call.url, call.data, dict(call.headers), method="POST")) as answer:
        return json.loads(answer.read())


def _problems(shape: Shape, value: Json, path: str) -> list[str]:
    if isinstance(shape, StructureShape):
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is not a structure"]
        missing = [f"{path}.{name} is required" for name in shape.required_members if name not in value]
        extra = [f"{path}.{name} is unknown" for name in value if name not in shape.members]
        known = [
            (shape.members[name], member, f"{path}.{name}") for name, member in value.items() if name in shape.members
        ]
        return missing + extra + [problem for part in known for problem in _problems(*part)]
    if isinstance(shape, ListShape):
        return [problem for item in value for problem in _problems(shape.member, item, f"{path}[]")]
    if isinstance(shape, MapShape):
        return [problem for item in value.values() for problem in _problems(shape.value, item, f"{path}{{}}")]
    types = {
        "string": str,
        "integer": int,
        "long": int,
        "boolean": bool,
        "timestamp": (int, float),
        "float": (int, float),
        "double": (int, float),
    }
    right = isinstance(value, types[shape.type_name]) and (shape.type_name == "boolean" or not isinstance(value, bool))
    enum = getattr(shape, "enum", [])
    return [] if right and (not enum or value in enum) else [f"{path}: {value!r} is not a {shape.type_name} {enum}"]


def test_every_answer_has_the_shape_that_botocore_has(local_aws: LocalAws, image: str) -> None:
    """Each operation once, in an order in which each can succeed."""
    container = {"Image": image, "ModelDataUrl": "s3://models/one.tar.gz"}
    variant = {"VariantName": "all", "ModelName": "shape", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    job = job_request("shape-a1", image, bucket="models", Tags=[{"Key": "a", "Value": "b"}])
    group_arn = "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/shape"
    package = {"ModelPackageName": "arn:aws:sagemaker:us-east-1:000000000000:model-package/shape/1"}
    calls: list[tuple[str, Json]] = [
        ("CreateTrainingJob", job),
        ("DescribeTrainingJob", {"TrainingJobName": "shape-a1"}),
        ("ListTrainingJobs", {"MaxResults": 1}),
        ("StopTrainingJob", {"TrainingJobName": "shape-a1"}),
        ("CreateModelPackageGroup", {"ModelPackageGroupName": "shape"}),
        ("DescribeModelPackageGroup", {"ModelPackageGroupName": "shape"}),
        ("ListModelPackageGroups", {}),
        ("AddTags", {"ResourceArn": group_arn, "Tags": [{"Key": "a", "Value": "b"}]}),
        ("ListTags", {"ResourceArn": group_arn}),
        ("DeleteTags", {"ResourceArn": group_arn, "TagKeys": ["a"]}),
        (
            "CreateModelPackage",
            {"ModelPackageGroupName": "shape", "InferenceSpecification": {"Containers": [container]}},
        ),
        ("DescribeModelPackage", package),
        ("ListModelPackages", {"ModelPackageGroupName": "shape"}),
        ("UpdateModelPackage", {"ModelPackageArn": package["ModelPackageName"], "ModelApprovalStatus": "Rejected"}),
        ("DeleteModelPackage", package),
        ("DeleteModelPackageGroup", {"ModelPackageGroupName": "shape"}),
        ("CreateModel", {"ModelName": "shape", "PrimaryContainer": {"Image": image}}),
        ("DescribeModel", {"ModelName": "shape"}),
        ("ListModels", {}),
        ("CreateEndpointConfig", {"EndpointConfigName": "shape", "ProductionVariants": [variant]}),
        ("DescribeEndpointConfig", {"EndpointConfigName": "shape"}),
        ("ListEndpointConfigs", {}),
        ("CreateEndpoint", {"EndpointName": "shape", "EndpointConfigName": "shape"}),
        ("DescribeEndpoint", {"EndpointName": "shape"}),
        ("ListEndpoints", {}),
        ("wait", {}),
        ("UpdateEndpoint", {"EndpointName": "shape", "EndpointConfigName": "shape"}),
        ("wait", {}),
        ("DescribeEndpoint", {"EndpointName": "shape"}),
        ("DeleteEndpoint", {"EndpointName": "shape"}),
        ("DeleteEndpointConfig", {"EndpointConfigName": "shape"}),
        ("DeleteModel", {"ModelName": "shape"}),
        ("DescribeTrainingJob", {"TrainingJobName": "shape-a1"}),
    ]
    service = botocore.session.get_session().get_service_model("sagemaker")
    problems: list[str] = []
    for operation, request in calls:
        if operation == "wait":
            in_service(local_aws, "shape")
            continue
        answer = _raw(local_aws, operation, request)
        shape = service.operation_model(operation).output_shape
        if shape is None:
            assert answer == {}
        else:
            problems += _problems(shape, answer, operation)
    assert problems == []
    from stepforge.local.sagemaker.service import OPERATIONS

    assert {operation for operation, _ in calls} - {"wait"} == set(OPERATIONS)
    assert ended(local_aws, "shape-a1")["TrainingJobStatus"] in ("Stopped", "Completed")
