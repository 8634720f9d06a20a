"""How each provider is reached, as it stands in a plan and in a request; no key stands there.

A person's key is in the environment variable that is named, the state machine's in a secret of the environment.
"""

from __future__ import annotations

import os
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SecretStr

from stepforge.contracts.base import Contract
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput
from stepforge.finetune.addresses import Secrets, hold_known, hold_own, key_for
from stepforge.finetune.folders import DiskFolder, Folder, S3Folder
from stepforge.finetune.keys import is_loopback
from stepforge.finetune.optimisers import DspyOptimiser, Optimiser, VertexOptimiser
from stepforge.finetune.provider import Provider
from stepforge.finetune.vertex_settings import DataDriven
from stepforge.installation.home import home

if TYPE_CHECKING:
    from stepforge.finetune.vertex import VertexProvider

NO_SECRET = (
    "the state machine has no environment variable with your key: give api_key_secret in [provider], the environment's "
    "own stepforge/ENV/openai or stepforge/ENV/anthropic, or one of yours below stepforge/ENV/finetune/ "
    "(docs/secrets.md)"
)
NO_CREDENTIALS = (
    "the state machine has no credentials of Google's: store those of a service account below stepforge/ENV/finetune/ "
    "in Secrets Manager, and name it as credentials_secret in [optimiser] (docs/secrets.md)"
)
NO_VERIFIER = "the state machine runs no verifiers of users: use `finetune launch`, or leave it out"
_OPENAI = "https://api.openai.com/v1"
_ANTHROPIC = "https://api.anthropic.com"


class OpenAISettings(Contract):
    type: Literal["openai"]
    base_url: str = _OPENAI
    api_key_env: str = "OPENAI_API_KEY"
    api_key_secret: str | None = None
    """Name or ARN of a secret in Secrets Manager, where the state machine finds the key: it has no such variable."""
    project: str | None = None
    deployment: str | None = None
    """What a tuned model answers as at Azure, once its owner has deployed it."""

    def check_machine(self, optimiser: Optimiser | None) -> None:
        """Raises InvalidInput where the state machine would pay for a model that it cannot ask."""
        del optimiser
        from stepforge.finetune.openai import vendor_of

        if vendor_of(self.base_url) == "azure":
            raise InvalidInput(
                "a model tuned at Azure answers only once it is deployed, which the state machine does not do: "
                "use `stepforge finetune launch` and `watch`, deploy it, give its deployment in [provider], then "
                "`stepforge finetune register` (docs/finetune-openai.md)"
            )

    def provider(self, secrets: Secrets | None = None) -> Provider:
        from stepforge.finetune.openai import OpenAIProvider

        return OpenAIProvider(
            _given_key(self, secrets, own=_OPENAI),
            base_url=self.base_url,
            project=self.project,
            deployment=self.deployment,
        )


class VertexSettings(Contract):
    """Credentials are found as Google's own tools find them."""

    type: Literal["vertex"]
    credentials_secret: str | None = None
    """Secret with the JSON of a service account or of a workload identity federation, for the state machine."""
    project: str
    location: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    """Part of the address that is called."""
    folder_uri: str
    kms_key: str | None = None
    base_url: str | None = None
    prompts: DataDriven | None = None
    """For method 'prompt': Vertex's data-driven optimiser searches for a better prompt of a Gemini."""

    def check_machine(self, optimiser: Optimiser | None) -> None:
        """Raises InvalidInput where the state machine could not score what is found."""
        del optimiser
        if self.prompts is not None and self.prompts.verifier is not None:
            raise InvalidInput(NO_VERIFIER)

    def provider(self, secrets: Secrets | None = None) -> Provider:
        vertex = self._vertex(secrets)
        if self.prompts is None:
            return vertex
        from stepforge.finetune.vertex_prompts import VertexPrompts

        return VertexPrompts(vertex, self.prompts, look_seconds=600 if secrets is None else 120)

    def _vertex(self, secrets: Secrets | None) -> VertexProvider:
        from stepforge.finetune.vertex import VertexProvider
        from stepforge.finetune.vertex_calls import credentials_of

        given = self.model_dump(exclude={"type", "credentials_secret", "prompts"})
        found = credentials_of(secrets, self.credentials_secret, base_url=self.base_url)
        return VertexProvider(**given, credentials=found)


class BedrockSettings(Contract):
    """Credentials and region are the session's, as everywhere with AWS."""

    type: Literal["bedrock"]
    role_arn: str
    folder_uri: str
    kms_key: str | None = None
    region: str | None = None
    endpoint_url: str | None = None

    def provider(self, secrets: Secrets | None = None) -> Provider:
        from stepforge.finetune.aws import session_for
        from stepforge.finetune.bedrock import BedrockProvider

        if secrets is not None:
            hold_own(self.endpoint_url)
        return BedrockProvider(
            session_for(self.region, self.endpoint_url),
            role_arn=self.role_arn,
            folder_uri=self.folder_uri,
            kms_key=self.kms_key,
            endpoint_url=self.endpoint_url,
            # A handler may not wait for long; the state machine asks again.
            deploy_seconds=1_800 if secrets is None else 300,
        )


