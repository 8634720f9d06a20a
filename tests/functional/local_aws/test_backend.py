"""Lambda, KMS, Secrets Manager, EventBridge and CloudFormation: each mend with the fact that it was made for."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepforge.local import LocalAws
from tests.functional.local_aws.helpers import ROLE, bucket, function, wait, zipped

Json = Any


def invoke(aws: LocalAws, name: str, event: Json = None) -> tuple[str | None, Json]:
    answer = aws.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event or {}))
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


def test_a_handler_has_a_warm_process_of_its_own_that_reaches_the_front(local_aws: LocalAws) -> None:
    bucket(local_aws, "handlers")
    source = """
import os, boto3, stepforge.contracts.base
count = 0
def handler(event, context):
    global count
    count += 1
    boto3.client("s3").put_object(Bucket="handlers", Key="k", Body=b"1")
    return [os.getpid(), count, context.function_name]
"""
    function(local_aws, "reaches", source, Timeout=20)
    first, second = invoke(local_aws, "reaches"), invoke(local_aws, "reaches")
    assert first[0] is None, first
    assert first[1] == [first[1][0], 1, "reaches"]
    assert second[1] == [first[1][0], 2, "reaches"]
    assert local_aws.client("s3").head_object(Bucket="handlers", Key="k")["ContentLength"] == 1


def test_updated_code_and_settings_answer_at_once(local_aws: LocalAws) -> None:
    client = local_aws.client("lambda")
    source = "import os\ndef handler(event, context): return ['%s', os.environ.get('MODE')]"
    function(local_aws, "updated", source % "old")
    assert invoke(local_aws, "updated")[1] == ["old", None]
    client.update_function_code(FunctionName="updated", ZipFile=zipped(source % "new"))
    assert invoke(local_aws, "updated")[1] == ["new", None]
    client.update_function_configuration(FunctionName="updated", Environment={"Variables": {"MODE": "strict"}})
    assert invoke(local_aws, "updated")[1] == ["new", "strict"]


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("key-error", "def handler(e, c): return e['missing']", "KeyError"),
        ("exits", "import os\ndef handler(e, c): os._exit(3)", "Runtime.ExitError"),
        ("slow", "import time\ndef handler(e, c): time.sleep(9)", "Sandbox.Timedout"),
    ],
)
def test_a_failing_handler_is_named_as_on_aws(local_aws: LocalAws, name: str, source: str, kind: str) -> None:
    function(local_aws, name, source, Timeout=1)
    error, body = invoke(local_aws, name)
    assert (error, body["errorType"]) == ("Unhandled", kind)


def test_ciphertext_is_authenticated_with_its_context(local_aws: LocalAws) -> None:
    kms = local_aws.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    context = {"job": "a"}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"secret"
    for position in (-1, 40, 50):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=bytes(altered), EncryptionContext=context)
    with pytest.raises(kms.exceptions.InvalidCiphertextException):
        kms.decrypt(CiphertextBlob=sealed, EncryptionContext={"job": "b"})
    data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    opened = kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=context)["Plaintext"]
    assert opened == data_key["Plaintext"]
    kms.disable_key(KeyId=key)
    with pytest.raises(kms.exceptions.DisabledException):
        kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)


ROTATES = """
import boto3, time
client = boto3.client("secretsmanager")
def handler(event, context):
    secret, token = event["SecretId"], event["ClientRequestToken"]
    if event["Step"] == "createSecret":
        pending = {"SecretString": "rotated", "VersionStages": ["AWSPENDING"]}
        client.put_secret_value(SecretId=secret, ClientRequestToken=token, **pending)
    elif event["Step"] == "testSecret":
        assert client.get_secret_value(SecretId=secret, VersionStage="AWSPENDING")["SecretString"] == "rotated"
    elif event["Step"] == "finishSecret":
        stages = client.describe_secret(SecretId=secret)["VersionIdsToStages"]
        old = next(version for version, names in stages.items() if "AWSCURRENT" in names)
        moved = {"MoveToVersionId": token, "RemoveFromVersionId": old}
        client.update_secret_version_stage(SecretId=secret, VersionStage="AWSCURRENT", **moved)
        time.sleep(.5)
"""


def test_a_secret_is_rotated_by_its_function(local_aws: LocalAws) -> None:
    client = local_aws.client("secretsmanager")
    arn = client.create_secret(Name="provider", SecretString="first")["ARN"]
    rotation = function(local_aws, "rotates", ROTATES, Timeout=20)
    client.rotate_secret(SecretId=arn, RotationLambdaARN=rotation, RotationRules={"AutomaticallyAfterDays": 30})
    wait(lambda: client.get_secret_value(SecretId=arn)["SecretString"], lambda value: value == "rotated")
    # The function is not done with the first yet.
    second = client.rotate_secret(SecretId=arn)["VersionId"]
    wait(lambda: client.get_secret_value(SecretId=arn)["VersionId"], lambda version: version == second)
    wait(
        lambda: sorted(chain(*client.describe_secret(SecretId=arn)["VersionIdsToStages"].values())),
        lambda stages: stages == ["AWSCURRENT", "AWSPREVIOUS"],
    )
    assert client.get_secret_value(SecretId=arn, VersionStage="AWSPREVIOUS")["SecretString"] == "rotated"


def test_what_cannot_be_delivered_goes_to_the_dead_letter_queue(local_aws: LocalAws) -> None:
    events, sqs = local_aws.client("events"), local_aws.client("sqs")
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="lost", EventPattern='{"source": ["demo"]}')
    gone = "arn:aws:lambda:us-east-1:000000000000:function:gone"
    machine_gone = "arn:aws:states:us-east-1:000000000000:stateMachine:gone"
    targets = [
        {"Id": str(n), "Arn": arn, "RoleArn": ROLE, "DeadLetterConfig": {"Arn": dead_arn}}
        for n, arn in enumerate((gone, machine_gone))
    ]
    events.put_targets(Rule="lost", Targets=targets)
    events.put_events(Entries=[{"Source": "demo", "DetailType": "d", "Detail": '{"n": 1}'}])
    found: list[Json] = []

    def receive() -> list[Json]:
        answer = sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        found.extend(answer.get("Messages", []))
        return found

    wait(receive, lambda messages: len(messages) == 2)
    assert {m["MessageAttributes"]["TARGET_ARN"]["StringValue"] for m in found} == {gone, machine_gone}
    assert json.loads(found[0]["Body"])["detail"] == {"n": 1}


def template() -> Json:
    """A stack of the types that the project's own template has."""
    return json.loads((Path(__file__).parent / "stack.json").read_text().replace('"@ROTATES"', json.dumps(ROTATES)))


