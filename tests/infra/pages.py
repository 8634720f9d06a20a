"""The commands on a page of docs/, who does each, and what IAM would be asked for them.

Who does a command is the last person named before it in its section, as *operator*; a page may have one for the rest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from botocore import xform_name
from botocore.model import OperationModel
from botocore.session import get_session

from .principals import ACCOUNT, REGION

DOCS = Path(__file__).parents[2] / "docs"
WHO = ("viewer", "trainer", "approver", "housekeeper", "operator", "keyholder", "administrator")
_STEM = f"{REGION}:{ACCOUNT}"
_TOKEN = re.compile(
    rf"\*(?P<who>{'|'.join(WHO)})\*|```sh\n(?P<block>.*?)```|`(?P<line>(?:aws|stepforge) [^`]+)`", re.DOTALL
)
_GLOBAL = {"query", "output", "region", "profile"}
_MODEL_OF = {"s3api": "s3"}


@dataclass(frozen=True)
class Command:
    who: str
    """Empty where nobody is named before it."""
    words: tuple[str, ...]

    @property
    def options(self) -> dict[str, str]:
        """Names without dashes; empty for what has no value."""
        found, words = {}, self.words
        for place, word in enumerate(words):
            if word.startswith("-"):
                after = words[place + 1] if place + 1 < len(words) else ""
                found[word.lstrip("-")] = "" if after.startswith("-") else after
        return found


def commands(page: str, *, rest: str = "") -> list[Command]:
    """Those of `aws` and `stepforge` on a page; `rest` does those before which nobody is named in their section."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [found for section in re.split(r"^## ", text, flags=re.MULTILINE) for found in _of_section(section, rest)]


def _of_section(section: str, who: str) -> Iterator[Command]:
    for token in _TOKEN.finditer(section):
        if token["who"]:
            who = token["who"]
        elif token["block"]:
            for line in token["block"].replace("\\\n", " ").splitlines():
                yield from (Command(who, words) for words in _parsed(line))
        else:
            yield from (Command(who, words) for words in _parsed(token["line"]))