class SageMakerSettings(Contract):
    type: Literal["sagemaker"]
    role_arn: str
    folder_uri: str
    group_arn: str
    accept_eula: bool = False
    instance_type: str | None = None
    """What an endpoint of the tuned model runs on, for its evaluation and once it is promoted: charged by the hour."""
    image: str | None = None
    """The container that serves; None: the one that SageMaker's hub names for the base model."""
    kms_key: str | None = None
    region: str | None = None
    endpoint_url: str | None = None

    def provider(self, secrets: Secrets | None = None) -> Provider:
        from stepforge.finetune.aws import session_for
        from stepforge.finetune.sagemaker import SageMakerProvider

        if secrets is not None:
            hold_own(self.endpoint_url)
        given = self.model_dump(exclude={"type", "region"})
        return SageMakerProvider(
            session_for(self.region, self.endpoint_url), **given, deploy_seconds=1_800 if secrets is None else 300
        )


class AnthropicSettings(Contract):
    """A better prompt for a Claude: the search stops before a call that could cost more than `budget_usd`."""

    type: Literal["anthropic"]
    budget_usd: Annotated[Decimal, Field(gt=0)]
    input_usd: Annotated[Decimal, Field(gt=0)]
    """For a million tokens, as `output_usd`: look them up."""
    output_usd: Annotated[Decimal, Field(gt=0)]
    as_of: date
    source: str
    """Where the rates are from."""
    folder_uri: str | None = None
    """Where jobs lie, `s3://bucket/prefix`; None: on this machine, where the state machine cannot see them."""
    base_url: str | None = None
    api_key_env: str = "ANTHROPIC_API_KEY"
    api_key_secret: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Of one answer."""
    verifier: str | None = None
    """Your own, as `package.module:function`, in the place of the domain's; not in the state machine."""
    endpoint_url: str | None = None
    """Of S3."""

    def price(self) -> ModelPrice:
        return ModelPrice(
            kind="training_job", usd=self.budget_usd, unit="job", as_of=self.as_of, source=f"budget_usd; {self.source}"
        )

    def check_machine(self, optimiser: Optimiser | None) -> None:
        """Raises InvalidInput where the state machine could not run the search."""
        if isinstance(optimiser, DspyOptimiser):
            raise InvalidInput(
                "the state machine's functions have no dspy: use `finetune launch`, or gepa, bedrock or vertex"
            )
        if isinstance(optimiser, VertexOptimiser) and optimiser.lacks_secret():
            raise InvalidInput(NO_CREDENTIALS)
        if self.folder_uri is None:
            raise InvalidInput(
                'the state machine keeps jobs in its bucket: give folder_uri = "s3://BUCKET/finetune/prompts"'
            )
        if self.verifier is not None:
            raise InvalidInput(NO_VERIFIER)

    def provider(self, secrets: Secrets | None = None, s3: Any = None) -> Provider:
        """`s3` is the client of the environment, where there is one."""
        from stepforge.finetune.anthropic import AnthropicProvider
        from stepforge.finetune.metering import TokenPrices

        return AnthropicProvider(
            _given_key(self, secrets, own=_ANTHROPIC),
            self._folder(s3),
            prices=TokenPrices(input_usd=self.input_usd, output_usd=self.output_usd),
            budget_usd=self.budget_usd,
            base_url=self.base_url,
            max_tokens=self.max_tokens,
            verifier=self.verifier,
            look_seconds=600 if secrets is None else 120,
            secrets=secrets,
        )

    def _folder(self, s3: Any) -> Folder:
        if self.folder_uri is None:
            return DiskFolder(home() / "finetune" / "prompts")
        if s3 is None:
            import boto3

            session = boto3.Session()
            s3 = session.client("s3", endpoint_url=self.endpoint_url)
        return S3Folder(s3, self.folder_uri)


Settings = Annotated[
    OpenAISettings | VertexSettings | BedrockSettings | SageMakerSettings | AnthropicSettings,
    Field(discriminator="type"),
]


def connect(settings: Settings, secrets: Secrets | None, s3: Any) -> Provider:
    """The provider, with the environment's own client of S3 where jobs of it lie there."""
    if isinstance(settings, AnthropicSettings):
        return settings.provider(secrets, s3)
    return settings.provider(secrets)


def hold_callers(settings: Settings) -> None:
    """Of a call with a person's own key and the settings of somebody else's request. Raises AddressRefused.

    The key goes to the vendor, or to the address that the person's environment names as the vendor's own clients read
    it (OPENAI_BASE_URL, ANTHROPIC_BASE_URL).
    """
    if not isinstance(settings, OpenAISettings | AnthropicSettings):
        hold_own(settings.base_url if isinstance(settings, VertexSettings) else settings.endpoint_url)
        return
    variable = f"{settings.type.upper()}_BASE_URL"
    own = _OPENAI if isinstance(settings, OpenAISettings) else _ANTHROPIC
    hold_known(settings.base_url, own=own, named=os.environ.get(variable), variable=variable)


def _given_key(settings: OpenAISettings | AnthropicSettings, secrets: Secrets | None, *, own: str) -> SecretStr:
    if is_loopback(settings.base_url) and (secrets is None or settings.api_key_secret is None):
        return SecretStr(os.environ.get(settings.api_key_env) or "local")  # a local server looks at no key
    if secrets is None:
        return _key(settings.api_key_env)
    if settings.api_key_secret is None:
        raise InvalidInput(NO_SECRET)
    return key_for(secrets, settings.api_key_secret, address=settings.base_url, own=own)


def _key(name: str) -> SecretStr:
    value = os.environ.get(name)
    if not value:
        raise InvalidInput(f"the environment variable {name} holds no key: set it, or name another as api_key_env")
    return SecretStr(value)
