"""A job's own policy: enough for every call that the job makes, and nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.resources import Resources, Vpc
from stepforge.contracts.work import WORK_TYPES, WorkType
from stepforge.errors import InvalidInput
from stepforge.local.sagemaker.objects import CheckpointSync, Objects
from stepforge.machines.attempts import find_attempt
from stepforge.plans.checks import needed_by_caller, needed_by_job
from stepforge.submitting.job_policy import job_policy
from stepforge.submitting.submission import training_request
from tests.fakes import FakeSageMaker
from tests.infra.machines import LOCAL, resources
from tests.infra.principals import ACCOUNT, Cloud
from tests.support.iam import allows, listed

BUCKET, KEY = "stepforge-local", "arn:aws:kms:us-east-1:000000000000:key/0"
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/stepforge-train@sha256:" + "0" * 64
PREFIX, SHA = "sft-" + "a" * 12, "a" * 64
ENVIRONMENT = Environment(
    name="local",
    bucket=BUCKET,
    key_arn=KEY,
    training_role_arn="r",
    serving_role_arn="r",
    machines={},
    images={"train": IMAGE},
    code=dict.fromkeys(WORK_TYPES, "c" * 64),
)


def job(**resources: Any) -> dict[str, Any]:
    request = JobRequest(
        prefix=PREFIX,
        spec_sha256=SHA,
        spec_uri=f"s3://{BUCKET}/specs/{SHA}/spec.json",
        image=IMAGE,
        channels={"spec": f"s3://{BUCKET}/specs/{SHA}/", "data": f"s3://{BUCKET}/jobs/dataset-1-a0/output/model/"},
        resources=Resources(instance_type="ml.m5.large", **resources),
    )
    sagemaker = FakeSageMaker()
    attempt = find_attempt(sagemaker, None, request, bucket=BUCKET, key_arn=KEY, poll_seconds=0).attempt
    return training_request(ENVIRONMENT, request, attempt)


def policy(**resources: Any) -> dict[str, Any]:
    return job_policy(job(**resources), region="us-east-1", account="000000000000", environment_key=KEY)


ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[tuple[str, str, str]]]]:
    """An S3 client, and the calls that it makes: action, resource, listed prefix."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket=BUCKET)
        for key in (f"specs/{SHA}/spec.json", "jobs/dataset-1-a0/output/model/manifest.json"):
            s3.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
        s3.put_object(Bucket=BUCKET, Key=f"checkpoints/{PREFIX}/step-1/state", Body=b"s")
        seen: list[tuple[str, str, str]] = []

        def note(params: dict[str, Any], model: Any, **_: Any) -> None:
            resource = f"arn:aws:s3:::{params['Bucket']}" + (f"/{params['Key']}" if "Key" in params else "")
            seen.append((ACTIONS[model.name], resource, params.get("Prefix", "")))

        s3.meta.events.register("before-parameter-build.s3", note)
        yield s3, seen


def test_it_allows_every_call_that_the_local_aws_makes_for_the_job(
    calls: tuple[Any, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    s3, seen = calls
    objects, request = Objects(s3), job()
    for channel in request["InputDataConfig"]:
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        objects.download(uri, tmp_path / "in" / channel["ChannelName"], required=True)
    kept = request["CheckpointConfig"]["S3Uri"]
    objects.download(kept, tmp_path / "checkpoints", required=False)
    sync = CheckpointSync(objects, tmp_path / "checkpoints", kept, {})
    for folder in ("checkpoints", "model"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "made").write_text("m")
    sync.step(final=True)
    output = f"{request['OutputDataConfig']['S3OutputPath']}/{request['TrainingJobName']}/output/model/"
    objects.upload_folders([tmp_path / "model"], output, {})
    assert {action for action, _, _ in seen} == {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}
    granted = policy()
    for action, resource, prefix in seen:
        assert allows(granted, action, resource, s3__prefix=prefix), (action, resource, prefix)
        assert allows(role_of("sft"), action, resource, s3__prefix=prefix), (action, resource, prefix)


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/jobs/another-a0/output/model/weights", {}),
        ("s3:PutObject", f"arn:aws:s3:::{BUCKET}/jobs/dataset-1-a0/output/model/shard", {}),
        ("s3:PutObject", f"arn:aws:s3:::{BUCKET}/specs/{SHA}/spec.json", {}),
        ("s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/jobs/{PREFIX}-a0/output/model/weights", {}),
        ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3__prefix": "pipelines/"}),
        ("s3:GetObject", f"arn:aws:s3:::elsewhere/specs/{SHA}/spec.json", {}),
        ("kms:Decrypt", "arn:aws:kms:us-east-1:000000000000:key/1", {}),
        ("kms:CreateGrant", KEY, {"kms__GrantIsForAWSResource": "false"}),
        ("ecr:BatchGetImage", "arn:aws:ecr:us-east-1:000000000000:repository/other", {}),
        ("logs:PutLogEvents", "arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/TrainingJobs"
         ":log-stream:another-a0/algo-1-1", {}),
        ("iam:PassRole", "arn:aws:iam::000000000000:role/any", {}),
        ("ec2:CreateNetworkInterface", "arn:aws:ec2:us-east-1:000000000000:subnet/subnet-1", {}),
    ],
)  # fmt: skip
def test_it_allows_nothing_of_another_jobs(action: str, resource: str, context: dict[str, str]) -> None:
    assert not allows(policy(), action, resource, **context)


