"""Step Functions `finetune`: every step of a paid tune, by name. Providers' clients come in the function's layer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Json

from _judging import load_domain, verify
from _runtime import Variables, client, handles, variables
from stepforge.errors import InvalidInput
from stepforge.finetune import flow as steps
from stepforge.finetune.entries import Budgets
from stepforge.finetune.ledger_dynamodb import TableLedger, Waiting
from stepforge.finetune.request import Flow, Output, Start, Tools
from stepforge.finetune.serving import Tried, try_it

SECONDS = 600.0
"""Of one turn of the evaluation: less than the function may run."""


class Environment(Variables):
    bucket: str
    environment: str
    spend_table: str
    finetune_first_seconds: int
    finetune_most_seconds: int
    finetune_limits: Json[Budgets]
    """The environment's own, whatever a request says."""


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal[
        "decide", "ask_person", "launch", "look", "retrieve", "evaluate", "release", "register", "give_up", "try"
    ]
    start: Start | None = None
    flow: Flow | None = None
    task_token: str = ""
    package_arn: str = ""
    """Of a promotion: the package that is to be tried."""


@handles
def handler(request: Request) -> Flow | Output | Tried:
    tools = tools_of(variables(Environment))
    if request.action == "decide":
        assert request.start is not None
        return steps.decide(tools, request.start, load_domain)
    if request.action == "try":
        package = tools.sagemaker.describe_model_package(ModelPackageName=request.package_arn)
        return try_it(tools.s3, package["CustomerMetadataProperties"], secret)
    flow = request.flow
    assert flow is not None
    match request.action:
        case "ask_person":
            waiting = Waiting(token=request.task_token, **flow.start.model_dump())
            assert isinstance(tools.ledger, TableLedger)
            tools.ledger.wait_for_person(flow.key, waiting)
            return flow
        case "launch":
            return steps.launch_once(tools, flow)
        case "look":
            return steps.look(tools, flow)
        case "retrieve":
            return steps.retrieve(tools, flow)
        case "evaluate":
            return steps.evaluate(tools, flow, verify, seconds=SECONDS)
        case "release":
            return steps.release(tools, flow)
        case "register":
            return steps.register(tools, flow)
    return steps.give_up(tools, flow)


def tools_of(env: Environment) -> Tools:
    return Tools(
        ledger=TableLedger(client("dynamodb"), env.spend_table),
        s3=client("s3"),
        sagemaker=client("sagemaker"),
        secrets=secret,
        bucket=env.bucket,
        environment=env.environment,
        first_seconds=env.finetune_first_seconds,
        most_seconds=env.finetune_most_seconds,
        limits=env.finetune_limits,
    )


def secret(name: str) -> str:
    secrets = client("secretsmanager")
    try:
        return str(secrets.get_secret_value(SecretId=name)["SecretString"])
    except secrets.exceptions.ResourceNotFoundException as error:
        raise InvalidInput(f"there is no secret {name!r}: store the key there, or name another in the plan") from error
