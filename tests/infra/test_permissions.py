"""Least privilege: a matrix of requests, each decided by IAM's rules over the template of `dev`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from botocore.session import get_session

from stepforge.contracts.names import ENVIRONMENT_TAG, LIVE, MACHINES
from stepforge.machines.attempts import volume_key
from stepforge.machines.planning import job_tags
from tests.support.iam import Request, decide

from .conftest import NAMES, TUNING_ROLE, Synth
from .permissions import FILE, text
from .principals import ACCOUNT, REGION, Cloud, Principal

Json = Any
STEM = f"{REGION}:{ACCOUNT}"
PACKAGE = f"arn:aws:sagemaker:{STEM}:model-package/stepforge-dev---facial/3"
ENDPOINT = f"arn:aws:sagemaker:{STEM}:endpoint/stepforge-dev---facial"
JOB = f"arn:aws:sagemaker:{STEM}:training-job/sft-0123456789ab-a0"
GUARDED: dict[str, Json] = {
    "sagemaker__OutputKmsKey": "key",
    "sagemaker__VolumeKmsKey": "key",
    "sagemaker__VpcSubnets": ["subnet-1"],
    "sagemaker__VpcSecurityGroupIds": ["sg-1"],
}
WITHIN: dict[str, Json] = {
    "sagemaker__InstanceTypes": ["ml.m5.large"],
    "sagemaker__MaxRuntimeInSeconds": "86400",
    "sagemaker__InterContainerTrafficEncryption": "true",
}
VIA_S3 = {"kms__ViaService": "s3.us-east-1.amazonaws.com"}
APPROVED = {"sagemaker__ModelApprovalStatus": "Approved"}


@pytest.fixture(scope="module")
def cloud(synth: Synth) -> Cloud:
    return Cloud(synth.templates["dev"])


def test_the_committed_list_is_what_the_template_grants(synth: Synth) -> None:
    found = text(synth.templates["dev"], synth.templates["staging"])
    assert FILE.read_text(encoding="utf-8") == found, "run `python -m tests.infra.permissions` and read the difference"


# ── Who reads and writes what in the bucket ──────────────────────────────────────────────────────

PEOPLE = ("viewer", "trainer", "approver", "housekeeper")
JOBS = {
    "RolesDataset": ("dataset",),
    "RolesGate": ("gate",),
    "RolesTraining": ("sft", "srl", "rlvr"),
    "RolesEvaluate": ("evaluate",),
}
"""The role of each kind of job, and the types that run as it."""
_READ_OUTPUTS = {
    "FunctionsFindAttempt", "FunctionsClassifyJob", "FunctionsReadGate", "FunctionsCompare", "FunctionsRegister",
    "FunctionsPlanChampion", "FunctionsJoinParts", "FunctionsVerifyPackage", "FunctionsSmoke", "FunctionsFinetune",
    *PEOPLE,
}  # fmt: skip
_STAGES = {"RolesTraining", "RolesEvaluate", "RolesServing"}
READERS = {
    "jobs/dataset-1-a0": {*_READ_OUTPUTS, "RolesGate", "RolesTraining", "RolesEvaluate"},
    "jobs/gate-1-a0": {*_READ_OUTPUTS, "RolesTraining"},
    "jobs/sft-1-a0": {*_READ_OUTPUTS, *_STAGES},
    "jobs/srl-1-a0": {*_READ_OUTPUTS, *_STAGES},
    "jobs/rlvr-1-a0": {*_READ_OUTPUTS, *_STAGES},
    "jobs/evaluate-1-a0": _READ_OUTPUTS,
    "specs": {"FunctionsClassifyJob", "MachinesDataset", *JOBS, *PEOPLE},
    "pipelines": {
        "FunctionsPlanJob", "FunctionsPlanChampion", "FunctionsPlanEvaluation", "FunctionsPlanParts",
        "FunctionsJoinParts", "FunctionsCompare", "FunctionsRegister", *PEOPLE,
    },
    "raw/records": {"RolesDataset", *PEOPLE},
    "raw/dataset": {"RolesGate", "RolesTraining", "RolesEvaluate", *PEOPLE},
    "raw/model": {"RolesTraining", "RolesEvaluate", *PEOPLE},
    "raw/plugin": {*JOBS, *PEOPLE},
    "raw/anything-else": set(PEOPLE),
    **{f"checkpoints/{work}-1": {role, *PEOPLE} for role, types in JOBS.items() for work in types},
    "curated": set(PEOPLE),
    "model-ready": set(PEOPLE),
    "evaluations": set(PEOPLE),
    # Of a job that SageMaker has forgotten, the ledger's word counts.
    "ledger": {"FunctionsVerifyPackage", *PEOPLE},
    "prices": {"FunctionsClassifyJob", *PEOPLE},
    "approvals": {"approver"},
    "finetune": {"FunctionsFinetune", "FunctionsFinetuneStopped", *PEOPLE},
    **{
        f"finetune/{what}": {
            "FunctionsFinetune", "FunctionsFinetuneStopped", *PEOPLE,
            *(["FunctionsVerifyPackage"] if what in ("requests", "evaluations") else []),
        }
        for what in ("data", "heldout", "requests", "evaluations")
    },
    "housekeeping": set(),
    "anything-else": set(),
}  # fmt: skip
WRITERS = {
    **{f"jobs/{work}-1-a0": {role} for role, types in JOBS.items() for work in types},
    **{f"checkpoints/{work}-1": {role} for role, types in JOBS.items() for work in types},
    "specs": {
        "FunctionsPlanJob", "FunctionsPlanChampion", "FunctionsPlanEvaluation", "FunctionsPlanParts",
        "FunctionsJoinParts", "trainer",
    },
    "pipelines": {"trainer"},
    "raw": {"trainer"},
    "raw/dataset": {"FunctionsJoinParts", "trainer"},
    "curated": {"trainer"},
    "model-ready": {"trainer"},
    "evaluations": {"trainer"},
    "ledger": {"FunctionsClassifyJob", "housekeeper"},
    "prices": {"trainer"},
    "approvals": {"FunctionsAskPerson"},
    "finetune": {"FunctionsFinetune", "trainer"},
    "housekeeping": set(),
    "anything-else": set(),
}  # fmt: skip


def ours(found: set[str]) -> set[str]:
    """Without what belongs to the stack's own machinery: deployment, images, networks."""
    return {who for who in found if who.startswith(("Functions", "Machines", "Roles")) or who in PEOPLE}