def test_a_job_in_a_vpc_makes_interfaces_in_its_own_subnets_alone() -> None:
    granted = policy(vpc=Vpc(subnets=("subnet-1",), security_groups=("sg-1",)))
    stem = "arn:aws:ec2:us-east-1:000000000000:subnet/"
    assert allows(granted, "ec2:CreateNetworkInterface", f"{stem}subnet-1")
    assert not allows(granted, "ec2:CreateNetworkInterface", f"{stem}subnet-2")


def test_outputs_under_a_key_of_their_own_leave_the_environments_key_for_the_spec_and_the_inputs() -> None:
    other = KEY.replace("key/0", "key/1")
    granted = policy(output_key_arn=other)
    for key in (KEY, other):
        assert allows(granted, "kms:Decrypt", key)
        assert allows(granted, "kms:GenerateDataKey", key)


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
def test_in_another_partition_every_arn_is_of_it(region: str, partition: str) -> None:
    request = job(vpc=Vpc(subnets=("subnet-1",), security_groups=("sg-1",)))
    image = request["AlgorithmSpecification"]["TrainingImage"].replace("us-east-1", region)
    request["AlgorithmSpecification"]["TrainingImage"] = image
    key = f"arn:{partition}:kms:{region}:000000000000:key/0"
    request["OutputDataConfig"]["KmsKeyId"] = request["ResourceConfig"]["VolumeKmsKeyId"] = key
    granted = job_policy(request, region=region, account="000000000000", environment_key=key)
    arns = [r for statement in granted["Statement"] for r in statement["Resource"] if r != "*"]
    assert {one.split(":")[1] for one in arns} == {partition}
    environment = ENVIRONMENT.model_copy(update={"key_arn": key, "machines": {"train": f"arn:{partition}:states:m"}})
    environment = environment.model_copy(update={"training_role_arn": f"arn:{partition}:iam::0:role/r"})
    needed = [*needed_by_job(environment, "sft")]
    needed += [n for machine in (True, False) for n in needed_by_caller(environment, ["sft"], machine=machine)]
    assert {one.resource.split(":")[1] for one in needed if one.resource != "*"} == {partition}


def test_an_image_outside_of_ecr_is_refused() -> None:
    request = job()
    request["AlgorithmSpecification"]["TrainingImage"] = "registry.example/train@sha256:0"
    with pytest.raises(InvalidInput, match="is in no ECR repository"):
        job_policy(request, region="us-east-1", account="000000000000", environment_key=KEY)


def role_of(work: WorkType) -> dict[str, Any]:
    """The policy of the role that the environment `local` deploys for a type of job, as it would be deployed."""
    cloud = Cloud(LOCAL)
    name = cloud.plain(next(
        p["Value"] for p in resources(LOCAL, "AWS::SSM::Parameter").values() if p["Name"].endswith(f"role-arns/{work}")
    ))  # fmt: skip
    (found,) = (principal for principal in cloud.principals.values() if principal.arn == name)
    text = json.dumps({"Statement": [s for policy in found.policies for s in policy["Statement"]]})
    for generated, deployed in ((cloud.arn("KeysData"), KEY), (cloud.arn("DataBucket"), f"arn:aws:s3:::{BUCKET}")):
        text = text.replace(generated, deployed)
    filled: dict[str, Any] = json.loads(text.replace(ACCOUNT, "000000000000"))
    return filled


UPLOADED = f"s3://{BUCKET}/raw"
MADE = f"s3://{BUCKET}/jobs"
CHANNELS: dict[WorkType, dict[str, list[str]]] = {
    "dataset": {"records": [f"{UPLOADED}/records/0/"]},
    "gate": {"data": [f"{MADE}/dataset-1-a0/output/model/", f"{UPLOADED}/dataset/0/"]},
    **{
        stage: {
            "data": [f"{MADE}/dataset-1-a0/output/model/", f"{UPLOADED}/dataset/0/"],
            "gate": [f"{MADE}/gate-1-a0/output/model/"],
            "model": [f"{UPLOADED}/model/0/", *(f"{MADE}/{one}-1-a0/output/model/" for one in ("sft", "srl", "rlvr"))],
        }
        for stage in ("sft", "srl", "rlvr")
    },
    "evaluate": {
        "data": [f"{MADE}/dataset-1-a0/output/model/", f"{UPLOADED}/dataset/0/"],
        "model": [f"{UPLOADED}/model/0/", *(f"{MADE}/{one}-1-a0/output/model/" for one in ("sft", "srl", "rlvr"))],
        "champion": [f"{MADE}/rlvr-1-a0/output/model/"],
    },
}  # type: ignore[dict-item]
"""What each channel of a type of job may be given, by contracts.jobs and contracts.pipelines; `plugin` anywhere."""