def _parsed(line: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of a line, what is substituted into it first."""
    while inner := re.search(r"\$\(([^()]*)\)", line):
        yield from _parsed(inner[1])
        line = line.replace(inner[0], "INNER")
    for part in re.split(r"&&|;|\|", line):
        words = shlex.split(part, comments=True)
        # What is run with the local AWS for its AWS.
        while words[:4] == ["stepforge", "local", "run", "--"]:
            yield tuple(words[:3])
            words = words[4:]
        if words[:1] in (["aws"], ["stepforge"]):
            yield tuple(words)


# ── aws ──────────────────────────────────────────────────────────────────────────────────────────


@cache
def operation(service: str, name: str) -> OperationModel:
    """Raises UnknownServiceError, KeyError with what there is."""
    model = get_session().get_service_model(_MODEL_OF.get(service, service))
    return model.operation_model({xform_name(one, "-"): one for one in model.operation_names}[name])


def unknown_options(command: Command) -> set[str]:
    """Options of a command of `aws` that its operation does not have."""
    shape = operation(command.words[1], command.words[2]).input_shape
    members = {xform_name(name, "-"): shape.members[name].type_name for name in (shape.members if shape else {})}
    switches = {f"no-{name}" for name, kind in members.items() if kind == "boolean"}
    streams = {name for name, kind in members.items() if kind == "blob"}
    return set(command.options) - set(members) - switches - streams - _GLOBAL


Request = tuple[str, str, dict[str, Any]]
"""Action, resource, condition keys."""


def asked_of_aws(command: Command, bucket: str, access_logs: str) -> list[Request]:
    """What IAM is asked when a command of `aws` runs. Raises KeyError for one that is not known here."""
    service, name = command.words[1:3]
    given = {key: value.replace("111122223333", ACCOUNT) for key, value in command.options.items()}

    def here(of: str, resource: str) -> str:
        return f"arn:aws:{of}:{_STEM}:{resource}"

    def queue(name: str) -> str:
        return here("sqs", name)

    def action(resource: str, **context: Any) -> list[Request]:
        return [(f"{_MODEL_OF.get(service, {'stepfunctions': 'states'}.get(service, service))}:"
                 f"{operation(service, name).name}", resource, context)]  # fmt: skip

    what = f"{service} {name}"
    output = f"arn:aws:s3:::{bucket}/jobs/sft-0123456789ab-a0/output/model/model.safetensors"
    if what == "sts assume-role":
        return []  # whom the role trusts decides, and IAM in the account
    if what == "s3api copy-object":
        source = f"{bucket}/jobs/sft-0123456789ab-a0/output/model/model.safetensors?versionId=v"
        return [("s3:GetObjectVersion", output, {}), ("s3:PutObject", output, {"s3__x-amz-copy-source": source})]
    if what == "s3api list-object-versions":
        return [("s3:ListBucketVersions", f"arn:aws:s3:::{bucket}", {"s3__prefix": given["prefix"]})]
    if what == "s3api list-objects-v2":
        return [("s3:ListBucket", f"arn:aws:s3:::{access_logs}", {"s3__prefix": given["prefix"]})]
    if what == "s3api get-object":
        return [("s3:GetObject", f"arn:aws:s3:::{access_logs}/{given['key']}", {})]
    if what == "logs filter-log-events":
        return action(here("logs", f"log-group:{given['log-group-name']}"))
    if what in ("sqs get-queue-url", "sqs receive-message", "sqs purge-queue"):
        return action(queue(given.get("queue-name", "stepforge-prod-approval-dead-letters")))
    if what == "sagemaker delete-endpoint":
        return action(here("sagemaker", f"endpoint/{given['endpoint-name']}"))
    if what == "sagemaker list-tags":
        return action(given["resource-arn"])
    if what == "stepfunctions stop-execution":
        return action(given["execution-arn"])
    if what == "cloudwatch describe-alarm-history":
        return action(here("cloudwatch", f"alarm:{given['alarm-name']}"))
    if what in ("codebuild start-build", "codebuild stop-build"):
        return action(here("codebuild", f"project/{given.get('project-name', 'stepforge-prod-images')}"))
    if service == "secretsmanager":
        return action(here("secretsmanager", f"secret:{given['secret-id']}"))
    if what == "ssm put-parameter":
        return action(here("ssm", f"parameter{given['name']}"))
    raise KeyError(f"what IAM is asked for `aws {what}`")


# ── stepforge ────────────────────────────────────────────────────────────────────────────────────


def asked_of_stepforge(command: Command, environment: str, bucket: str) -> list[Request]:
    """What IAM is asked, in the main, when a command of `stepforge` runs. Raises KeyError for one that is not known."""
    group, objects = f"stepforge-{environment}---facial", f"arn:aws:s3:::{bucket}"

    def here(of: str, resource: str) -> str:
        return f"arn:aws:{of}:{_STEM}:{resource}"

    def states(verb: str, kind: str = "execution", tail: str = ":train-0123456789ab-r0") -> Request:
        return (f"states:{verb}", here("states", f"{kind}:stepforge-{environment}-train{tail}"), {})

    find = ("ssm:GetParametersByPath", here("ssm", f"parameter/stepforge/{environment}"), {})
    package = here("sagemaker", f"model-package/{group}/3")
    job = here("sagemaker", "training-job/sft-0123456789ab-a0")
    printed = ("logs:GetLogEvents", here("logs", "log-group:/aws/sagemaker/TrainingJobs:log-stream:x"), {})
    table: dict[str, list[Request]] = {
        "registry show": [("sagemaker:DescribeModelPackage", package, {})],
        "registry approve": [
            ("sagemaker:UpdateModelPackage", package, {"sagemaker__ModelApprovalStatus": "Approved"})
        ],
        "predict": [("sagemaker:InvokeEndpoint", here("sagemaker", f"endpoint/{group}"), {})],
        "runs": [states("ListExecutions", "stateMachine", "")],
        "watch": [states("DescribeExecution"), states("GetExecutionHistory")],
        "logs": [states("GetExecutionHistory"), ("sagemaker:DescribeTrainingJob", job, {}), printed],
        "stop": [states("StopExecution")],
        "approvals list": [
            ("s3:ListBucket", objects, {"s3__prefix": "approvals/x"}),
            ("s3:GetObject", f"{objects}/approvals/x.json", {}),
        ],
        "gc": [("s3:ListBucket", objects, {"s3__prefix": "jobs/x"}), ("sagemaker:ListEndpoints", "*", {})],
        "gc --apply": [
            ("s3:DeleteObject", f"{objects}/jobs/sft-0123456789ab-a0/x", {}),
            ("sagemaker:DeleteEndpoint", here("sagemaker", f"endpoint/{group}-candidate"), {}),
        ],
        "run train": [states("StartExecution", "stateMachine", ""), ("s3:PutObject", f"{objects}/pipelines/x", {})],
    }  # fmt: skip
    name = command.words[1]
    if name in ("registry", "approvals", "run"):
        name = " ".join(command.words[1:3])
    return [find, *table[name], *(table["gc --apply"] if "apply" in command.options else [])]
