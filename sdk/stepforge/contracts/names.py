"""Where things lie and what they are called. Nothing is named by the clock."""

from __future__ import annotations

import re
from typing import Literal

from stepforge.errors import InvalidInput

Machine = Literal["run-job", "train", "evaluate", "dataset", "approve", "promote", "finetune"]
MACHINES: tuple[Machine, ...] = ("run-job", "train", "evaluate", "dataset", "approve", "promote", "finetune")

LIVE = "live"
"""Alias of every machine. Whatever starts a machine starts this, so that a new definition takes over gradually."""

STARTED_AS = "states:StateMachineQualifier"
"""Condition key of IAM: the alias or version in a request's ARN. The resource that is asked for is the machine itself.
https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html"""

FUNCTION_RUNTIME = "python3.11"
"""Of Lambda functions, and what their layers are built for: what the local AWS, which runs both in the project's own
Python, can load too. AWS ends it in June 2027.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html"""

SPEC_TAG = "stepforge:spec-sha256"
"""Tag on a training job: with it a job is adopted or refused as another's."""

DOMAIN_TAG, ENVIRONMENT_TAG, RUN_TAG = "stepforge:domain", "stepforge:environment", "stepforge:run"
"""Tags by which an account's bill tells jobs and endpoints apart. They are no part of a job's identity."""
MODEL_TAG = "stepforge:model"
"""Where a job's weights began: jobs that agree in it are equally large, and so take equally long."""

INTERRUPT_TAG = "stepforge:local-interrupt"
"""A spot job in the local AWS that gets it loses its instances once. On AWS it is a tag like any other."""

TUNE_PREFIX = "sf-"
"""What a paid launch's key begins with, and with it what is made of it in the account: a job, an endpoint."""

LONGEST_GROUP = 53
"""An endpoint has 63 characters at most, and `-candidate` must fit."""
_CANDIDATE = "-candidate"
_GROUP_PREFIX = "stepforge-"
_OF_ENVIRONMENT = "---"
"""Between environment and domain: a domain's own name makes two hyphens at most."""
_DOMAIN = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")


def parameter(environment: str, key: str) -> str:
    """Name of the SSM parameter that holds `key` of an environment."""
    return f"/stepforge/{environment}/{key}"


def spend_table(environment: str) -> str:
    """The DynamoDB table of an environment's spend ledger."""
    return f"stepforge-{environment}-spend"


def job_name(prefix: str, attempt: int) -> str:
    """`{type}-{12 hex}-a{attempt}`, at most 63 characters as SageMaker wants."""
    return f"{prefix}-a{attempt}"


def execution_name(machine: Machine, identity: str, number: int) -> str:
    """`{machine}-{12 hex}-r{number}`, at most 80 characters as Step Functions wants."""
    return f"{machine}-{identity[:12]}-r{number}"


def group_prefix(environment: str) -> str:
    """What the groups, endpoints and models of an environment begin with: see `has_prefix`."""
    return _GROUP_PREFIX if environment == "local" else f"{_GROUP_PREFIX}{environment}{_OF_ENVIRONMENT}"


def has_prefix(name: str, prefix: str) -> bool:
    """Whether what has this name is the environment's with this `group_prefix`, and no other's in the same account.

    What is of `local` begins as others' names do, which may be deployed beside it.

    >>> [has_prefix(name, group_prefix("local")) for name in ("stepforge-a--b", "stepforge-dev---a--b")]
    [True, False]
    """
    return name.startswith(prefix) and _OF_ENVIRONMENT not in name[len(prefix) :]


def package_group(domain: str, environment: str) -> str:
    """The model package group of a domain, which is its endpoint's name too. No two domains share one.

    >>> package_group("a_b", "local"), package_group("a-b", "local"), package_group("a-b", "dev")
    ('stepforge-a--b', 'stepforge-a-b', 'stepforge-dev---a-b')

    Raises InvalidInput for what is no name of a domain.
    """
    if not _DOMAIN.fullmatch(domain) or domain.endswith(_CANDIDATE):
        raise InvalidInput(
            f"{domain!r} cannot be a domain's name: use letters and digits, with single hyphens or underscores "
            f"between them, and no {_CANDIDATE} at the end"
        )
    # SageMaker takes no underscore, and a name of a domain has no two hyphens in a row.
    group = group_prefix(environment) + domain.replace("_", "--")
    if len(group) > LONGEST_GROUP:
        raise InvalidInput(
            f"domain {domain!r} is too long by {len(group) - LONGEST_GROUP} for the name of an endpoint, "
            "where an underscore counts twice: shorten it"
        )
    return group


def group_domain(group: str) -> str:
    """The domain of a model package group: what the CLI calls its models by.

    >>> group_domain("stepforge-a--b"), group_domain("stepforge-dev---a--b")
    ('a_b', 'a_b')
    """
    return group.removeprefix(_GROUP_PREFIX).rpartition(_OF_ENVIRONMENT)[2].replace("--", "_")


def group_environment(group: str) -> str:
    """The environment of a model package group.

    >>> group_environment("stepforge-a--b"), group_environment("stepforge-dev---a--b")
    ('local', 'dev')
    """
    return group.removeprefix(_GROUP_PREFIX).rpartition(_OF_ENVIRONMENT)[0] or "local"


def endpoint_name(group: str, *, candidate: bool = False) -> str:
    return f"{group}{_CANDIDATE}" if candidate else group


class Keys:
    """Object keys in the environment's bucket."""

    @staticmethod
    def spec(identity: str) -> str:
        """A folder of its own, because a channel is a prefix."""
        return f"specs/{identity}/spec.json"

    @staticmethod
    def pipeline(identity: str) -> str:
        return f"pipelines/{identity}.json"

    @staticmethod
    def request(machine: Machine, identity: str) -> str:
        """The spec that an execution of `evaluate` or `dataset` is started with."""
        return f"pipelines/{machine}-{identity}.json"

    @staticmethod
    def parts(identity: str) -> str:
        """The jobs of a dataset's parts, as the machine `dataset` maps over them."""
        return f"specs/{identity}/parts.json"

    @staticmethod
    def approval(name: str) -> str:
        """A question that waits for a person, with the token that answers it."""
        return f"approvals/{name}.json"

    @staticmethod
    def checkpoints(prefix: str) -> str:
        """Shared by all attempts of a job, so that the next goes on where the last stopped."""
        return f"checkpoints/{prefix}/"

    @staticmethod
    def job_output() -> str:
        """SageMaker appends `/{job name}/output/model`."""
        return "jobs"

    @staticmethod
    def artifact(job: str) -> str:
        return f"jobs/{job}/output/model/"

    @staticmethod
    def ledger(day: str = "", job: str = "") -> str:
        """An object for each attempt that has ended, by the day (ISO) on which it did. Without a job: the prefix."""
        return f"ledger/{day}/{job}.json" if job else f"ledger/{day}"

    @staticmethod
    def finetune(kind: Literal["data", "requests", "heldout", "evaluations"], name: str) -> str:
        """What a paid tune reads and writes, by digest; an evaluation is a folder, by the launch's key."""
        return f"finetune/{kind}/{name}"

    @staticmethod
    def inference(kind: Literal["requests", "answers", "failures"], name: str = "") -> str:
        """What an asynchronous endpoint reads and writes. Without a name: the prefix."""
        return f"inference/{kind}/{name}" if name else f"inference/{kind}"

    @staticmethod
    def prices() -> str:
        return "prices/sagemaker.json"

    @staticmethod
    def upload(kind: str, sha256: str) -> str:
        return f"raw/{kind}/{sha256}/"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// address."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