@pytest.mark.parametrize("prefix", READERS)
def test_a_prefix_is_read_by_these_alone(cloud: Cloud, prefix: str) -> None:
    assert ours(cloud.who_may("s3:GetObject", f"{cloud.arn('DataBucket')}/{prefix}/x")) == READERS[prefix]


@pytest.mark.parametrize("prefix", WRITERS)
def test_a_prefix_is_written_by_these_alone(cloud: Cloud, prefix: str) -> None:
    assert ours(cloud.who_may("s3:PutObject", f"{cloud.arn('DataBucket')}/{prefix}/x")) == WRITERS[prefix]


def test_only_jobs_and_a_housekeeper_delete_objects_and_jobs_only_their_checkpoints(cloud: Cloud) -> None:
    bucket = cloud.arn("DataBucket")
    removed = ("checkpoints", "jobs", "specs", "pipelines", "raw")
    for prefix in READERS:
        may = ours(cloud.who_may("s3:DeleteObject", f"{bucket}/{prefix}/x"))
        tidied = {"housekeeper"} if prefix.partition("/")[0] in removed else set()
        assert may == tidied | (WRITERS[prefix] if prefix.startswith("checkpoints/") else set()), prefix
    assert ours(cloud.who_may("s3:DeleteObjectVersion", f"{bucket}/jobs/sft-1-a0/x")) == set()


def test_a_housekeeper_writes_a_lock_costs_and_manifests_and_removes_nothing_that_answers(cloud: Cloud) -> None:
    bucket = cloud.arn("DataBucket")
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert ours(cloud.who_may(action, f"{bucket}/housekeeping/under-way.json")) == {"housekeeper"}
    manifest = f"{bucket}/jobs/sft-1-a0/output/model/manifest.json"
    assert ours(cloud.who_may("s3:PutObject", manifest)) == {"RolesTraining", "housekeeper"}
    candidate = f"{ENDPOINT}-candidate"
    assert ours(cloud.who_may("sagemaker:DeleteEndpoint", candidate)) == {
        "FunctionsDeploy", "FunctionsOnApproval", "housekeeper",
    }  # fmt: skip
    for what in ("model", "endpoint-config"):
        arn = ENDPOINT.replace(":endpoint/", f":{what}/")
        action = {"model": "sagemaker:DeleteModel", "endpoint-config": "sagemaker:DeleteEndpointConfig"}[what]
        assert ours(cloud.who_may(action, arn)) == {"FunctionsDeploy", "housekeeper"}
    for action, resource in (
        ("sagemaker:CreateTrainingJob", JOB),
        ("sagemaker:UpdateModelPackage", PACKAGE),
        ("sagemaker:DeleteModelPackage", PACKAGE),
        ("states:StartExecution", cloud.arn("MachinesTrain")),
        ("states:SendTaskSuccess", "*"),
    ):
        assert cloud.decide("housekeeper", action, resource, **GUARDED) == "deny", action


def test_nobody_lists_the_bucket_beyond_what_they_read(cloud: Cloud) -> None:
    bucket = cloud.arn("DataBucket")
    assert ours(cloud.who_may("s3:ListBucket", bucket)) == set()
    assert ours(cloud.who_may("s3:ListBucket", bucket, s3__prefix="approvals/x")) == {"approver"}
    assert ours(cloud.who_may("s3:ListBucket", bucket, s3__prefix="jobs/x")) == _READ_OUTPUTS
    for work in ("dataset", "gate", "sft", "evaluate"):
        listing = ours(cloud.who_may("s3:ListBucket", bucket, s3__prefix=f"jobs/{work}-1-a0/output/model/"))
        assert listing == READERS[f"jobs/{work}-1-a0"], work


