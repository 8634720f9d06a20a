"""What differs between environments, and nothing else: a TOML file each in cdk/environments/, and `local`.

Five values make an environment one's own: `account`, `region`, `email`, `approvers` and `repository`.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cdk.gradual import Gradual
from cdk.refusals import form, said
from stepforge.contracts.names import package_group
from stepforge.contracts.resources import has_gpu
from stepforge.contracts.serving import ALARM_SECONDS, ServeMode, Share
from stepforge.errors import InvalidInput, UnknownName

EnvironmentName = Annotated[
    str,
    form(r"(?!account$)[a-z][a-z0-9]{1,11}", "the file a name of 2 to 12 small letters and digits, and not account"),
]
InstanceType = Annotated[str, form(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", 'a SageMaker type, such as "ml.g5.xlarge"')]
ProfileName = Annotated[
    str, form(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,25}", "at most 26 letters, digits and hyphens between them")
]
StudioPerson = Literal["viewer", "trainer", "approver"]
_ROLE = "arn:aws:iam::111122223333:role/"
RoleArn = Annotated[
    str, form(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", f'the ARN of a role, such as "{_ROLE}tuning"')
]
PersonArn = Annotated[
    str,
    form(
        r"arn:aws[a-z-]*:iam::\d{12}:(role|user)/[\w+=,.@/-]+",
        f'the ARN of a role or user, such as "{_ROLE}model-owners", without wildcards',
    ),
]
LayerArn = Annotated[
    str,
    form(
        r"arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:layer:[\w-]+:\d+",
        'the ARN of a layer with its version, such as "arn:aws:lambda:us-east-1:111122223333:layer:clients:1"',
    ),
]
Seconds = Annotated[int, Field(ge=1, le=3_600)]
_REGION = (
    r"(us-gov|us-iso[a-z]?|us|eu|eu-isoe|ap|sa|ca|me|af|il|mx|cn)"
    r"-(north|south|east|west|central|northeast|southeast|northwest|southwest)-\d{1,2}"
)
_PRIVATE = tuple(IPv4Network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
TopicArn = Annotated[
    str,
    form(
        r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+",
        'the ARN of an SNS topic, such as "arn:aws:sns:us-east-1:111122223333:answers"',
    ),
]
Provider = Literal["openai", "anthropic", "hugging-face", "vertex"]
Usd = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FOLDER = Path(__file__).with_name("environments")
T = TypeVar("T", bound=str)
_LARGEST = (64, 5, 699_050)
"""CPUs, accelerators and MB of one copy: a third of what the largest instances have (192, 16, 2 TiB)."""
_SUBNETS = 20
"""Bits of the smallest network that holds four kinds of subnets in three zones."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Network(_Frozen):
    cidr: str = "10.40.0.0/16"
    """Private IPv4 addresses that no network has which this one is ever joined with."""
    zones: tuple[str, ...] = ()
    """Three availability zones; left out, the region's a, b and c."""
    nat_gateways: Annotated[int, Field(ge=0, le=3)] = 1
    """Ways out of the private subnets (Studio, builds); 3 outlive the loss of a zone. Jobs have none in any case."""
    provider_egress: bool = True
    """Whether handlers that speak with Vertex and OpenAI go out of subnets and an address of their own."""
    interface_endpoints: bool = True
    """Whether AWS is reached without leaving the network: about 7 USD a month for each of 16 services and zone."""

    @field_validator("cidr")
    @classmethod
    def _private(cls, value: str) -> str:
        try:
            network = IPv4Network(value, strict=False)
        except ValueError as error:
            raise ValueError(f'give addresses as "10.40.0.0/16" has them: {error}') from error
        if str(network) != value:
            raise ValueError(f'give the first address of the network and its length, "{network}"')
        if (
            not any(network.subnet_of(block) for block in _PRIVATE)
            or network.prefixlen > _SUBNETS
            or network.prefixlen < 16
        ):
            raise ValueError("give private addresses (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16) from /16 to /20")
        return value

    @field_validator("zones")
    @classmethod
    def _three(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and len(set(value)) != 3:
            raise ValueError(f"there are {len(set(value))} different zones: give three, or none for a, b and c")
        return value


class Limits(_Frozen):
    """What a training job may be at most; the guardrails deny everything above."""

    instance_types: tuple[str, ...] = ("ml.m5.*", "ml.c5.*", "ml.g5.*")
    """Patterns of instance types, with `*`."""
    hours: Annotated[int, Field(ge=1, le=28 * 24)] = 24


class Budget(_Frozen):
    monthly_usd: Usd = 500.0
    """Of all that carries the environment's tag. At 100 % new jobs and endpoints are denied, until a person lifts it,
    to the machine `run-job`, to promotions and to the trainers of Studio. Not held: the roles that trainers sign in
    with elsewhere, which are not the stacks' to change; jobs that they create by hand stay within `limits` alone."""
    warn_percent: Annotated[int, Field(ge=1, le=99)] = 80
    """Of spending, actual or forecast: a message."""
    submission_usd: Usd | None = None
    """The most that one submission may cost by its estimate."""


class Tunes(_Frozen):
    """What paid tunes may spend, whatever a plan says: a plan's own budgets hold where they are lower."""

    job_usd: Usd = 100.0
    day_usd: Usd = 200.0
    environment_usd: Usd = 2_000.0
    """Ever."""
    approval_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    """What may cost more waits for a person; so does whatever has no price in the catalogue."""


class Providers(_Frozen):
    names: tuple[Provider, ...] = ("openai", "anthropic", "hugging-face")
    """Whose keys are kept in Secrets Manager. Vertex needs none with workload identity federation."""
    rotation_days: Annotated[int, Field(ge=1, le=1000)] = 90
    openai_project: str | None = None
    """`proj_...`: with it the rotation makes service accounts in this project, by a key that may administer it."""

    @field_validator("names")
    @classmethod
    def _once(cls, value: tuple[Provider, ...]) -> tuple[Provider, ...]:
        return _all_different(value)


class Studio(_Frozen):
    enabled: bool = False
    mlflow: bool = False
    """SageMaker's serverless MLflow: no charge while nobody uses it."""
    profiles: dict[ProfileName, StudioPerson] = {}
    """A user profile each, and who works in it: it has a role of its own, with what they may do anywhere."""

    @field_validator("profiles")
    @classmethod
    def _differ(cls, value: dict[str, StudioPerson]) -> dict[str, StudioPerson]:
        taken = Counter(["viewer", *(name.lower() for name in value)])
        if twice := [name for name in value if taken[name.lower()] > 1]:
            raise ValueError(
                f"profiles {twice} have the name of another's role, or `viewer`, the role of whoever has no profile: "
                "give each another name, not only in capitals"
            )
        return value


class Asynchronous(_Frozen):
    """Of `serve_mode = "async"`."""

    max_concurrent: Annotated[int, Field(ge=1, le=1000)] = 4
    """Requests that an instance works on at once."""
    success_topic: TopicArn | None = None
    """SNS topic that hears of each answer; None: nobody is told, and who asked looks into the bucket."""
    error_topic: TopicArn | None = None
    days: Annotated[int, Field(ge=1)] = 7
    """How long requests, answers and failures are kept."""


class Settings(_Frozen):
    name: EnvironmentName
    region: Annotated[str, form(_REGION, 'a region of AWS, such as "us-east-1"')]
    account: Annotated[str, form(r"[0-9]{12}", 'twelve digits in quotation marks, as in "111122223333"')] | None = None
    """None leaves the account to the credentials that deploy: synth needs none."""
    email: Annotated[str, form(r"[^@\s]+@[^@\s]+\.[^@\s]+", 'one address, such as "ml@example.com"')] | None = None
    """Who hears of alarms and budgets. None: nobody, and the topic waits for subscriptions."""
    approvers: tuple[PersonArn, ...] = ()
    """Who may take on the role that approves models. None: whom IAM in the account allows it."""
    repository: Annotated[str, form(r"[\w.-]+/[\w.-]+", '"owner/name" as GitHub has it')] | None = None
    """`owner/name` on GitHub, whose workflows plan and deploy. None: no roles for CI."""
    bucket: str | None = None
    """None leaves the bucket's name to CloudFormation, so that a kept bucket never stands in a new stack's way."""
    domains: tuple[str, ...] = ("facial",)
    """Domains whose model package group and endpoint alarm exist from the start; others are made on first use."""
    train_instance_type: InstanceType = "ml.g5.xlarge"
    vllm: bool = False
    """Whether the image for GPUs has vLLM, for stages that take their rollouts from it. Some GB more to build, keep and
    load."""
    serve_instance_type: InstanceType = "ml.m5.xlarge"
    serve_mode: ServeMode = "realtime"
    """`realtime`: an answer within a minute. `async`: requests and answers in the bucket, an answer within an hour.
    `components`: as `realtime`, but candidate and champion share the instances of one endpoint."""
    serve_instances: Annotated[int, Field(ge=1)] = 1
    """Instances of an endpoint. From two on a new version takes over behind a canary, or rolling."""
    rollout: Literal["canary", "rolling"] = "canary"
    bake_seconds: Annotated[int, Field(ge=0, le=3_600)] = 300
    """Between the first traffic to a new version and the rest, and again before the old instances go: the time in which
    its alarm may turn it back. It counts whole minutes, and metrics are late: outside of `local` at least 180."""
    job_poll_seconds: Seconds = 300
    """Between two looks at a job that another execution runs. A look is 9 history events of at most 25,000: 300 s
    lasts 9 days, 30 s would end after one."""
    endpoint_poll_seconds: Seconds = 30
    finetune_first_seconds: Seconds = 30
    finetune_most_seconds: Seconds = 900
    """Between looks at a paid tune, from the first to the most. A look is 9 history events: 900 s lasts 28 days."""
    finetune_layer_arns: tuple[LayerArn, ...] = ()
    """Layers with clients of providers (openai, google-genai); Bedrock and SageMaker need none."""
    tuning_role_arn: RoleArn | None = None
    """Role that Bedrock and SageMaker tune with. None: the state machine tunes at neither."""
    sweep_minutes: Annotated[int, Field(ge=1, le=1_440)] = 15
    keep_previous_days: Annotated[int, Field(ge=1)] = 7
    """How long an endpoint that served before runs on for a roll-back, after a model of another kind was promoted: a
    provider's in the place of ours, or ours in the place of one that SageMaker customized."""
    log_retention_days: Literal[7, 30, 90, 365] = 90
    checkpoint_days: Annotated[int, Field(ge=1)] = 30
    """Checkpoints of jobs that nobody went on with."""
    replaced_days: Annotated[int, Field(ge=1)] = 30
    """Versions of objects that were overwritten or deleted."""
    jobs_in_vpc: bool = False
    """Whether training jobs may run in a VPC of the account's: their role then makes network interfaces."""
    jobs_need_vpc: bool = False
    """Whether a training job without a VPC is denied."""
    keep_data: bool = True
    """Whether data, keys, secrets and images outlive their stacks, and these stacks refuse to be deleted."""
    access_logs: bool = True
    network: Network | None = None
    """None: no network of its own."""
    limits: Limits = Limits()
    gradual: Gradual = Gradual()
    """How a new definition of a state machine takes over."""
    asynchronous: Asynchronous = Asynchronous()
    component: Share = Share()
    """Of `serve_mode = "components"`: what one copy takes of `serve_instance_type`, which must hold three of them while
    a version is promoted: the champion, the candidate and the champion's new copy."""
    budget: Budget = Budget()
    tunes: Tunes = Tunes()
    providers: Providers = Providers()
    studio: Studio = Studio()
    eks: Literal[False] = False
    """The place of a cluster: there is none yet."""

    @field_validator("domains")
    @classmethod
    def _named(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for domain in value:
            package_group(domain, info.data.get("name", "local"))
        return _all_different(value)

    @field_validator("bucket")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        # Names with dots have no certificate.
        if value is not None and (
            not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value)
            or value.startswith(("xn--", "sthree-"))
            or value.endswith(("-s3alias", "--ol-s3", "--x-s3"))
        ):
            raise ValueError("give 3 to 63 lower-case letters, digits and hyphens, or leave it out")
        return value

    @field_validator("component")
    @classmethod
    def _fits(cls, value: Share) -> Share:
        sizes = (value.cpus, value.accelerators, value.memory_mb)
        if any(size > most for size, most in zip(sizes, _LARGEST, strict=True)) or value.cpus < 0.25:
            raise ValueError(
                f"a copy takes .25 to {_LARGEST[0]} cpus, at most {_LARGEST[1]} accelerators and {_LARGEST[2]:,} MB of "
                "memory, because three must fit an instance: take less"
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.studio.enabled and (self.network is None or not self.network.nat_gateways):
            raise ValueError(
                "studio.enabled needs a way out: set network.nat_gateways to 1, or studio.enabled to false"
            )
        if (self.jobs_need_vpc or self.jobs_in_vpc) and self.network is None and not self.local:
            raise ValueError("jobs_in_vpc and jobs_need_vpc want a network: add a [network], or set both to false")
        if self.jobs_need_vpc and not self.jobs_in_vpc:
            raise ValueError("jobs_need_vpc denies jobs that jobs_in_vpc does not allow: set jobs_in_vpc to true too")
        for zone in self.zones:
            if not re.fullmatch(rf"{self.region}[a-z]", zone):
                raise ValueError(
                    f"network.zones has {zone!r}, which is not in region {self.region!r}: give the region and a letter"
                )
        if self.bake_seconds < 3 * ALARM_SECONDS and not self.local:
            raise ValueError(
                f"bake_seconds {self.bake_seconds} is over before the endpoint's alarm can fire, which looks at whole "
                f"periods of {ALARM_SECONDS} s: give at least {3 * ALARM_SECONDS}"
            )
        if self.finetune_first_seconds > self.finetune_most_seconds:
            raise ValueError("finetune_first_seconds is more than finetune_most_seconds: exchange them")
        if self.vllm and not self.gpu:
            raise ValueError(
                f"vllm is for GPUs, and train_instance_type {self.train_instance_type!r} has none: take one that has, "
                '"ml.g5.xlarge" say, or set vllm to false'
            )
        for field in ("train_instance_type",):
            given = getattr(self, field)
            if not any(_matches(given, pattern) for pattern in self.limits.instance_types):
                raise ValueError(
                    f"{field} {given!r} is none of limits.instance_types {list(self.limits.instance_types)}: "
                    "every job would be denied; add it, or take another"
                )
        return self

    @property
    def local(self) -> bool:
        """Whether this is the local AWS, which needs no key of a provider, no network and no people."""
        return self.name == "local"

    @property
    def zones(self) -> tuple[str, ...]:
        given = self.network.zones if self.network else ()
        return given or tuple(f"{self.region}{letter}" for letter in "abc")

    @property
    def gpu(self) -> bool:
        """Whether training jobs run on NVIDIA GPUs, and so in the image that has their libraries."""
        return has_gpu(self.train_instance_type)


def _all_different(names: tuple[T, ...]) -> tuple[T, ...]:
    """Raises ValueError for names that differ in capitals alone: what they stand for has one name in AWS."""
    taken = Counter(name.lower() for name in names)
    if twice := [name for name in names if taken[name.lower()] > 1]:
        raise ValueError(f"{twice} are the same: leave all but one out")
    return names


def _matches(name: str, pattern: str) -> bool:
    head, star, tail = pattern.partition("*")
    return name.startswith(head) and name.endswith(tail) if star else name == pattern


def parse(name: str, plain: dict[str, Any], *, source: str) -> Settings:
    """Settings of an environment. Raises InvalidInput with each wrong field, what it was given and the remedy.

    >>> parse("dev", {"region": "us-east-1"}, source="dev.toml").zones
    ('us-east-1a', 'us-east-1b', 'us-east-1c')
    """
    if "name" in plain:
        raise InvalidInput(f"{source}: there is no `name`: an environment is called as its file, {name!r}")
    try:
        return Settings.model_validate({**plain, "name": name})
    except ValidationError as error:
        lines = [said(found, Settings, examples={"region": 'region = "us-east-1"'}) for found in error.errors()]
        raise InvalidInput(f"{source}: " + "; ".join(lines)) from error


@cache
def settings(name: str) -> Settings:
    """The environment `local`, or what cdk/environments/{name}.toml says. Raises UnknownName, InvalidInput."""
    if name == "local":
        return LOCAL
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        raise UnknownName("environment", name, ["local", *deployable()])
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path.name}: {error}") from error
    return parse(name, plain, source=f"cdk/environments/{path.name}")


def deployable() -> tuple[str, ...]:
    """Names of the environments that there is a file for."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


LOCAL = Settings(
    name="local",
    region="us-east-1",
    account="000000000000",
    bucket="stepforge-local",
    train_instance_type="ml.m5.large",
    serve_instance_type="ml.m5.large",
    bake_seconds=0,
    job_poll_seconds=1,
    endpoint_poll_seconds=1,
    finetune_first_seconds=1,
    finetune_most_seconds=1,
    log_retention_days=30,
    keep_data=False,
    access_logs=False,
    providers=Providers(names=()),
    gradual=Gradual(type="ALL_AT_ONCE"),
    # Nothing is charged there: a plan's own budgets are tried out.
    tunes=Tunes(job_usd=1_000, day_usd=1_000_000, environment_usd=1_000_000, approval_usd=100),
)