def stack(aws: LocalAws, name: str, body: Json) -> dict[str, str]:
    client = aws.client("cloudformation")
    exists = any(
        s["StackName"] == name and s["StackStatus"] != "DELETE_COMPLETE" for s in client.list_stacks()["StackSummaries"]
    )
    (client.update_stack if exists else client.create_stack)(
        StackName=name, TemplateBody=json.dumps(body), Capabilities=["CAPABILITY_IAM"]
    )
    done = wait(
        lambda: client.describe_stacks(StackName=name)["Stacks"][0],
        lambda s: not s["StackStatus"].endswith("IN_PROGRESS"),
    )
    reasons = [
        (event["LogicalResourceId"], event.get("ResourceStatusReason"))
        for event in client.describe_stack_events(StackName=name)["StackEvents"]
        if "FAILED" in event["ResourceStatus"]
    ]
    assert done["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), (done["StackStatus"], reasons)
    return {output["OutputKey"]: output["OutputValue"] for output in done.get("Outputs", [])}


def test_a_stack_has_what_the_template_says_and_lives_through_an_update(local_aws: LocalAws) -> None:
    outputs = stack(local_aws, "whole", template())
    assert outputs["Secret"].startswith("arn:aws:secretsmanager:us-east-1:000000000000:secret:")
    assert outputs["Group"] == "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/whole"
    assert (
        local_aws.client("ssm").get_parameter(Name="/stepforge/whole/bucket")["Parameter"]["Value"] == "stack-artifacts"
    )
    secrets = local_aws.client("secretsmanager")
    wait(lambda: secrets.get_secret_value(SecretId=outputs["Secret"])["SecretString"], lambda value: value == "rotated")
    local_aws.client("s3").put_object(Bucket="stack-artifacts", Key="kept", Body=b"1")
    changed = template()
    changed["Resources"]["Logs"]["Properties"]["RetentionInDays"] = 14
    changed["Resources"]["Group"]["Properties"]["Tags"] = [{"Key": "a", "Value": "c"}]
    changed["Resources"]["Secret"]["Properties"]["Description"] = "of a provider"
    changed["Resources"]["Function"]["Properties"]["Timeout"] = 30
    assert stack(local_aws, "whole", changed) == outputs
    assert secrets.describe_secret(SecretId=outputs["Secret"])["Description"] == "of a provider"
    tags = local_aws.client("sagemaker").list_tags(ResourceArn=outputs["Group"])["Tags"]
    assert [tag for tag in tags if not tag["Key"].startswith("aws:")] == [{"Key": "a", "Value": "c"}]

    sfn, sagemaker = local_aws.client("stepfunctions"), local_aws.client("sagemaker")
    package = sagemaker.create_model_package(ModelPackageGroupName="whole")["ModelPackageArn"]
    sagemaker.update_model_package(ModelPackageArn=package, ModelApprovalStatus="Approved")
    runs = wait(
        lambda: sfn.list_executions(stateMachineArn=outputs["Machine"])["executions"], lambda found: len(found) == 2
    )
    inputs = [json.loads(sfn.describe_execution(executionArn=run["executionArn"])["input"]) for run in runs]
    approval = next(event for event in inputs if event["detail"].get("UpdatedModelPackageFields"))
    assert approval["detail"]["UpdatedModelPackageFields"] == ["ModelApprovalStatus"]
    assert approval["detail"]["ModelApprovalStatus"] == "Approved"
    assert approval["source"] == "aws.sagemaker"
    assert isinstance(approval["detail"]["LastModifiedTime"], int)

    sagemaker.delete_model_package(ModelPackageName=package)
    cloudformation = local_aws.client("cloudformation")
    identifier = cloudformation.describe_stacks(StackName="whole")["Stacks"][0]["StackId"]
    cloudformation.delete_stack(StackName="whole")
    wait(
        lambda: cloudformation.describe_stacks(StackName=identifier)["Stacks"][0]["StackStatus"],
        lambda s: s == "DELETE_COMPLETE",
    )
    assert local_aws.client("s3").get_object(Bucket="stack-artifacts", Key="kept")["Body"].read() == b"1"
    with pytest.raises(ClientError, match="does not exist"):
        sagemaker.describe_model_package_group(ModelPackageGroupName="whole")