def job_of(work: WorkType, channel: str, uri: str) -> dict[str, Any]:
    found = job(vpc=None)
    found["TrainingJobName"] = f"{work}-{'a' * 12}-a0"
    found["CheckpointConfig"]["S3Uri"] = f"s3://{BUCKET}/checkpoints/{work}-{'a' * 12}/"
    sources = {"spec": f"s3://{BUCKET}/specs/{SHA}/", channel: uri, "plugin": f"{UPLOADED}/plugin/0/"}
    found["InputDataConfig"] = [
        {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": at}}}
        for name, at in sources.items()
    ]
    return found


@pytest.mark.parametrize("work", WORK_TYPES)
def test_the_role_of_a_type_of_job_allows_all_that_a_job_of_it_needs_whatever_it_is_given(work: WorkType) -> None:
    role, checked = role_of(work), 0
    for channel, uris in CHANNELS[work].items():
        for uri in uris:
            needed = job_policy(
                job_of(work, channel, uri), region="us-east-1", account="000000000000", environment_key=KEY
            )
            for statement in needed["Statement"]:
                for action in statement["Action"]:
                    for resource in statement["Resource"]:
                        for context in contexts(statement.get("Condition", {})):
                            assert allows(role, action, resource.replace("*", "x"), **context), (action, resource)
                            checked += 1
    assert checked > 15


def contexts(condition: dict[str, Any]) -> list[dict[str, str]]:
    """Requests that a condition lets through: one for each value of its key."""
    keys = [(key, listed(values)) for tests in condition.values() for key, values in tests.items()]
    return [
        dict(zip((key.replace(":", "__") for key, _ in keys), (str(v).replace("*", "x") for v in chosen), strict=True))
        for chosen in product(*(values for _, values in keys))
    ]


@pytest.mark.parametrize("work", WORK_TYPES)
def test_the_role_of_a_type_of_job_touches_nothing_that_its_jobs_do_not(work: WorkType) -> None:
    role = role_of(work)
    stages = ("sft", "srl", "rlvr")
    own = stages if work in stages else (work,)
    for other in WORK_TYPES:
        for folder in ("jobs", "checkpoints"):
            written = allows(role, "s3:PutObject", f"arn:aws:s3:::{BUCKET}/{folder}/{other}-1-a0/x")
            assert written is (other in own), (folder, other)
        removed = allows(role, "s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/checkpoints/{other}-1/x")
        assert removed is (other in own), other
    named = {uri.removeprefix(f"s3://{BUCKET}/").partition("-")[0] for uris in CHANNELS[work].values() for uri in uris}
    for other in WORK_TYPES:
        readable = allows(role, "s3:GetObject", f"arn:aws:s3:::{BUCKET}/jobs/{other}-1-a0/x")
        assert readable is (f"jobs/{other}" in named), other
    for outside in (
        "elsewhere/jobs/x",
        f"{BUCKET}/pipelines/x",
        f"{BUCKET}/ledger/x",
        f"{BUCKET}-copy/jobs/{work}-1/x",
    ):
        for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
            assert not allows(role, action, f"arn:aws:s3:::{outside}"), (action, outside)
    for forbidden in (f"specs/{SHA}/spec.json", f"raw/records/{SHA}/x", f"jobs/{work}-1-a0/x"):
        assert not allows(role, "s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/{forbidden}"), forbidden


def test_an_explicit_deny_wins_and_a_condition_that_is_not_met_counts_for_nothing() -> None:
    allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b/*"}
    deny = {"Effect": "Deny", "Action": "s3:DeleteObject", "Resource": "*"}
    both = {"Statement": [allow, deny]}
    assert allows(both, "s3:GetObject", "arn:aws:s3:::b/k")
    assert not allows(both, "s3:DeleteObject", "arn:aws:s3:::b/k")
    secure = {"Statement": [allow | {"Condition": {"Bool": {"aws:SecureTransport": "true"}}}]}
    assert not allows(secure, "s3:GetObject", "arn:aws:s3:::b/k")
    assert allows(secure, "s3:GetObject", "arn:aws:s3:::b/k", aws__SecureTransport="true")
