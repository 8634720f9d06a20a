"""Quotas and permissions, asked before anything is submitted. What could not be checked is never taken for fine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from botocore.exceptions import BotoCoreError
from botocore.exceptions import ClientError as AwsError

from stepforge.connection import Connection
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import Resources
from stepforge.contracts.names import LIVE, STARTED_AS, Machine, parameter
from stepforge.contracts.work import WORK_TYPES, WorkType
from stepforge.machines.executions import execution_arn, unqualified
from stepforge.partitions import arn

Result = Literal["ok", "lacking", "could not check"]
_ASSUMED = re.compile(r"^arn:(?P<partition>aws[\w-]*):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.+$")


@dataclass(frozen=True)
class Check:
    """One thing that was asked, and what was found."""

    what: str
    result: Result
    detail: str = ""


# ── Quotas ───────────────────────────────────────────────────────────────────────────────────────


def quota_name(resources: Resources) -> str:
    """The name under which Service Quotas counts the instances of a job."""
    kind = "spot training job usage" if resources.spot else "training job usage"
    return f"{resources.instance_type} for {kind}"


def check_quotas(connection: Connection, wanted: Iterable[Resources]) -> list[Check]:
    """Whether each kind of instance may run as often as one job needs it: the jobs of a run follow one another."""
    needed: dict[str, int] = {}
    for resources in wanted:
        name = quota_name(resources)
        needed[name] = max(needed.get(name, 0), resources.instance_count)
    try:
        quotas = _quotas(connection.client("service-quotas"), set(needed))
    except (AwsError, BotoCoreError) as error:
        return [Check(name, "could not check", f"Service Quotas: {_short(error)}") for name in needed]
    return [_against(connection, name, count, quotas.get(name)) for name, count in needed.items()]


def _quotas(client: Any, names: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for page in client.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker"):
        found |= {quota["QuotaName"]: quota for quota in page["Quotas"] if quota["QuotaName"] in names}
        if len(found) == len(names):
            break
    return found


def _against(connection: Connection, name: str, count: int, quota: dict[str, Any] | None) -> Check:
    if quota is None or "Value" not in quota:
        return Check(name, "could not check", f"{count} needed; Service Quotas lists no such quota")
    limit = quota["Value"]
    used = _used(connection, quota)
    free = limit - (used or 0)
    said = f"{count} needed, {'unknown' if used is None else f'{used:g}'} used of {limit:g}"
    if count > free:
        remedy = (
            "ask for more: aws service-quotas request-service-quota-increase --service-code sagemaker "
            f"--quota-code {quota.get('QuotaCode', '?')} --desired-value {count + (used or 0):g}"
        )
        return Check(name, "lacking", f"{said}; {remedy}")
    if used is None:
        return Check(name, "could not check", f"{said}: how many are in use is not told")
    return Check(name, "ok", said)


def _used(connection: Connection, quota: dict[str, Any]) -> float | None:
    """What CloudWatch counted last within an hour; None where the quota has no metric, or it may not be read."""
    metric = quota.get("UsageMetric")
    if not metric or "MetricName" not in metric:
        return None
    now = datetime.now(UTC)
    statistic = metric.get("MetricStatisticRecommendation", "Maximum")
    try:
        points = connection.client("cloudwatch").get_metric_statistics(
            Namespace=metric["MetricNamespace"],
            MetricName=metric["MetricName"],
            Dimensions=[{"Name": k, "Value": v} for k, v in metric.get("MetricDimensions", {}).items()],
            StartTime=now - timedelta(hours=1),
            EndTime=now,
            Period=300,
            Statistics=[statistic],
        )["Datapoints"]
    except (AwsError, BotoCoreError):
        return None
    # Nothing is published while nothing is in use.
    return float(max(points, key=lambda point: point["Timestamp"])[statistic]) if points else 0.0


# ── Permissions ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Needed:
    """Actions that somebody needs on a resource, with the context that the policies look at."""

    actions: tuple[str, ...]
    resource: str
    context: tuple[tuple[str, str], ...] = ()


def needed_by_caller(
    environment: Environment, types: Iterable[WorkType], *, machine: bool, of: Machine = "train"
) -> list[Needed]:
    """What the caller does to submit: by the machine `of`, or a job by itself."""
    account, region = _account(environment)
    bucket = arn("s3", "", "", environment.bucket, of=region)
    key = Needed(("kms:GenerateDataKey", "kms:Decrypt"), environment.key_arn)
    if machine:
        return [
            *(Needed(("s3:PutObject",), f"{bucket}/{name}") for name in ("pipelines/0.json", "raw/records/0/0")),
            key,
            Needed(("states:StartExecution",), unqualified(environment.machines[of]), ((STARTED_AS, LIVE),)),
            *needed_to_look(environment, of=of),
        ]
    return [
        Needed(("s3:PutObject",), f"{bucket}/specs/0/spec.json"),
        *needed_to_look(environment, machine=False),
        key,
        *(
            Needed(
                ("sagemaker:CreateTrainingJob", "sagemaker:AddTags"),
                arn("sagemaker", region, account, f"training-job/{kind}-0"),
            )
            for kind in sorted(set(types))
        ),
        *(
            Needed(("iam:PassRole",), role, (("iam:PassedToService", "sagemaker.amazonaws.com"),))
            for role in roles_of(environment, types)
        ),
    ]


def roles_of(environment: Environment, types: Iterable[WorkType]) -> dict[str, list[WorkType]]:
    """ARN of each role that jobs of these types run as, to the types that run as it."""
    found: dict[str, list[WorkType]] = {}
    for work in sorted(set(types)):
        found.setdefault(environment.role_of(work), []).append(work)
    return found


def needed_to_look(environment: Environment, *, machine: bool = True, of: Machine = "train") -> list[Needed]:
    """What the caller does to plan: find the environment, what is done, what earlier jobs took, and prices.

    Quotas and permissions are asked for as well; where that is not allowed they are said not to be checked.
    """
    account, region = _account(environment)
    bucket = arn("s3", "", "", environment.bucket, of=region)
    objects = ("ledger/0/0.json", "prices/sagemaker.json", "jobs/0/output/model/manifest.json", "raw/records/0/0")
    found = [
        Needed(
            ("ssm:GetParametersByPath",), arn("ssm", region, account, f"parameter{parameter(environment.name, '')}")
        ),
        Needed(("s3:ListBucket",), bucket),
        *(Needed(("s3:GetObject",), f"{bucket}/{key}") for key in (*objects, *(["pipelines/0.json"] * machine))),
        Needed(("kms:Decrypt",), environment.key_arn),
        *(
            Needed(
                ("sagemaker:DescribeTrainingJob", "sagemaker:ListTags"),
                arn("sagemaker", region, account, f"training-job/{kind}-0"),
            )
            for kind in WORK_TYPES
        ),
    ]
    if machine:
        arn_of = environment.machines[of]
        found.append(Needed(("states:ListExecutions",), unqualified(arn_of)))
        found.append(Needed(("states:DescribeExecution",), execution_arn(arn_of, f"{of}-0")))
    return found


def needed_by_job(environment: Environment, work: WorkType) -> list[Needed]:
    """What a job of this type does with the role that it runs as."""
    account, region = _account(environment)
    bucket = arn("s3", "", "", environment.bucket, of=region)
    data = "raw/records/0/0" if work == "dataset" else "jobs/dataset-0/output/model/manifest.json"
    own = (f"jobs/{work}-0/output/model/manifest.json", f"checkpoints/{work}-0/0")
    return [
        *(Needed(("s3:GetObject",), f"{bucket}/{key}") for key in ("specs/0/spec.json", data, own[1])),
        *(Needed(("s3:PutObject",), f"{bucket}/{key}") for key in own),
        Needed(("kms:Decrypt", "kms:GenerateDataKey"), environment.key_arn),
        Needed(
            ("logs:CreateLogStream", "logs:PutLogEvents"),
            arn("logs", region, account, "log-group:/aws/sagemaker/TrainingJobs:log-stream:0"),
        ),
        Needed(("ecr:GetAuthorizationToken",), "*"),
        Needed(("ecr:BatchGetImage",), arn("ecr", region, account, "repository/stepforge-train")),
    ]


def _account(environment: Environment) -> tuple[str, str]:
    """Account and region of an environment, by its key."""
    _, _, _, region, account, *_ = environment.key_arn.split(":")
    return account, region


def check_permissions(
    connection: Connection, types: Iterable[WorkType], *, machine: bool, of: Machine = "train"
) -> list[Check]:
    """What the caller, and the roles that these jobs run as, may not do of what they will.

    By SimulatePrincipalPolicy, which knows identity policies, boundaries and the organisation's; policies of buckets
    and keys it does not ask. https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    environment = connection.environment
    types = list(types)
    caller = needed_by_caller(environment, types, machine=machine, of=of)
    found = list(_checked(connection, "the caller", lambda: caller_arn(connection), caller))
    for role, kinds in roles_of(environment, types).items():
        needed = dict.fromkeys(one for work in kinds for one in needed_by_job(environment, work))
        found += _checked(connection, f"the role of {', '.join(kinds)} jobs", partial(str, role), list(needed))
    return found


