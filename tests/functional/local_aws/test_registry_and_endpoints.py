"""Model packages, models, endpoints, and the shapes of what the service answers."""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
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


COMPONENT: Json = {
    "ComputeResourceRequirements": {"MinMemoryRequiredInMb": 128, "NumberOfCpuCoresRequired": 1},
}


def test_components_share_an_endpoint_and_each_is_asked_by_its_name(local_aws: LocalAws, image: str) -> None:
    sagemaker, runtime = local_aws.client("sagemaker"), local_aws.client("sagemaker-runtime")
    for name in ("one", "two", "broken"):
        with suppress(ClientError):
            model(local_aws, name, image, name)
    fleet = {"VariantName": "all", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="fleet", ProductionVariants=[fleet], ExecutionRoleArn=ROLE)
    sagemaker.create_endpoint(EndpointName="fleet", EndpointConfigName="fleet")
    assert in_service(local_aws, "fleet")["EndpointStatus"] == "InService"

    def component(name: str) -> Json:
        return wait(
            lambda: sagemaker.describe_inference_component(InferenceComponentName=name),
            lambda d: d["InferenceComponentStatus"] in ("InService", "Failed"),
        )

    def said(name: str) -> bytes:
        return runtime.invoke_endpoint(EndpointName="fleet", InferenceComponentName=name, Body=b"?")["Body"].read()

    for name, weights in (("live", "one"), ("candidate", "two")):
        sagemaker.create_inference_component(
            InferenceComponentName=name, EndpointName="fleet", VariantName="all", RuntimeConfig={"CopyCount": 1},
            Specification={"ModelName": weights, **COMPONENT},
        )  # fmt: skip
        assert component(name)["InferenceComponentStatus"] == "InService"
    assert (said("live"), said("candidate")) == (b"one:?", b"two:?")
    with pytest.raises(ClientError, match="needs an InferenceComponentName"):
        ask(local_aws, "fleet")

    sagemaker.update_inference_component(
        InferenceComponentName="live", Specification={"ModelName": "broken", **COMPONENT}
    )
    assert "these weights are broken" in component("live")["FailureReason"]
    assert said("live") == b"one:?"
    sagemaker.update_inference_component(InferenceComponentName="live", Specification={"ModelName": "two", **COMPONENT})
    assert component("live")["Specification"]["ModelName"] == "two"
    assert said("live") == b"two:?"

    with pytest.raises(ClientError, match="delete them first"):
        sagemaker.delete_endpoint(EndpointName="fleet")
    for name in ("live", "candidate"):
        sagemaker.delete_inference_component(InferenceComponentName=name)
    with pytest.raises(ClientError, match="not found"):
        said("live")
    sagemaker.delete_endpoint(EndpointName="fleet")


