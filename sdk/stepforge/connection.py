"""How an environment is found and reached: SSM parameters under /stepforge/{environment}/, one boto3 session.

`local` is an environment like any other; only the endpoint and the access key differ.
"""

from __future__ import annotations

import difflib
import os
import re
import weakref
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from stepforge.contracts.environment import Environment, on_this_machine
from stepforge.contracts.names import parameter
from stepforge.errors import EnvironmentUnavailable, InvalidInput, UnknownName
from stepforge.patience import Bounded, Patience, renew_credentials

if TYPE_CHECKING:
    import boto3

LOCAL = "local"
_ONCE_SECONDS = 20.0
REMEDY = (
    "Check the network and the region (AWS_REGION), and the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY); --env local needs none of them"
)


def command(words: str, environment: str) -> str:
    """A command to be copied, which acts on the same environment.

    >>> command("watch latest", "dev"), command("watch latest", "local")
    ('stepforge watch latest --env dev', 'stepforge watch latest')
    """
    if environment == LOCAL:
        return f"stepforge {words}"
    here = "stepforge local run -- " if on_this_machine(os.environ) else ""
    return f"{here}stepforge {words} --env {environment}"


class Connection:
    """boto3 clients of one environment, in the caller's session, region and credentials."""

    def __init__(
        self,
        name: str,
        session: boto3.Session,
        *,
        endpoint_url: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`patience` decides for how long calls are tried again that meet throttling, 5xx and the like."""
        self.name = name
        self._session = session
        self.endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}
        # Nothing is throttled here: a local server that does not answer is gone, and the next command starts it.
        self.patience = patience or (Patience() if endpoint_url is None else Patience(attempts=3, budget_seconds=10))
        self.patience.renew = self.patience.renew or self.renew_credentials

    def client(self, service: str, *, region: str | None = None) -> Any:
        """The boto3 client of a service, made once; in the session's region, or the one where alone it answers."""
        name = f"{service} {region}" if region else service
        if name not in self._clients:
            config: dict[str, Any] = {}
            patience = self.patience
            if service == "ssm" and self.endpoint_url is None:
                # The first call: who mistyped a region or is offline hears of it in seconds.
                config = {"connect_timeout": 4, "read_timeout": 10}
                patience = replace(patience, attempts=2)
            if service == "secretsmanager":
                # Who asks waits for .2 s; what is under way beyond that must end soon.
                config = {"connect_timeout": 1, "read_timeout": 1}
                patience = replace(patience, attempts=3, base_seconds=0.1)
            if region is not None:
                config["region_name"] = region
            self._clients[name] = made = self._make(service, **config)
            patience.watch(made)
        return self._clients[name]

    @cached_property
    def session(self) -> boto3.Session:
        """The caller's session, for clients that others make of it; that of a local AWS makes them for its endpoint."""
        if self.endpoint_url is None:
            return self._session
        import boto3

        endpoint_url, credentials = self.endpoint_url, self._session.get_credentials()
        assert credentials is not None  # the local AWS hands out its own

        class AtEndpoint(boto3.Session):
            def client(self, *arguments: Any, **options: Any) -> Any:
                return super().client(*arguments, **{"endpoint_url": endpoint_url, **options})

        return AtEndpoint(credentials.access_key, credentials.secret_key, region_name=self._session.region_name)

    @property
    def caller(self) -> boto3.Session:
        """The session that was given: whose credentials every call is signed with."""
        return self._session

    def _make(self, service: str, **config: Any) -> Any:
        from botocore.config import Config

        once = {"mode": "standard", "total_max_attempts": 1}
        settings = Config(retries=once, user_agent_extra="stepforge", **config)
        return self._session.client(service, endpoint_url=self.endpoint_url, config=settings)

    @property
    def region(self) -> str:
        """Of the caller's session."""
        return str(self._session.region_name or "")

    @cached_property
    def once(self) -> Once:
        """The same environment through clients that try once and answer within seconds, or raise.

        For who follows: what to do about an error, and when to ask again, is decided there.
        """
        return Once(self)

    def renew_credentials(self) -> bool:
        """Renew the credentials of the caller's session. Returns whether they are others now."""
        return renew_credentials(self._session)

    @cached_property
    def environment(self) -> Environment:
        """What SSM says about the environment.

        Raises InvalidInput where it says nothing, EnvironmentUnavailable where it does not answer within seconds.
        """
        prefix = parameter(self.name, "")
        try:
            values = self._parameters(prefix)
            others = [] if values else self._parameters(prefix.removesuffix(f"{self.name}/"))
        except _botocore_errors() as error:
            near = f"Did you mean {LOCAL!r}? " if _like_local(self.name) else ""
            where = f"in region {self._session.region_name}" if self._session.region_name else "without a region"
            raise EnvironmentUnavailable(
                f"environment {self.name!r} cannot be looked up {where}: {str(error).rstrip('.')}. {near}{REMEDY}"
            ) from error
        if not values:
            known = {LOCAL, *(name.partition("/")[0] for name in others)}
            raise InvalidInput(
                f"{UnknownName('environment', self.name, known)} in this account and region "
                f"({self._session.region_name}). Deploy it with `python -m cdk.cli deploy --all -c env={self.name}`"
            )
        return parse_environment(self.name, values)

    def _parameters(self, prefix: str) -> dict[str, str]:
        """The parameters below a path, by their names without it."""
        pages = self.client("ssm").get_paginator("get_parameters_by_path").paginate(Path=prefix, Recursive=True)
        return {item["Name"].removeprefix(prefix): item["Value"] for page in pages for item in page["Parameters"]}


class Once(Connection):
    """See `Connection.once`."""

    def __init__(self, of: Connection) -> None:
        self.answers = 0
        """Calls that succeeded. Who meets trouble sees by it whether anything answers at all."""
        super().__init__(of.name, of._session, endpoint_url=of.endpoint_url, patience=of.patience)
        self._of = of

    @cached_property
    def environment(self) -> Environment:
        return self._of.environment

    def client(self, service: str, *, region: str | None = None) -> Any:
        name = f"{service} {region}" if region else service
        if name not in self._clients:
            made = self._make(service, connect_timeout=5, read_timeout=_ONCE_SECONDS, region_name=region)
            # Weak: a client that outlives its connection keeps neither it nor the caller's session.
            counts = weakref.WeakMethod(self._count)
            self._clients[name] = Bounded(made, _ONCE_SECONDS, lambda: None if (count := counts()) is None else count())
        return self._clients[name]

    def _count(self) -> None:
        self.answers += 1


def _like_local(name: str) -> bool:
    return bool(difflib.get_close_matches(name, [LOCAL]))


def parse_environment(name: str, values: dict[str, str]) -> Environment:
    """Parameters relative to the environment's prefix, `machines/train` say, as one model."""
    plain: dict[str, Any] = {"name": name}
    for key, value in values.items():
        field, _, item = key.partition("/")
        field = field.replace("-", "_")
        if item:
            plain.setdefault(field, {})[item] = value
        else:
            plain[field] = value
    known = {field: value for field, value in plain.items() if field in Environment.model_fields}
    try:
        return Environment.model_validate(known)
    except ValidationError as error:
        missing = sorted({str(e["loc"][0]).replace("_", "-") for e in error.errors()})
        raise EnvironmentUnavailable(
            f"environment {name!r} is incomplete: the parameters {missing} under {parameter(name, '')} are missing or "
            "malformed. Deploy it again"
        ) from error


def connect(environment: str, *, session: boto3.Session | None = None) -> Connection:
    """Reach an environment; `local` is started where it does not run.

    `session` is used as it is for a cloud environment, and refused for `local`, which has its own credentials.
    """
    if environment == LOCAL:
        if session is not None:
            raise InvalidInput(
                "environment 'local' has its own credentials: give no session, or name a cloud environment"
            )
        return _connect_local()
    if not re.fullmatch(r"[a-z][a-z0-9-]*", environment):
        near = f"did you mean {LOCAL!r}? " if _like_local(environment.lower()) else ""
        raise InvalidInput(
            f"environment {environment!r} cannot be one: {near}It is {LOCAL!r}, or the name of one "
            "that was deployed: small letters, digits and hyphens"
        )
    import boto3

    # boto3 itself reads AWS_DEFAULT_REGION alone; most other tools read AWS_REGION.
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    connection = Connection(environment, session or boto3.Session(region_name=region))
    _ = connection.environment  # the first call of all, so that what is wrong is told soon, and once
    return connection


def _connect_local() -> Connection:
    try:
        from stepforge.local.environment import ready
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"the local environment needs the extra 'local' ({error.name} is missing): "
            "pip install 'stepforge[local,train]'"
        ) from error
    import boto3

    aws = ready()
    session = boto3.Session(
        aws_access_key_id=aws.access_key_id, aws_secret_access_key=aws.secret_access_key, region_name=aws.region
    )
    return Connection(LOCAL, session, endpoint_url=aws.endpoint_url)


def _botocore_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError
