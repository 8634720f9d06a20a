"""What an operator may do, and what not: the whole of it, decided by IAM's rules over the template of `dev`."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.contracts.names import MACHINES
from tests.support.iam import Request, decide

from .conftest import Synth
from .machines import resources
from .principals import ACCOUNT, REGION, Cloud

STEM = f"{REGION}:{ACCOUNT}"
VIA_S3 = {"kms__ViaService": f"s3.{REGION}.amazonaws.com"}


@pytest.fixture(scope="module")
def cloud(synth: Synth) -> Cloud:
    return Cloud(synth.templates["dev"])


def here(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{STEM}:{resource}"


MAY = {
    "sagemaker:DeleteEndpoint": here("sagemaker", "endpoint/stepforge-{}---facial"),
    "sagemaker:DescribeModelPackage": here("sagemaker", "model-package/stepforge-{}---facial/3"),
    "sqs:ReceiveMessage": here("sqs", "stepforge-{}-approval-dead-letters"),
    "sqs:PurgeQueue": here("sqs", "stepforge-{}-images-dead-letters"),
    "states:StopExecution": here("states", "execution:stepforge-{}-promote:promote-0123456789ab-r0"),
    "states:GetExecutionHistory": here("states", "execution:stepforge-{}-promote:promote-0123456789ab-r0"),
    "codebuild:StartBuild": here("codebuild", "project/stepforge-{}-images"),
    "secretsmanager:ListSecretVersionIds": here("secretsmanager", "secret:stepforge/{}/openai-AbCdEf"),
    "logs:FilterLogEvents": here("logs", "log-group:/stepforge/{}/writes"),
    "logs:GetLogEvents": here("logs", "log-group:/aws/sagemaker/Endpoints/stepforge-{}---facial:log-stream:x"),
    "cloudwatch:DescribeAlarmHistory": here("cloudwatch", "alarm:stepforge-{}-images-failed"),
    "cloudwatch:GetDashboard": f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/stepforge-{{}}",
    "ssm:GetParametersByPath": here("ssm", "parameter/stepforge/{}"),
}


@pytest.mark.parametrize("action", MAY)
def test_an_operator_may_this_in_the_environment_and_in_no_other(cloud: Cloud, action: str) -> None:
    assert cloud.decide("operator", action, MAY[action].format("dev")) == "allow"
    assert cloud.decide("operator", action, MAY[action].format("prod")) == "implicit deny"


ALONE = ("sqs:ReceiveMessage", "sqs:PurgeQueue", "codebuild:StartBuild", "cloudwatch:GetDashboard")


@pytest.mark.parametrize("action", ALONE)
def test_no_other_person_may(cloud: Cloud, action: str) -> None:
    # The event of a deployment starts a build too.
    machinery = {"ImagesBuildEvents"} if action == "codebuild:StartBuild" else set()
    assert cloud.who_may(action, MAY[action].format("dev")) == {"operator", *machinery}


NEVER = {
    "sagemaker:UpdateModelPackage": here("sagemaker", "model-package/stepforge-dev---facial/3"),
    "sagemaker:CreateModelPackage": here("sagemaker", "model-package/stepforge-dev---facial/3"),
    "sagemaker:CreateTrainingJob": here("sagemaker", "training-job/sft-0123456789ab-a0"),
    "states:SendTaskSuccess": "*",
    "states:StartExecution": here("states", "stateMachine:stepforge-dev-promote"),
    "secretsmanager:PutSecretValue": here("secretsmanager", "secret:stepforge/dev/openai-AbCdEf"),
    "secretsmanager:UpdateSecret": here("secretsmanager", "secret:stepforge/dev/openai-AbCdEf"),
    "secretsmanager:GetSecretValue": here("secretsmanager", "secret:stepforge/dev/openai-AbCdEf"),
}


@pytest.mark.parametrize("action", NEVER)
def test_an_operator_is_denied_what_decides_trains_or_is_secret_whatever_else_is_attached(
    cloud: Cloud, action: str
) -> None:
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    request = Request(action, NEVER[action], {"sagemaker:modelapprovalstatus": "Approved"})
    assert decide(request, identity=[*cloud.principals["operator"].policies, everything]) == "deny"


OTHERS = {
    "sagemaker:CreateEndpoint": here("sagemaker", "endpoint/stepforge-dev---facial"),
    "sagemaker:UpdateEndpoint": here("sagemaker", "endpoint/stepforge-dev---facial"),
    "sagemaker:InvokeEndpoint": here("sagemaker", "endpoint/stepforge-dev---facial"),
    "secretsmanager:RotateSecret": here("secretsmanager", "secret:stepforge/dev/openai-AbCdEf"),
    "secretsmanager:DeleteSecret": here("secretsmanager", "secret:stepforge/dev/openai-AbCdEf"),
    "sqs:SendMessage": here("sqs", "stepforge-dev-approval-dead-letters"),
    "codebuild:UpdateProject": here("codebuild", "project/stepforge-dev-images"),
    "cloudwatch:PutMetricAlarm": here("cloudwatch", "alarm:stepforge-dev---facial-5xx"),
    "logs:DeleteLogGroup": here("logs", "log-group:/stepforge/dev/writes"),
    "logs:PutRetentionPolicy": here("logs", "log-group:/stepforge/dev/writes"),
    "logs:GetLogEvents": here("logs", "log-group:/aws/sagemaker/TrainingJobs:log-stream:x"),
    "ssm:PutParameter": here("ssm", "parameter/stepforge/dev/bucket"),
    "ssm:GetParameter": here("ssm", "parameter/stepforge-keys/dev/openai"),
    "iam:PassRole": f"arn:aws:iam::{ACCOUNT}:role/rolesserving",
    "cloudtrail:StopLogging": here("cloudtrail", "trail/stepforge-dev-writes"),
}


@pytest.mark.parametrize("action", OTHERS)
def test_an_operator_may_not(cloud: Cloud, action: str) -> None:
    assert cloud.decide("operator", action, OTHERS[action]) == "implicit deny"


@pytest.mark.parametrize("machine", MACHINES)
def test_an_operator_stops_promotions_alone_and_learns_no_token(cloud: Cloud, machine: str) -> None:
    execution = here("states", f"execution:stepforge-dev-{machine}:x-0123456789ab-r0")
    wanted = "allow" if machine == "promote" else "implicit deny"
    assert cloud.decide("operator", "states:StopExecution", execution) == wanted
    assert cloud.decide("operator", "states:GetExecutionHistory", execution) == wanted
    assert cloud.decide("operator", "states:DescribeExecution", execution) == "allow"


FOLDERS = ("jobs/dataset-1-a0", "jobs/gate-1-a0", "specs", "pipelines", "raw/records", "checkpoints/sft-1", "curated",
           "model-ready", "evaluations", "ledger", "prices", "approvals", "finetune", "housekeeping")  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_operator_reads_no_records_and_nothing_else_in_the_bucket(cloud: Cloud, folder: str) -> None:
    key = f"{cloud.arn('DataBucket')}/{folder}/x"
    for action in ("GetObject", "GetObjectVersion", "PutObject", "DeleteObject", "DeleteObjectVersion"):
        assert cloud.decide("operator", f"s3:{action}", key) == "implicit deny", action
    prefix = {"s3__prefix": f"{folder}/"}
    assert cloud.decide("operator", "s3:ListBucketVersions", cloud.arn("DataBucket"), **prefix) == "implicit deny"


@pytest.mark.parametrize("work", ["sft", "srl", "rlvr", "evaluate"])
def test_an_operator_brings_back_an_output_by_a_copy_within_the_jobs_alone(cloud: Cloud, work: str) -> None:
    bucket = cloud.arn("DataBucket")
    name, key = bucket.rpartition(":")[2], f"{bucket}/jobs/{work}-0123456789ab-a0/output/model/manifest.json"

    def put(**context: Any) -> str:
        return cloud.decide("operator", "s3:PutObject", key, **context)

    assert cloud.decide("operator", "s3:GetObjectVersion", key) == "allow"
    for slash in ("", "/"):
        assert put(**{"s3__x-amz-copy-source": f"{slash}{name}/jobs/{work}-0123456789ab-a0/x?versionId=v"}) == "allow"
        assert put(**{"s3__x-amz-copy-source": f"{slash}other/jobs/x"}) == "implicit deny"
        assert put(**{"s3__x-amz-copy-source": f"{slash}{name}/raw/records/x"}) == "implicit deny"
    assert put() == "implicit deny"
    for action in ("DeleteObject", "DeleteObjectVersion"):
        assert cloud.decide("operator", f"s3:{action}", key) == "implicit deny"
    # What is copied is read and written with the bucket's key, and by S3 alone.
    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
        assert cloud.decide("operator", action, cloud.arn("KeysData"), **VIA_S3) == "allow"
        assert cloud.decide("operator", action, cloud.arn("KeysData")) == "implicit deny"
        assert cloud.decide("operator", action, cloud.arn("KeysSecrets"), **VIA_S3) == "implicit deny"


def test_who_wrote_over_a_jobs_output_is_in_a_trail_that_nobody_of_ours_can_change(synth: Synth, cloud: Cloud) -> None:
    stack = synth.stacks["stepforge-dev-data"]
    (trail,) = resources(stack, "AWS::CloudTrail::Trail").values()
    (selector,) = trail["EventSelectors"]
    bucket = next(n for n in resources(stack, "AWS::S3::Bucket") if n.startswith("DataBucket"))
    values = [{"Fn::Join": ["", [{"Fn::GetAtt": [bucket, "Arn"]}, "/jobs/"]]}]
    assert selector == {
        "DataResources": [{"Type": "AWS::S3::Object", "Values": values}],
        # Each is paid for a second time in a trail that is not the account's first.
        "IncludeManagementEvents": False,
        "ReadWriteType": "WriteOnly",
    }
    assert trail["EnableLogFileValidation"]
    assert cloud.plain(trail["CloudWatchLogsLogGroupArn"]).endswith(":log-group:/stepforge/dev/writes:*")
    service = Request("kms:GenerateDataKey", cloud.arn("KeysLogs"), principal="service:cloudtrail.amazonaws.com")
    policies = cloud.of_resources[cloud.arn("KeysLogs")]
    for name, decision in (("stepforge-dev-writes", "allow"), ("other", "implicit deny")):
        asked = Request(
            service.action, service.resource, {"aws:sourcearn": here("cloudtrail", f"trail/{name}")}, service.principal
        )
        assert decide(asked, resource=policies, key_policy=True) == decision
    signed = f"{cloud.arn('DataAccessLogs')}/trail/AWSLogs/{ACCOUNT}/x"
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert cloud.who_may(action, signed) == set()


# ── Logs that SageMaker writes ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_what_serves_writes_into_groups_with_an_end_and_the_environments_key(synth: Synth, name: str) -> None:
    stack = synth.stacks[f"stepforge-{name}-data"]
    groups = {
        g["LogGroupName"]: g for g in resources(stack, "AWS::Logs::LogGroup").values() if "aws" in g["LogGroupName"]
    }
    stem = f"/aws/sagemaker/Endpoints/stepforge-{name}---facial"
    assert set(groups) == {stem, f"{stem}-candidate"}
    key = next(n for n in resources(stack, "AWS::KMS::Key") if n.startswith("KeysLogs"))
    days = {"dev": 30, "staging": 90, "prod": 365}[name]
    assert {(g["RetentionInDays"], g["KmsKeyId"]["Fn::GetAtt"][0]) for g in groups.values()} == {(days, key)}
    deployed = Cloud(synth.templates[name])
    policies = deployed.of_resources[deployed.arn("KeysLogs")]
    context = {"kms:encryptioncontext:aws:logs:arn": here("logs", f"log-group:{stem}")}
    logs = Request("kms:Encrypt", deployed.arn("KeysLogs"), context, f"service:logs.{REGION}.amazonaws.com")
    assert decide(logs, resource=policies, key_policy=True) == "allow"


def test_with_inference_components_their_groups_are_made_and_written_too() -> None:
    from cdk.serving import log_groups
    from cdk.settings import LOCAL

    components = LOCAL.model_copy(update={"serve_mode": "components"})
    assert log_groups(components, "g") == (
        "/aws/sagemaker/Endpoints/g", "/aws/sagemaker/Endpoints/g-candidate",
        "/aws/sagemaker/InferenceComponents/g", "/aws/sagemaker/InferenceComponents/g-candidate",
    )  # fmt: skip


def test_the_log_group_of_all_jobs_has_an_end_and_a_key_for_that_group_alone(synth: Synth) -> None:
    account = synth.stacks["stepforge-account"]
    (found,) = (r for r in account["Resources"].values() if r["Type"] == "AWS::Logs::LogGroup")
    assert found["Properties"]["LogGroupName"] == "/aws/sagemaker/TrainingJobs"
    assert found["Properties"]["RetentionInDays"] == 365
    assert (found["DeletionPolicy"], found["UpdateReplacePolicy"]) == ("Retain", "Retain")
    (key,) = resources(account, "AWS::KMS::Key")
    assert found["Properties"]["KmsKeyId"] == {"Fn::GetAtt": [key, "Arn"]}
    cloud = Cloud(account)
    arn = cloud._arn(key)
    for group, decision in (("/aws/sagemaker/TrainingJobs", "allow"), ("/stepforge/dev/handlers", "implicit deny")):
        context = {"kms:encryptioncontext:aws:logs:arn": here("logs", f"log-group:{group}")}
        request = Request("kms:Encrypt", arn, context, f"service:logs.{REGION}.amazonaws.com")
        assert decide(request, resource=cloud.of_resources[arn], key_policy=True) == decision
