"""A plan is what a submission does, refuses what must not be submitted, and never takes 'could not check' for fine."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.contracts.jobs import JobSpec, Resources
from stepforge.contracts.names import SPEC_TAG, job_name
from stepforge.contracts.work import DatasetWork
from stepforge.errors import InvalidInput, OverBudget, UnknownPrice
from stepforge.machines.attempts import find_attempt
from stepforge.plans import Budget, Plan, Planner, budget_of
from stepforge.plans.checks import caller_arn, check_permissions, check_quotas
from stepforge.submitting.submission import spec_request
from tests.fakes import described, of_request, refusal

from .cloud import ENVIRONMENT, PIPELINE, FakeConnection, Pages

DEAR = ("ml.m5.large", "ml.p5.48xlarge")
USER = "arn:aws:iam::123456789012:user/ci"
G5 = {"QuotaName": "ml.g5.xlarge for training job usage", "Value": 2.0, "QuotaCode": "L-1"}
METRIC = {"MetricNamespace": "AWS/Usage", "MetricName": "ResourceCount", "MetricDimensions": {"Resource": "x"}}
DENIED = refusal("Simulate", "not authorized", "AccessDenied")


@pytest.fixture
def connection(shape: Any) -> FakeConnection:
    return FakeConnection(shape)


def plan(connection: Any, **resources: Any) -> Any:
    kinds = dict.fromkeys(ENVIRONMENT.code, Resources(**resources))
    return Planner(connection).pipeline(PIPELINE.model_copy(update={"resources": kinds}), checks=False)


def test_only_the_first_job_has_an_identity_before_anything_ran(connection: FakeConnection) -> None:
    found = plan(connection)
    assert [(job.stage, job.action) for job in found.jobs] == [
        ("dataset", "create"),
        ("gate", "later"),
        ("base", "later"),
        ("sft", "later"),
        ("evaluate", "later"),
    ]
    (request,) = found.requests
    assert request["TrainingJobName"] == found.jobs[0].name
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert (tags["stepforge:run"], tags["stepforge:environment"]) == (found.name, "dev")


def test_planning_changes_nothing(connection: FakeConnection) -> None:
    plan(connection)
    assert connection.clients["s3"].objects == {}
    assert connection.clients["sagemaker"].calls == []


def test_a_running_job_is_adopted_and_costs_nothing_more(connection: FakeConnection) -> None:
    request = plan(connection).requests[0]
    sha = next(tag["Value"] for tag in request["Tags"] if tag["Key"] == SPEC_TAG)
    connection.clients["sagemaker"].add_job(request["TrainingJobName"], sha, "InProgress", **described(request))
    found = plan(connection)
    assert (found.jobs[0].action, found.jobs[0].estimate, found.requests) == ("adopt", None, ())
    assert found.seconds.middle == pytest.approx(sum(j.estimate.seconds.middle for j in found.jobs[1:]))


def test_a_failed_job_gets_the_next_attempt(connection: FakeConnection) -> None:
    request = plan(connection).requests[0]
    sha = next(tag["Value"] for tag in request["Tags"] if tag["Key"] == SPEC_TAG)
    connection.clients["sagemaker"].add_job(request["TrainingJobName"], sha, "Failed")
    job = plan(connection).jobs[0]
    assert (job.action, job.name[-3:], job.status) == ("create", "-a1", "Failed")


TYPES = {"instance_type": "ml.m5.large", "fallback_instance_types": ("ml.p5.48xlarge", "ml.m5.xlarge")}
JOB = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="c" * 64)


def after(connection: FakeConnection, *types: str, status: str = "Failed", **more: Any) -> Plan:
    """The plan of a job of which these attempts found no capacity."""
    for number, kind in enumerate(types):
        shown = {"ResourceConfig": {"InstanceType": kind}, "FailureReason": "CapacityError: none"} | more
        shown |= of_request(spec_request(ENVIRONMENT, JOB))
        connection.clients["sagemaker"].add_job(job_name(JOB.prefix, number), JOB.identity, status, **shown)
    return Planner(connection).job(JOB, Resources(**TYPES), checks=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "types"),
    [
        ([], ["ml.m5.large", "ml.p5.48xlarge", "ml.m5.xlarge"]),
        (["ml.m5.large"], ["ml.p5.48xlarge", "ml.m5.xlarge"]),
        (["ml.m5.large", "ml.p5.48xlarge"], ["ml.m5.xlarge"]),
        (["ml.m5.large", "ml.p5.48xlarge", "ml.m5.xlarge"], ["ml.m5.large", "ml.p5.48xlarge", "ml.m5.xlarge"]),
    ],
    ids=["none", "first", "second", "last"],
)
def test_what_is_planned_is_what_is_sent_next_and_what_may_follow(
    connection: FakeConnection, refused: list[str], types: list[str]
) -> None:
    found = after(connection, *refused)
    assert list(found.jobs[0].instance_types) == types
    sagemaker, s3 = connection.clients["sagemaker"], connection.clients["s3"]
    request = spec_request(ENVIRONMENT, JOB, Resources(**TYPES))  # type: ignore[arg-type]
    where = {"bucket": ENVIRONMENT.bucket, "key_arn": ENVIRONMENT.key_arn}
    sent = find_attempt(sagemaker, s3, request, **where, poll_seconds=0).attempt
    assert [r["TrainingJobName"] for r in found.requests] == [sent.name]
    assert found.requests[0]["ResourceConfig"] == sent.resource_config
    assert found.requests[0]["Tags"] == sent.tags


def test_the_dearest_fall_back_is_the_upper_end_and_held_against_the_budget(connection: FakeConnection) -> None:
    kinds = {kind: Planner(connection).job(JOB, Resources(instance_type=kind), checks=False) for kind in DEAR}  # type: ignore[arg-type]
    cheap, dear = (kinds[kind].usd for kind in DEAR)
    found = after(connection).usd
    assert cheap is not None
    assert dear is not None
    assert found is not None
    assert (found.low, found.middle) == (cheap.low, cheap.middle)
    assert found.high == dear.high > 100 * cheap.high
    with pytest.raises(OverBudget):
        after(connection).refuse(Budget(2 * cheap.high, "--max-usd"))
    after(connection, "ml.m5.large", "ml.p5.48xlarge").refuse(Budget(3 * cheap.high, "--max-usd"))


def test_a_fall_back_without_a_price_is_an_unknown_price_also_of_a_later_job(connection: FakeConnection) -> None:
    kinds = {"sft": Resources(fallback_instance_types=("ml.m4.xlarge",))}
    found = Planner(connection).pipeline(PIPELINE.model_copy(update={"resources": kinds}), checks=False)  # type: ignore[arg-type]
    assert (found.usd, found.unpriced) == (None, ("ml.m4.xlarge",))
    with pytest.raises(UnknownPrice, match=r"ml\.m4\.xlarge in us-east-1"):
        found.refuse(None)


def test_the_quotas_and_the_mistakes_of_fall_backs_are_told(shape: Any) -> None:
    connection = FakeConnection(shape, service_quotas=Pages([{"Quotas": []}]), iam=simulated(), sts=identity(USER))
    kinds = {"sft": Resources(fallback_instance_types=("ml.g6.xlarge", "ml.g5.xlage"))}
    found = Planner(connection).pipeline(PIPELINE.model_copy(update={"resources": kinds}))  # type: ignore[arg-type]
    quotas = {c.what for c in found.checks if "usage" in c.what}
    assert {f"{kind} for training job usage" for kind in ("ml.g5.xlarge", "ml.g6.xlarge")} <= quotas
    assert [p.field for p in found.problems] == ["ResourceConfig.InstanceType"]


def test_a_job_that_stops_is_not_adopted_but_made_again(connection: FakeConnection) -> None:
    (job,) = after(connection, "ml.m5.large", status="Stopping").jobs
    assert (job.action, job.name[-3:], job.status) == ("create", "-a1", "Stopping")
    assert job.instance_types[0] == "ml.m5.large"


class Running:
    """Step Functions in which a run of the pipeline is under way."""

    def __init__(self, status: str) -> None:
        self.status = status

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        name = executionArn.rpartition(":")[2]
        if not name.endswith("-r0"):
            raise self.exceptions.ExecutionDoesNotExist
        return {"name": name, "status": self.status, "startDate": datetime.now(UTC)}

    def list_executions(self, **_: Any) -> dict[str, Any]:
        return {"executions": []}


@pytest.mark.parametrize(("status", "creates"), [("RUNNING", False), ("SUCCEEDED", False), ("FAILED", True)])
def test_adopting_a_run_creates_nothing_and_no_budget_refuses_it(shape: Any, status: str, creates: bool) -> None:
    connection = FakeConnection(shape, stepfunctions=Running(status))
    found = plan(connection, instance_type="ml.m4.xlarge")
    assert found.creates is creates
    if creates:
        with pytest.raises(UnknownPrice):
            found.refuse(Budget(0.0, "--max-usd"))
        return
    found.refuse(Budget(0.0, "--max-usd"))
    assert {job.action for job in found.jobs} == {"adopt"}
    assert (found.requests, found.checks, found.unpriced) == ((), (), ())


def test_over_the_budget_is_refused_by_the_upper_end(connection: FakeConnection) -> None:
    found = plan(connection)
    assert found.usd is not None
    found.refuse(Budget(found.usd.high + 0.01, "--max-usd"))
    with pytest.raises(OverBudget, match=r"over --max-usd of .*nothing was submitted.*max_runtime_seconds") as refused:
        found.refuse(Budget(found.usd.high - 0.01, "--max-usd"))
    assert refused.value.exit_code == 11


def test_a_limit_of_the_jobs_bounds_what_they_may_cost(connection: FakeConnection) -> None:
    found = plan(connection, max_runtime_seconds=60)
    assert found.usd is not None
    assert found.usd.high == pytest.approx(5 * 60 / 3600 * 1.408)


def test_an_unknown_price_is_refused_with_advice_and_is_no_zero(connection: FakeConnection) -> None:
    found = plan(connection, instance_type="ml.m4.xlarge")
    assert (found.usd, found.unpriced) == (None, ("ml.m4.xlarge",))
    with pytest.raises(UnknownPrice, match=r"ml\.m4\.xlarge in us-east-1.*prices refresh.*prices set"):
        found.refuse(None)


def test_a_value_that_would_be_refused_is_told_for_later_jobs_too(connection: FakeConnection) -> None:
    kinds = {"sft": Resources(instance_type="ml.g5.xlage")}
    found = Planner(connection).pipeline(PIPELINE.model_copy(update={"resources": kinds}), checks=False)
    assert [p.field for p in found.problems] == ["ResourceConfig.InstanceType"]
    with pytest.raises(InvalidInput, match=r"ResourceConfig\.InstanceType.*Nothing was submitted"):
        found.refuse(None)


def test_the_lowest_budget_counts() -> None:
    assert budget_of((None, "a"), (3.0, "b"), (2.0, "c")) == Budget(2.0, "c")
    assert budget_of((None, "a")) is None


@pytest.mark.parametrize(
    ("quotas", "points", "result", "said"),
    [
        ([G5 | {"UsageMetric": METRIC}], [1.0], "ok", "1 needed, 1 used of 2"),
        ([G5 | {"UsageMetric": METRIC}], [2.0], "lacking", "1 needed, 2 used of 2; ask for more: aws service-quotas"),
        ([G5 | {"Value": 0.0}], [], "lacking", "1 needed, unknown used of 0"),
        ([G5], [], "could not check", "1 needed, unknown used of 2: how many are in use is not told"),
        ([], [], "could not check", "lists no such quota"),
        (DENIED, [], "could not check", "not authorized"),
    ],
    ids=["free", "used up", "none", "usage unknown", "not listed", "denied"],
)
def test_a_quota_is_ok_only_where_its_limit_and_its_use_are_known(
    shape: Any,
    quotas: Any,
    points: list[float],
    result: str,
    said: str,
) -> None:
    data = [{"Timestamp": datetime.now(UTC), "Maximum": value} for value in points]
    connection = FakeConnection(
        shape,
        service_quotas=Pages(quotas if isinstance(quotas, Exception) else [{"Quotas": []}, {"Quotas": quotas}]),
        cloudwatch=SimpleNamespace(get_metric_statistics=lambda **_: {"Datapoints": data}),
    )
    (check,) = check_quotas(connection, [Resources()])  # type: ignore[arg-type]
    assert (check.what, check.result) == (G5["QuotaName"], result)
    assert said in check.detail


def test_spot_has_a_quota_of_its_own(shape: Any) -> None:
    connection = FakeConnection(shape, service_quotas=Pages([{"Quotas": []}]))
    found = check_quotas(connection, [Resources(spot=True), Resources(), Resources(instance_count=3)])  # type: ignore[arg-type]
    assert [(c.what, c.detail[0]) for c in found] == [
        ("ml.g5.xlarge for spot training job usage", "1"),
        ("ml.g5.xlarge for training job usage", "3"),
    ]


def simulated(*denied: str) -> Any:
    def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "EvaluationResults": [
                    {"EvalActionName": a, "EvalDecision": "implicitDeny" if a in denied else "allowed"}
                    for a in request["ActionNames"]
                ]
            }
        ]

    return Pages(answer)


def identity(arn: str) -> Any:
    return SimpleNamespace(get_caller_identity=lambda: {"Arn": arn})


def test_what_a_role_lacks_is_named_with_its_resource(shape: Any) -> None:
    iam = simulated("states:StartExecution", "logs:PutLogEvents")
    connection = FakeConnection(shape, iam=iam, sts=identity("arn:aws:iam::123456789012:user/ci"))
    found = check_permissions(connection, ["sft"], machine=True)  # type: ignore[arg-type]
    assert [(c.what, c.result) for c in found] == [
        ("the caller: states:StartExecution", "lacking"),
        ("the role of sft jobs: logs:PutLogEvents", "lacking"),
    ]
    assert ENVIRONMENT.machines["train"] in found[0].detail


def test_passing_the_role_is_asked_with_the_service_that_it_is_passed_to(shape: Any) -> None:
    iam = simulated()
    connection = FakeConnection(shape, iam=iam, sts=identity("arn:aws:iam::123456789012:user/ci"))
    found = check_permissions(connection, ["sft"], machine=False)  # type: ignore[arg-type]
    assert [c.result for c in found] == ["ok", "ok"]
    (passed,) = (asked for asked in iam.asked if asked["ActionNames"] == ["iam:PassRole"])
    assert passed["ContextEntries"][0]["ContextKeyValues"] == ["sagemaker.amazonaws.com"]


@pytest.mark.parametrize("arn", ["arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/ci"])
def test_who_may_not_simulate_is_told_that_nothing_was_checked(shape: Any, arn: str) -> None:
    connection = FakeConnection(shape, iam=Pages(DENIED), sts=identity(arn))
    found = check_permissions(connection, ["sft"], machine=True)  # type: ignore[arg-type]
    assert {c.result for c in found} == {"could not check"}


def test_a_session_is_simulated_as_its_role_with_its_path(shape: Any) -> None:
    role = "arn:aws:iam::1:role/aws-reserved/sso/Admin"
    iam = SimpleNamespace(get_role=lambda RoleName: {"Role": {"Arn": role}} if RoleName == "Admin" else {})
    connection = FakeConnection(shape, iam=iam, sts=identity("arn:aws:sts::1:assumed-role/Admin/me@example.com"))
    assert caller_arn(connection) == role  # type: ignore[arg-type]
