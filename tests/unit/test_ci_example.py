"""The workflow in docs/ci.md: it is YAML, it asks for no stored key, and its commands exist with these options."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepforge.contracts.environment import Environment
from stepforge.contracts.work import WORK_TYPES
from stepforge.plans.checks import Needed, needed_by_caller, needed_to_look
from tests.support.iam import allows

DOCUMENT = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return found


WORKFLOW: dict[str, Any] = yaml.safe_load(block("yaml"))
RUN = "\n".join(step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step)
INLINE = re.findall(r"`(stepforge [^`]+)`", DOCUMENT)
COMMANDS = sorted({*(re.split(r" [|>] ?", line)[0] for line in re.findall(r"stepforge [a-z].*", RUN)), *INLINE})


def options_of(words: list[str]) -> tuple[set[str], list[str]]:
    """The options that a command takes, and the words that are left after its name."""
    from typer.main import get_command

    from stepforge.cli._app import app

    command: Any = get_command(app)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    assert not hasattr(command, "commands"), f"{words} names no command"
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}, words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists_and_takes_its_options(command: str) -> None:
    known, rest = options_of(shlex.split(command)[1:])
    given = {word for word in rest if word.startswith("--")}
    assert given <= known, f"{command}: {sorted(given - known)} are no options"


def test_a_plan_on_pull_requests_and_a_submission_on_main() -> None:
    jobs = WORKFLOW["jobs"]
    assert "pull_request" in jobs["plan"]["if"]
    assert "refs/heads/main" in jobs["submit"]["if"]
    text = {name: json.dumps(job) for name, job in jobs.items()}
    assert "--dry-run" in text["plan"]
    assert "--dry-run" not in text["submit"]
    assert all("--json" in one for one in text.values())


def test_no_key_is_stored_and_the_two_roles_differ() -> None:
    assert WORKFLOW["permissions"]["id-token"] == "write"
    assert "secrets." not in DOCUMENT
    roles = [
        step["with"]["role-to-assume"]
        for job in WORKFLOW["jobs"].values()
        for step in job["steps"]
        if "role-to-assume" in step.get("with", {})
    ]
    assert len(set(roles)) == 2
    (statement,) = json.loads(block("json"))["Statement"]
    bound = statement["Condition"]["StringEquals"]
    assert bound["token.actions.githubusercontent.com:sub"] == "repo:your-org/your-repository:environment:dev"
    assert WORKFLOW["jobs"]["submit"]["environment"] == "dev"


def test_the_exit_codes_that_it_tells_apart_are_those_of_the_table() -> None:
    table = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    told = {int(code) for code in re.findall(r"^\s+(\d+)\) echo", block("yaml"), flags=re.MULTILINE)}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)}
    assert told == {0, 2, 5}
    assert told <= listed


ENVIRONMENT = Environment(
    name="dev",
    bucket="stepforge-dev",
    key_arn="arn:aws:kms:us-east-1:111122223333:key/0",
    training_role_arn="arn:aws:iam::111122223333:role/training",
    serving_role_arn="arn:aws:iam::111122223333:role/serving",
    machines={"train": "arn:aws:states:us-east-1:111122223333:stateMachine:stepforge-dev-train"},
    images={"train": "r@sha256:" + "0" * 64},
    code=dict.fromkeys(WORK_TYPES, "c" * 64),
)


def documented(role: str) -> dict[str, Any]:
    """The policy that the table gives a role."""
    rows = re.findall(r"^\| (both|submit) \| (.*?) \| (.*?) \|$", DOCUMENT, flags=re.MULTILINE)
    statements = []
    for whose, actions, resources in rows:
        if whose in ("both", role):
            named = [one.replace("BUCKET", "stepforge-dev") for one in re.findall(r"`([^`]+)`", resources)]
            arns = [ENVIRONMENT.key_arn if one == "KEY" else one for one in named]
            statements.append({"Effect": "Allow", "Action": re.findall(r"`([^`]+)`", actions), "Resource": arns})
    return {"Version": "2012-10-17", "Statement": statements}


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("look", needed_to_look(ENVIRONMENT)),
        ("submit", needed_by_caller(ENVIRONMENT, WORK_TYPES, machine=True)),
    ],
    ids=["look", "submit"],
)
def test_the_roles_are_allowed_all_that_the_code_needs_of_them(role: str, needed: list[Needed]) -> None:
    policy = documented(role)
    lacking = [
        (action, one.resource) for one in needed for action in one.actions if not allows(policy, action, one.resource)
    ]
    assert lacking == []


def test_the_role_that_looks_changes_nothing() -> None:
    allowed = {action for s in documented("look")["Statement"] for action in s["Action"]}
    assert {action for action in allowed if not re.search(r":(Get|List|Describe)|:Decrypt$", action)} == set()
