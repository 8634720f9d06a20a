"""The pages that people hold in their hands when something is wrong: what they say can be done, by who they say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command

from stepforge.cli._app import app

from .conftest import Synth
from .pages import DOCS, WHO, Command, asked_of_aws, asked_of_stepforge, commands, operation, unknown_options
from .principals import Cloud

PAGES = {"runbooks.md": "", "deploy.md": "administrator"}
"""Page to who does that before which nobody is named."""
FOUND = [(page, command) for page, rest in PAGES.items() for command in commands(page, rest=rest)]
AWS = [(page, command) for page, command in FOUND if command.words[0] == "aws" and len(command.words) > 2]
OURS = [(page, command) for page, command in FOUND if command.words[0] == "stepforge"]


@pytest.fixture(scope="module")
def cloud(synth: Synth) -> Cloud:
    return Cloud(synth.templates["prod"])


def names(found: list[tuple[str, Command]]) -> list[str]:
    return [f"{page}: {' '.join(command.words[:4])} by {command.who}" for page, command in found]


@pytest.mark.parametrize(("page", "command"), AWS, ids=names(AWS))
def test_a_command_of_aws_exists_and_takes_its_options(page: str, command: Command) -> None:
    assert operation(*command.words[1:3])
    # Of Cloud Control, `--type-name ...` stands for itself; all else is an option of the operation.
    assert unknown_options(command) == set()


@pytest.mark.parametrize(("page", "command"), OURS, ids=names(OURS))
def test_a_command_of_stepforge_exists_and_takes_its_options(page: str, command: Command) -> None:
    found: Any = get_command(app)
    for word in command.words[1:]:
        if word.startswith("-") or not hasattr(found, "commands"):
            break
        found = found.commands[word]
    known = {name for parameter in found.params for name in parameter.opts}
    assert {word for word in command.words if word.startswith("-") and word != "--"} <= known


def test_every_command_of_the_runbooks_says_who_does_it() -> None:
    found = commands("runbooks.md")
    assert len(found) > 35
    assert [command for command in found if not command.who] == []
    assert {command.who for command in found} == set(WHO) - {"administrator"}


def test_who_does_a_step_may_do_it(cloud: Cloud) -> None:
    """Each command of the runbooks is decided by IAM's rules for the person who is named before it."""
    bucket, access_logs = (cloud.arn(name).rpartition(":")[2] for name in ("DataBucket", "DataAccessLogs"))
    decided = 0
    for command in commands("runbooks.md"):
        who = {"keyholder": "SecretsKeyholder"}.get(command.who, command.who)
        asked = (
            asked_of_aws(command, bucket, access_logs)
            if command.words[0] == "aws"
            else asked_of_stepforge(command, "prod", bucket)
        )
        for action, resource, context in asked:
            resource = exact(cloud, resource)
            decided += 1
            assert cloud.decide(who, action, resource, **context) == "allow", (command, action, resource)
    assert decided > 60


def exact(cloud: Cloud, resource: str) -> str:
    """A secret by its name has the ARN that policies name."""
    if ":secret:" not in resource:
        return resource
    provider = resource.rpartition("/")[2]
    (found,) = (
        cloud._arn(n)
        for n, r in cloud.resources.items()
        if r["Type"] == "AWS::SecretsManager::Secret" and r["Properties"]["Name"].endswith(f"/{provider}")
    )
    return found


def test_what_a_step_needs_of_an_operator_no_viewer_may(cloud: Cloud) -> None:
    """Else the page would send for a person whom it does not need."""
    bucket, access_logs = (cloud.arn(name).rpartition(":")[2] for name in ("DataBucket", "DataAccessLogs"))
    mine = [c for c in commands("runbooks.md") if c.who == "operator" and c.words[0] == "aws"]
    needed = {request[0] for c in mine for request in asked_of_aws(c, bucket, access_logs)}
    alone = {
        action
        for c in mine
        for action, resource, context in asked_of_aws(c, bucket, access_logs)
        if cloud.decide("viewer", action, exact(cloud, resource), **context) != "allow"
    }
    assert needed - alone == {"logs:FilterLogEvents", "sagemaker:ListTags"}


def test_the_page_names_roles_queues_and_groups_of_logs_that_the_template_has(synth: Synth) -> None:
    template = synth.templates["prod"]["Resources"].values()
    there = {
        value
        for resource in template
        for key, value in resource.get("Properties", {}).items()
        if key in ("RoleName", "LogGroupName", "QueueName") and isinstance(value, str)
    }
    text = (DOCS / "runbooks.md").read_text(encoding="utf-8")
    said = set(re.findall(r"/(?:stepforge|aws/sagemaker/Endpoints)/[\w/-]+\w", text))
    said |= set(re.findall(r"stepforge-prod-[a-z-]*(?:dead-letters|operator|keyholder|housekeeper)", text))
    assert len(said) >= 9
    assert said - there == set()