def caller_arn(connection: Connection) -> str:
    """The ARN of the caller's user or role, as the simulator takes it. Raises ValueError for the account itself."""
    arn = str(connection.client("sts").get_caller_identity()["Arn"])
    if assumed := _ASSUMED.match(arn):
        # A session's ARN leaves out the role's path: an SSO role has one.
        role: str = connection.client("iam").get_role(RoleName=assumed["role"])["Role"]["Arn"]
        return role
    if arn.endswith(":root"):
        raise ValueError("the credentials are the account's own, and policies are for users and roles")
    return arn


def _checked(connection: Connection, who: str, source: Callable[[], str], needed: list[Needed]) -> Iterator[Check]:
    try:
        arn = source()
        denied = [denial for one in needed for denial in _denied(connection.client("iam"), arn, one)]
    except (AwsError, BotoCoreError, ValueError) as error:
        yield Check(who, "could not check", _short(error))
        return
    count = sum(len(one.actions) for one in needed)
    if not denied:
        yield Check(who, "ok", f"all of {count} permissions that are needed ({arn})")
    for action, resource, decision in denied:
        remedy = f"let a policy of {arn} allow it" if decision == "implicitDeny" else "a policy denies it: look for it"
        yield Check(f"{who}: {action}", "lacking", f"on {resource} ({decision}); {remedy}")


def _denied(iam: Any, arn: str, needed: Needed) -> Iterator[tuple[str, str, str]]:
    pages = iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=arn,
        ActionNames=list(needed.actions),
        ResourceArns=[needed.resource],
        ContextEntries=[
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in needed.context
        ],
    )
    for page in pages:
        for result in page["EvaluationResults"]:
            if result["EvalDecision"] != "allowed":
                yield result["EvalActionName"], needed.resource, result["EvalDecision"]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