@pytest.mark.parametrize("who", ["RolesTraining", "trainer", "FunctionsJoinParts"])
def test_nothing_is_read_or_written_without_tls(cloud: Cloud, who: str) -> None:
    for action in ("s3:GetObject", "s3:PutObject"):
        assert cloud.decide(who, action, f"{cloud.arn('DataBucket')}/raw/dataset/x", aws__SecureTransport="false") == (
            "deny"
        )


# ── Who approves, promotes and answers ───────────────────────────────────────────────────────────


def test_only_an_approver_and_the_machine_that_asks_one_may_approve(cloud: Cloud) -> None:
    for status in ("Approved", "Rejected"):
        may = cloud.who_may("sagemaker:UpdateModelPackage", PACKAGE, sagemaker__ModelApprovalStatus=status)
        assert may == {"approver", "MachinesApprove"}, status


def test_who_approves_says_yes_or_no_and_moves_no_version_to_a_stage(cloud: Cloud) -> None:
    """A version that a person calls Production is what a failed promotion would go back to."""
    said = {"sagemaker__ModelApprovalStatus": "Approved", "sagemaker__ModelLifeCycle__stage": "Production"}
    assert cloud.who_may("sagemaker:UpdateModelPackage", PACKAGE, **said) == set()


def test_a_stamp_changes_a_package_and_never_its_approval(cloud: Cloud) -> None:
    assert cloud.who_may("sagemaker:UpdateModelPackage", PACKAGE) == {
        "FunctionsStamp", "FunctionsOnRejection", "FunctionsOnApproval",
    }  # fmt: skip
    production = {"sagemaker__ModelLifeCycle__stage": "Production"}
    assert "FunctionsStamp" in cloud.who_may("sagemaker:UpdateModelPackage", PACKAGE, **production)
    assert "FunctionsOnRejection" not in cloud.who_may("sagemaker:UpdateModelPackage", PACKAGE, **production)
    # The sweep brings what was cut off out of Staging, and puts nothing into service.
    may = {
        stage: "FunctionsOnApproval"
        in cloud.who_may("sagemaker:UpdateModelPackage", PACKAGE, sagemaker__ModelLifeCycle__stage=stage)
        for stage in ("Development", "Staging", "Production", "Archived")
    }
    assert may == {"Development": True, "Staging": False, "Production": False, "Archived": True}


def test_a_package_is_made_by_what_registers_alone_and_waits_for_a_person(cloud: Cloud) -> None:
    pending = {"sagemaker__ModelApprovalStatus": "PendingManualApproval"}
    assert cloud.who_may("sagemaker:CreateModelPackage", PACKAGE, **pending) == {
        "FunctionsRegister",
        "FunctionsFinetune",
    }
    assert cloud.who_may("sagemaker:CreateModelPackage", PACKAGE, **APPROVED) == set()
    assert ours(cloud.who_may("sagemaker:DeleteModelPackage", PACKAGE)) == set()


def test_only_an_approver_answers_and_only_an_approver_can_learn_a_token(cloud: Cloud) -> None:
    for action in ("states:SendTaskSuccess", "states:SendTaskFailure"):
        assert cloud.who_may(action, "*") == {"approver"}
    assert ours(cloud.who_may("s3:GetObject", f"{cloud.arn('DataBucket')}/approvals/x.json")) == {"approver"}
    for asks in ("approve", "finetune"):
        question = f"arn:aws:states:{STEM}:execution:stepforge-dev-{asks}:{asks}-0123456789ab-r0"
        assert cloud.who_may("states:GetExecutionHistory", question) == set()
    run = f"arn:aws:states:{STEM}:execution:stepforge-dev-train:train-0123456789ab-r0"
    assert cloud.who_may("states:GetExecutionHistory", run) == set(PEOPLE)


def test_paid_tunes_are_listed_by_people_and_the_tokens_beside_them_read_by_approvers_alone(cloud: Cloud) -> None:
    spend = next(cloud._arn(n) for n, r in cloud.resources.items() if r["Type"] == "AWS::DynamoDB::Table")
    handlers = {"FunctionsFinetune", "FunctionsFinetuneStopped"}
    for action in ("dynamodb:GetItem", "dynamodb:Query"):
        for told in ("launch", "lines#0123456789ab", "spent#dev", "asked"):
            assert ours(cloud.who_may(action, spend, dynamodb__LeadingKeys=[told])) == {*handlers, *PEOPLE}, told
        for other in (["waiting"], ["launch", "waiting"], ["job"], []):
            assert ours(cloud.who_may(action, spend, dynamodb__LeadingKeys=other)) == {*handlers, "approver"}, other
        assert ours(cloud.who_may(action, spend)) == {*handlers, "approver"}
        assert cloud.decide("trainer", action, spend, dynamodb__LeadingKeys=["waiting"]) == "deny"
    for action in ("Scan", "BatchGetItem", "PartiQLSelect", "DeleteItem", "ExportTableToPointInTime"):
        assert ours(cloud.who_may(f"dynamodb:{action}", spend, dynamodb__LeadingKeys=["launch"])) == set(), action
    for action in ("dynamodb:PutItem", "dynamodb:UpdateItem"):
        assert ours(cloud.who_may(action, spend, dynamodb__LeadingKeys=["launch"])) == {*handlers, "approver"}