def test_an_asynchronous_endpoint_answers_into_s3_with_the_key_and_tells_a_topic(
    local_aws: LocalAws, image: str
) -> None:
    sagemaker, runtime, s3 = (local_aws.client(name) for name in ("sagemaker", "sagemaker-runtime", "s3"))
    sns, sqs = local_aws.client("sns"), local_aws.client("sqs")
    key = local_aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    topic, queue = sns.create_topic(Name="answers")["TopicArn"], sqs.create_queue(QueueName="answers")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    with suppress(ClientError):
        model(local_aws, "one", image, "one")
    variant = {"VariantName": "all", "ModelName": "one", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    output = {
        "S3OutputPath": "s3://models/answers", "S3FailurePath": "s3://models/failures", "KmsKeyId": key,
        "NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic},
    }  # fmt: skip
    sagemaker.create_endpoint_config(
        EndpointConfigName="later", ProductionVariants=[variant],
        AsyncInferenceConfig={"OutputConfig": output, "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2}},
    )  # fmt: skip
    sagemaker.create_endpoint(EndpointName="later", EndpointConfigName="later")
    described = in_service(local_aws, "later")
    assert described["AsyncInferenceConfig"]["OutputConfig"]["KmsKeyId"] == key

    def answered(body: bytes, where: str) -> Json:
        s3.put_object(Bucket="models", Key="asked", Body=body)
        given = runtime.invoke_endpoint_async(EndpointName="later", InputLocation="s3://models/asked")
        found = given[where].removeprefix("s3://models/")
        keys = wait(lambda: s3.list_objects_v2(Bucket="models", Prefix=found).get("Contents", []), bool)
        return s3.get_object(Bucket="models", Key=keys[0]["Key"])

    answer = answered(b"?", "OutputLocation")
    assert (answer["Body"].read(), answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == (b"one:?", "aws:kms", key)
    assert b"Received server error (500)" in answered(b"fail", "FailureLocation")["Body"].read()

    def heard() -> list[str]:
        got = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0).get("Messages", [])
        return [json.loads(message["Body"])["invocationStatus"] for message in got]

    assert sorted(wait(heard, lambda found: len(found) == 2)) == ["Completed", "Failed"]
    told = {"X-Amzn-SageMaker-InvocationTimeoutSeconds": "ten"}
    event = "before-call.sagemaker-runtime.InvokeEndpointAsync"
    runtime.meta.events.register(event, lambda params, **_: params["headers"].update(told), unique_id="odd")
    with pytest.raises(ClientError, match=r"ValidationError.*'ten': give a whole number from 1 to 3600"):
        runtime.invoke_endpoint_async(EndpointName="later", InputLocation="s3://models/asked")
    runtime.meta.events.unregister(event, unique_id="odd")
    with pytest.raises(ClientError, match="is asked with InvokeEndpointAsync"):
        ask(local_aws, "later")
    sagemaker.delete_endpoint(EndpointName="later")


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
    fleet = {
        "ProductionVariants": [{key: variant[key] for key in variant if key != "ModelName"}],
        "ExecutionRoleArn": ROLE,
    }
    part = {
        "InferenceComponentName": "shape",
        "Specification": {"ModelName": "shape", **COMPONENT},
        "RuntimeConfig": {"CopyCount": 1},
    }
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
        ("CreateEndpointConfig", {**fleet, "EndpointConfigName": "fleet-shape"}),
        ("CreateEndpoint", {"EndpointName": "shape", "EndpointConfigName": "fleet-shape"}),
        ("wait", {}),
        ("CreateInferenceComponent", {**part, "EndpointName": "shape", "VariantName": "all"}),
        ("DescribeInferenceComponent", {"InferenceComponentName": "shape"}),
        ("ListInferenceComponents", {"EndpointNameEquals": "shape"}),
        ("wait for component", {}),
        ("UpdateInferenceComponent", {"InferenceComponentName": "shape", "RuntimeConfig": {"CopyCount": 2}}),
        ("DeleteInferenceComponent", {"InferenceComponentName": "shape"}),
        ("DeleteEndpoint", {"EndpointName": "shape"}),
        ("DeleteEndpointConfig", {"EndpointConfigName": "shape"}),
        ("DeleteModel", {"ModelName": "shape"}),
        ("DescribeTrainingJob", {"TrainingJobName": "shape-a1"}),
    ]
    sagemaker = local_aws.client("sagemaker")
    service = botocore.session.get_session().get_service_model("sagemaker")
    problems: list[str] = []
    for operation, request in calls:
        if operation == "wait":
            in_service(local_aws, "shape")
            continue
        if operation == "wait for component":
            wait(
                lambda: sagemaker.describe_inference_component(InferenceComponentName="shape"),
                lambda d: d["InferenceComponentStatus"] != "Creating",
            )
            continue
        answer = _raw(local_aws, operation, request)
        shape = service.operation_model(operation).output_shape
        if shape is None:
            assert answer == {}
        else:
            problems += _problems(shape, answer, operation)
    assert problems == []
    from stepforge.local.sagemaker.service import OPERATIONS

    assert {operation for operation, _ in calls} - {"wait", "wait for component"} == set(OPERATIONS)
    assert ended(local_aws, "shape-a1")["TrainingJobStatus"] in ("Stopped", "Completed")