def test_a_trainer_is_denied_what_an_approver_may_whatever_else_is_attached(cloud: Cloud) -> None:
    for action, resource in (
        ("sagemaker:UpdateModelPackage", PACKAGE),
        ("sagemaker:CreateModelPackage", PACKAGE),
        ("states:SendTaskSuccess", "*"),
        ("states:StartExecution", cloud.arn("MachinesPromote")),
        ("s3:GetObject", f"{cloud.arn('DataBucket')}/approvals/x.json"),
    ):
        assert cloud.decide("trainer", action, resource) == "deny", action
    for action, resource in (
        ("s3:PutObject", f"{cloud.arn('DataBucket')}/jobs/x"),
        ("sagemaker:CreateTrainingJob", JOB),
        ("sagemaker:CreateModelPackage", PACKAGE),
    ):
        assert cloud.decide("approver", action, resource, **GUARDED) == "deny", action


MAY_START = {
    "run-job": {"MachinesTrain", "MachinesEvaluate", "MachinesDataset"},
    "train": {"trainer"},
    "evaluate": {"trainer"},
    "dataset": {"trainer", "MachinesDataset"},
    "approve": {"trainer", "approver"},
    "promote": {"FunctionsOnApproval"},
    "finetune": {"trainer"},
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_is_started_by_these_alone(cloud: Cloud, machine: str) -> None:
    arn = f"arn:aws:states:{STEM}:stateMachine:stepforge-dev-{machine}"
    assert cloud.who_may("states:StartExecution", arn, states__StateMachineQualifier=[LIVE]) == MAY_START[machine]
    # Not round the version that is live; a Distributed Map starts its own items, as what runs already.
    past = {"MachinesDataset"} if machine == "dataset" else set()
    for qualified in ({}, {"states__StateMachineQualifier": ["1"]}):
        assert cloud.who_may("states:StartExecution", arn, **qualified) == past


# ── Who deploys ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("action", ["CreateEndpoint", "UpdateEndpoint", "DeleteEndpoint"])
def test_only_the_promotions_handler_touches_an_endpoint(cloud: Cloud, action: str) -> None:
    # The sweep removes what served before.
    sweeps = {"FunctionsOnApproval"} if action == "DeleteEndpoint" else set()
    assert ours(cloud.who_may(f"sagemaker:{action}", ENDPOINT)) == {"FunctionsDeploy", *sweeps}


TUNE = "sf-0123456789abcdef"
TUNED = {
    "sagemaker:CreateEndpoint": f"arn:aws:sagemaker:{STEM}:endpoint/{TUNE}-trial",
    "sagemaker:InvokeEndpoint": f"arn:aws:sagemaker:{STEM}:endpoint/{TUNE}-trial",
    "sagemaker:CreateModel": f"arn:aws:sagemaker:{STEM}:model/{TUNE}",
    "sagemaker:StopTrainingJob": f"arn:aws:sagemaker:{STEM}:training-job/{TUNE}",
    "bedrock:CreateModelCustomizationJob": f"arn:aws:bedrock:{REGION}::foundation-model/amazon.nova-micro-v1:0",
    "bedrock:InvokeModel": f"arn:aws:bedrock:{STEM}:custom-model-deployment/d",
}


@pytest.mark.parametrize("action", TUNED)
def test_tuning_is_for_the_tunes_handlers_and_where_a_role_is_named(cloud: Cloud, synth: Synth, action: str) -> None:
    staging = Cloud(synth.templates["staging"])
    handlers = {"FunctionsFinetune", "FunctionsFinetuneStopped"}
    own, others = (tagged(name) for name in ("staging", "dev"))
    assert ours(staging.who_may(action, TUNED[action], **own)) - set(PEOPLE) == handlers
    assert ours(cloud.who_may(action, TUNED[action], **own)) & handlers == set()
    if action.startswith("sagemaker:"):
        for context in (others, {}):
            assert ours(staging.who_may(action, TUNED[action], **context)) & handlers == set()


def tagged(environment: str) -> dict[str, str]:
    """What has this environment's tag, or is to get it."""
    return {f"aws__{of}Tag/{ENVIRONMENT_TAG}": environment for of in ("Resource", "Request")}


def test_the_endpoint_of_a_tune_is_deleted_by_its_own_environment_alone_which_its_tag_names(synth: Synth) -> None:
    staging, dev = (Cloud(synth.templates[name]) for name in ("staging", "dev"))
    endpoint = f"arn:aws:sagemaker:{STEM}:endpoint/{TUNE}"
    sweep, tunes = "FunctionsOnApproval", {"FunctionsFinetune", "FunctionsFinetuneStopped"}
    delete = "sagemaker:DeleteEndpoint"
    assert ours(staging.who_may(delete, endpoint, **tagged("staging"))) == {sweep, *tunes}
    assert ours(dev.who_may(delete, endpoint, **tagged("dev"))) == {sweep}
    for context in (tagged("dev"), {}):
        assert ours(staging.who_may(delete, endpoint, **context)) == set()
    # Who could tag another's anew could delete it then. What is being made has no tags.
    anew = f"aws__RequestTag/{ENVIRONMENT_TAG}"
    for has, gets, who in (
        ("dev", "staging", set()), ("staging", "dev", set()), (None, "dev", set()),
        (None, "staging", tunes), ("staging", "staging", tunes),
    ):  # fmt: skip
        context = {anew: gets} | ({f"aws__ResourceTag/{ENVIRONMENT_TAG}": has} if has else {})
        assert ours(staging.who_may("sagemaker:AddTags", endpoint, **context)) == who, (has, gets)


def test_the_tuning_role_is_passed_to_who_tunes_with_it_alone(synth: Synth) -> None:
    staging = Cloud(synth.templates["staging"])
    for service, handlers in (
        ("bedrock", {"FunctionsFinetune", "FunctionsFinetuneStopped"}),
        ("sagemaker", {"FunctionsFinetune", "FunctionsFinetuneStopped"}),
        ("lambda", set()),
    ):
        passed = {"iam__PassedToService": f"{service}.amazonaws.com"}
        assert ours(staging.who_may("iam:PassRole", TUNING_ROLE, **passed)) == handlers
    endpoint = ENDPOINT.replace("-dev-", "-staging-")
    assert "FunctionsFinetune" not in staging.who_may("sagemaker:DeleteEndpoint", endpoint)


def test_an_endpoint_is_asked_by_the_smoke_test_and_by_people(cloud: Cloud) -> None:
    assert cloud.who_may("sagemaker:InvokeEndpoint", ENDPOINT) == {"FunctionsSmoke", *PEOPLE}
    assert ours(cloud.who_may("sagemaker:InvokeEndpoint", ENDPOINT.replace("stepforge-", "other-"))) == set()


def test_a_role_is_passed_to_sagemaker_alone_and_by_those_who_start_what_it_runs(cloud: Cloud) -> None:
    sagemaker = {"iam__PassedToService": "sagemaker.amazonaws.com"}
    jobs, serving = [cloud.principals[role].arn for role in JOBS], cloud.principals["RolesServing"].arn
    for role in jobs:
        assert ours(cloud.who_may("iam:PassRole", role, **sagemaker)) == {"MachinesRunJob", "trainer"}
    assert ours(cloud.who_may("iam:PassRole", serving, **sagemaker)) == {"FunctionsDeploy"}
    for role in (*jobs, serving):
        assert ours(cloud.who_may("iam:PassRole", role, iam__PassedToService="lambda.amazonaws.com")) == set()
    own = {who: principal.arn for who, principal in cloud.principals.items() if who.startswith("Functions")}
    for arn in own.values():
        assert ours(cloud.who_may("iam:PassRole", arn, iam__PassedToService="lambda.amazonaws.com")) == set()


# ── Jobs without keys ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("who", ["trainer", "MachinesRunJob"])
def test_a_job_without_keys_is_denied(cloud: Cloud, who: str) -> None:
    types = WITHIN
    assert cloud.decide(who, "sagemaker:CreateTrainingJob", JOB, **GUARDED, **types) == "allow"
    for missing in GUARDED:
        given = {key: value for key, value in GUARDED.items() if key != missing}
        assert cloud.decide(who, "sagemaker:CreateTrainingJob", JOB, **given, **types) == "deny", missing
    # Instances with disks of their own encrypt them in hardware, and take no key; in a mixed list one has to be given.
    own = {k: v for k, v in GUARDED.items() if "Volume" not in k} | WITHIN
    for types, decision in (
        (["ml.g5.xlarge"], "allow"),
        (["ml.g5.xlarge", "ml.m5.large"], "deny"),
        (["ml.m5.large", "ml.g5.xlarge"], "deny"),
    ):
        own["sagemaker__InstanceTypes"] = types
        assert cloud.decide(who, "sagemaker:CreateTrainingJob", JOB, **own) == decision, types


@pytest.mark.parametrize(
    ("beyond", "within"),
    [
        (
            {"sagemaker__InstanceTypes": ["ml.m5.large", "ml.p5.48xlarge"]},
            {"sagemaker__InstanceTypes": ["ml.m5.large"]},
        ),
        ({"sagemaker__MaxRuntimeInSeconds": "86401"}, {"sagemaker__MaxRuntimeInSeconds": "86400"}),
        (
            {"sagemaker__InterContainerTrafficEncryption": "false"},
            {"sagemaker__InterContainerTrafficEncryption": "true"},
        ),
    ],
    ids=["instance", "hours", "traffic"],
)
@pytest.mark.parametrize("who", ["trainer", "MachinesRunJob"])
def test_a_job_beyond_the_limits_is_denied(cloud: Cloud, who: str, beyond: Json, within: Json) -> None:
    given = GUARDED | WITHIN
    assert cloud.decide(who, "sagemaker:CreateTrainingJob", JOB, **given | within) == "allow"
    assert cloud.decide(who, "sagemaker:CreateTrainingJob", JOB, **given | beyond) == "deny"


@pytest.mark.parametrize("who", ["trainer", "MachinesRunJob"])
@pytest.mark.parametrize("silent", list(WITHIN))
def test_a_job_that_does_not_say_what_is_limited_is_denied(cloud: Cloud, who: str, silent: str) -> None:
    given = {key: value for key, value in (GUARDED | WITHIN).items() if key != silent}
    assert cloud.decide(who, "sagemaker:CreateTrainingJob", JOB, **given) == "deny"


def test_a_budget_at_its_limit_holds_who_spends_and_lets_what_is_live_go_back(synth: Synth) -> None:
    staging = Cloud(synth.templates["staging"])
    (budget,) = (who for who in staging.principals if who.startswith("Budgets"))
    (denies,) = (
        staging.plain(r["Properties"]["PolicyDocument"])
        for r in staging.resources.values()
        if r["Properties"].get("ManagedPolicyName") == "stepforge-staging-no-spending"
    )
    policy = f"arn:aws:iam::{ACCOUNT}:policy/stepforge-staging-no-spending"
    held = {
        who
        for who, principal in staging.principals.items()
        if staging.decide(budget, "iam:AttachRolePolicy", principal.arn, iam__PolicyARN=policy) == "allow"
    }
    ours_ = {"MachinesRunJob", "FunctionsDeploy", "FunctionsFinetune"}
    assert ours_ < held
    assert [staging.principals[who].arn for who in held - ours_] == [
        f"arn:aws:iam::{ACCOUNT}:role/stepforge-staging-studio-research"
    ]
    (action,) = (r["Properties"] for r in staging.resources.values() if r["Type"] == "AWS::Budgets::BudgetsAction")
    named = staging.plain(action["Definition"]["IamActionDefinition"]["Roles"])
    assert {f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in named} == {staging.principals[w].arn for w in held}
    request = Request("sagemaker:CreateTrainingJob", JOB, {})
    for who in held:
        assert decide(request, identity=[*staging.principals[who].policies, denies]) == "deny", who
    for kind in ("model", "endpoint-config", "endpoint"):
        own = f"arn:aws:sagemaker:{STEM}:{kind}/stepforge-staging---facial"
        # Otherwise the budget would not count what it is to hold.
        assert "FunctionsDeploy" in staging.who_may("sagemaker:AddTags", own)
        assert "FunctionsDeploy" not in staging.who_may("sagemaker:AddTags", own.replace("staging", "dev"))
    for action, who, decision in (
        ("sagemaker:CreateEndpoint", "FunctionsDeploy", "deny"),
        ("sagemaker:UpdateEndpoint", "FunctionsDeploy", "allow"),
        ("bedrock:CreateModelCustomizationJob", "FunctionsFinetune", "deny"),
    ):
        arn = ENDPOINT.replace("-dev-", "-staging-") if "Endpoint" in action else TUNED[action]
        asked = Request(action, arn, {})
        assert decide(asked, identity=staging.principals[who].policies) == "allow", action
        assert decide(asked, identity=[*staging.principals[who].policies, denies]) == decision, action


def test_no_job_or_endpoint_pulls_the_images_of_another_environment(cloud: Cloud) -> None:
    for name, pull in (
        ("dev", {"RolesDataset", "RolesEvaluate", "RolesGate", "RolesServing", "RolesTraining"}),
        ("prod", set()),
    ):
        repository = f"arn:aws:ecr:{STEM}:repository/stepforge-{name}-serve"
        assert {who for who in cloud.who_may("ecr:BatchGetImage", repository) if who.startswith("Roles")} == pull


def test_who_trains_creates_jobs_under_our_names_alone(cloud: Cloud) -> None:
    given = GUARDED | WITHIN
    assert cloud.who_may("sagemaker:CreateTrainingJob", JOB, **given) == {"trainer", "MachinesRunJob"}
    other = JOB.replace("sft-", "other-")
    assert ours(cloud.who_may("sagemaker:CreateTrainingJob", other, **given)) == set()


def test_a_trainer_stops_the_jobs_of_an_environment_and_cannot_make_anothers_its_own(cloud: Cloud) -> None:
    own, other = ({f"aws__ResourceTag/{ENVIRONMENT_TAG}": name} for name in ("dev", "prod"))
    assert cloud.decide("trainer", "sagemaker:StopTrainingJob", JOB, **own) == "allow"
    for given in (other, {}):
        assert cloud.decide("trainer", "sagemaker:StopTrainingJob", JOB, **given) == "implicit deny"
    for given, decision in ((own, "allow"), ({}, "allow"), (other, "deny")):
        assert cloud.decide("trainer", "sagemaker:AddTags", JOB, **given) == decision, given
    assert job_tags(domain="facial", environment="dev")[ENVIRONMENT_TAG] == "dev"


def test_a_job_without_a_vpc_is_denied_where_the_environment_asks_for_one() -> None:
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    from cdk.policies import deny_unguarded_jobs

    allow = {"Effect": "Allow", "Action": "sagemaker:*", "Resource": "*"}
    policy = {"Statement": [allow, *(s.to_json() for s in deny_unguarded_jobs(vpc=True))]}
    whole = {
        "sagemaker:outputkmskey": "k", "sagemaker:volumekmskey": "k",
        "sagemaker:vpcsubnets": ["subnet-1"], "sagemaker:vpcsecuritygroupids": ["sg-1"],
    }  # fmt: skip
    assert decide(Request("sagemaker:CreateTrainingJob", JOB, dict(whole)), identity=[policy]) == "allow"
    # Without a type, too: what names none has none that encrypts its own disks.
    for key in whole:
        given = {name: value for name, value in whole.items() if name != key}
        assert decide(Request("sagemaker:CreateTrainingJob", JOB, given), identity=[policy]) == "deny", key


def test_a_volume_key_may_be_missing_for_those_types_alone_for_which_a_job_sends_none() -> None:
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    from cdk.policies import deny_unguarded_jobs

    allow = {"Effect": "Allow", "Action": "sagemaker:*", "Resource": "*"}
    policy = {"Statement": [allow, *(s.to_json() for s in deny_unguarded_jobs(vpc=False))]}
    types = get_session().get_service_model("sagemaker").shape_for("TrainingInstanceType").enum
    keyless = {kind for kind in types if volume_key(kind, "key") is None}
    assert {"ml.g5.xlarge", "ml.r5d.large", "ml.p6-b200.48xlarge"} < keyless
    for kind in types:
        given = {"sagemaker:outputkmskey": "k", "sagemaker:instancetypes": [kind]}
        decision = decide(Request("sagemaker:CreateTrainingJob", JOB, given), identity=[policy])
        assert decision == ("allow" if kind in keyless else "deny"), kind


KNOWN_KEYS = {
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
    "sagemaker:OutputKmsKey", "sagemaker:VolumeKmsKey", "sagemaker:InstanceTypes", "sagemaker:VpcSubnets",
    "sagemaker:VpcSecurityGroupIds", "sagemaker:ModelApprovalStatus", "sagemaker:ModelLifeCycle:stage",
    "sagemaker:ModelLifeCycle:stageStatus", "sagemaker:NetworkIsolation", "sagemaker:MaxRuntimeInSeconds",
    "sagemaker:InterContainerTrafficEncryption", "iam:PolicyARN", "sagemaker:OwnerUserProfileArn",
    "sagemaker:SpaceSharingType", "sagemaker:TaggingAction",
    # https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
    "states:StateMachineQualifier",
    # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
    "dynamodb:LeadingKeys",
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
    "aws:SecureTransport", "aws:SourceAccount", "aws:SourceArn", "aws:PrincipalArn", "aws:PrincipalAccount",
    "aws:PrincipalTag/*", "aws:RequestedRegion", "aws:ResourceTag/*", "aws:ViaAWSService", "aws:CalledVia",
    "aws:PrincipalIsAWSService", "aws:SourceVpce", "aws:PrincipalOrgID", "aws:RequestTag/*", "aws:TagKeys",
    "iam:PassedToService", "kms:GrantIsForAWSResource", "kms:ViaService", "kms:CallerAccount",
    "kms:EncryptionContext:aws:logs:arn", "kms:EncryptionContext:SecretARN",
    "s3:prefix", "s3:TlsVersion", "s3:x-amz-copy-source", "s3:x-amz-server-side-encryption", "s3:x-amz-acl",
    "cloudwatch:namespace", "cloudwatch:AlarmActions", "sns:Protocol", "sns:Endpoint", "sts:ExternalId",
    "secretsmanager:RotationLambdaARN", "secretsmanager:ModifyRotationRules",
    "secretsmanager:VersionStage", "secretsmanager:ResourceTag/*", "ec2:ResourceTag/*", "ec2:Subnet", "ec2:Vpc",
    "ec2:AuthorizedService", "lambda:FunctionArn", "ssm:Overwrite", "ecr:ResourceTag/*",
    "token.actions.githubusercontent.com:sub", "token.actions.githubusercontent.com:aud",
}  # fmt: skip
"""Condition keys that exist. IAM takes any other without a word."""


def keys_of(value: Json) -> set[str]:
    """Every condition key in a template."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(keys_of, value.values())) if value else set()
    if "Effect" in value and isinstance(value.get("Condition"), dict):
        found |= {key for keys in value["Condition"].values() for key in keys}
    return found


def misspelt(keys: set[str]) -> set[str]:
    general = {re.sub(r"/.*", "/*", key) for key in keys}
    return general - KNOWN_KEYS


@pytest.mark.parametrize("name", NAMES)
def test_every_condition_key_exists(synth: Synth, name: str) -> None:
    found = keys_of(synth.templates[name]["Resources"])
    assert {"sagemaker:OutputKmsKey", "aws:SecureTransport"} <= found
    assert misspelt(found) == set()


def test_a_misspelt_key_is_seen_and_would_void_or_invert_its_deny(cloud: Cloud) -> None:
    assert misspelt({"sagemaker:OutputKMSKeyId", "sagemaker:OutputKmsKey"}) == {"sagemaker:OutputKMSKeyId"}
    policies = json.loads(json.dumps(cloud.principals["trainer"].policies).replace("OutputKmsKey", "OutputKmsKeyId"))
    keys = {key.replace("__", ":").lower(): value for key, value in GUARDED.items()}
    assert decide(Request("sagemaker:CreateTrainingJob", JOB, keys), identity=policies) == "deny"


# ── Keys and secrets ─────────────────────────────────────────────────────────────────────────────


def test_who_decrypts_reads_something_and_only_who_writes_makes_data_keys(cloud: Cloud) -> None:
    key = cloud.arn("KeysData")
    decrypts = ours(cloud.who_may("kms:Decrypt", key, **VIA_S3))
    reads, writes = set().union(*READERS.values()), set().union(*WRITERS.values())
    assert reads <= decrypts
    assert decrypts <= reads | writes
    assert ours(cloud.who_may("kms:GenerateDataKey", key, **VIA_S3)) == writes
    assert ours(cloud.who_may("kms:Decrypt", key)) == set()
    for action in ("kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:PutKeyPolicy"):
        assert ours(cloud.who_may(action, key)) == set()


def test_grants_on_the_key_are_for_aws_alone(cloud: Cloud) -> None:
    key = cloud.arn("KeysData")
    via = {"kms__ViaService": "sagemaker.us-east-1.amazonaws.com"}
    assert ours(cloud.who_may("kms:CreateGrant", key, **via)) == set()
    assert ours(cloud.who_may("kms:CreateGrant", key, kms__GrantIsForAWSResource="true", **via)) == {
        "FunctionsDeploy", "MachinesRunJob", "RolesServing", *JOBS,
    }  # fmt: skip


def secrets_of(cloud: Cloud) -> list[str]:
    return [cloud._arn(n) for n, r in cloud.resources.items() if r["Type"] == "AWS::SecretsManager::Secret"]


WRITES = ("PutSecretValue", "UpdateSecretVersionStage")
CHANGES = ("UpdateSecret", "DeleteSecret", "PutResourcePolicy", "DeleteResourcePolicy", "ReplicateSecretToRegions")


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_a_secret_is_written_by_its_own_rotation_and_changed_by_a_deployment_alone(synth: Synth, name: str) -> None:
    cloud = Cloud(synth.templates[name])
    everything = [{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}]
    deploys = f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-cfn-exec-role-{ACCOUNT}-{REGION}"
    mighty = [Principal(arn, everything) for arn in (f"arn:aws:iam::{ACCOUNT}:role/administrator", deploys)]
    mighty += [Principal(one.arn, everything) for one in cloud.principals.values()]
    secrets = secrets_of(cloud)
    assert len(secrets) >= 3
    for secret in secrets:
        rotation = f"Secrets{''.join(part.title() for part in secret.rsplit('/', 1)[1].split('-'))}"
        for verb in WRITES:
            action = f"secretsmanager:{verb}"
            # Who is granted it, and who could do it whatever they were granted.
            assert cloud.granted(action, secret) == {rotation}
            may = {one.arn for one in mighty if cloud.decide_for(one, action, secret) == "allow"}
            assert may == {cloud.principals[rotation].arn}, (secret, verb)
        for verb in CHANGES:
            action = f"secretsmanager:{verb}"
            assert cloud.granted(action, secret) == set()
            assert {one.arn for one in mighty if cloud.decide_for(one, action, secret) == "allow"} == {deploys}
        others = f"arn:aws:lambda:{STEM}:function:others"
        assert cloud.who_may("secretsmanager:RotateSecret", secret) == {"SecretsKeyholder"}
        assert not cloud.who_may("secretsmanager:RotateSecret", secret, secretsmanager__RotationLambdaARN=others)
        assert not cloud.who_may("secretsmanager:RotateSecret", secret, secretsmanager__ModifyRotationRules="true")


def test_keys_of_providers_are_read_by_their_rotation_and_by_tunes_and_by_no_trainer(synth: Synth) -> None:
    cloud = Cloud(synth.templates["dev"])
    via = {"kms__ViaService": "secretsmanager.us-east-1.amazonaws.com"}
    tunes = {"FunctionsFinetune", "FunctionsFinetuneStopped"}
    key = cloud.arn("KeysSecrets")
    for secret in secrets_of(cloud):
        name = f"{secret}-AbCdEf"
        provider = secret.rsplit("/", 1)[1]
        may = cloud.who_may("secretsmanager:GetSecretValue", secret) | cloud.who_may(
            "secretsmanager:GetSecretValue", name
        )
        rotation = {f"Secrets{''.join(part.title() for part in provider.split('-'))}"}
        assert may == rotation | (tunes if provider in ("openai", "anthropic", "vertex") else set()), provider
        assert {who for who in cloud.principals if cloud.decide(who, "kms:Decrypt", key, **via) == "allow"} >= may
        assert {who for who in may if cloud.decide(who, "kms:Decrypt", key) == "allow"} == set()
    assert cloud.who_may("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{STEM}:secret:other-AbCdEf") == set()
