"""A paid fine-tune in a TOML file: which provider and model, at whose price, within which budgets.

Keys do not stand in it: it names the environment variable that holds one.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator

from stepforge.contracts.base import Contract, first_problem
from stepforge.economics.catalogue import Catalogue, ModelPrice, teacher_row, warnings_of
from stepforge.economics.quotes import teacher_prices, training_price
from stepforge.errors import InvalidInput, ModelGone, UnknownName, UnknownPrice
from stepforge.finetune.addresses import Secrets, hold_known, hold_own, key_for
from stepforge.finetune.datasets import LIMITS, Item, Kind, validation_split, write
from stepforge.finetune.entries import Budgets
from stepforge.finetune.folders import DiskFolder, Folder, S3Folder
from stepforge.finetune.keys import is_loopback
from stepforge.finetune.optimisers import DspyOptimiser, Optimiser, VertexOptimiser
from stepforge.finetune.provider import Provider
from stepforge.finetune.spec import Grader, Hyperparameters, Teacher, TuneSpec
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


Hours = Annotated[Decimal, Field(gt=0, le=10_000)]


class Terms(Contract):
    """What a launch is held to: a price, the base model's end, and what to know before trusting either."""

    price: ModelPrice
    shutdown: date | None = None
    warnings: tuple[str, ...] = ()


class Plan(Contract):
    """One file. `hours` is needed where the price is by the hour."""

    environment: str
    base_model: str
    method: Kind
    provider: Settings
    budgets: Budgets
    price: ModelPrice | None = None
    """None: the catalogue's."""
    catalogue_model: str | None = None
    """Row of the catalogue; None: `provider/base_model`."""
    hours: tuple[Hours, Hours] | None = None
    """The fewest and the most."""
    system: str | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    grader: Grader | None = None
    teacher: Teacher | None = None
    """For distillation: the larger model. It has to be a teacher of the base model by the catalogue's [[pairs]]."""
    verifier: str | None = None
    """For rft in the place of a grader: what becomes a python grader. A domain, shipped or installed, or your own
    `package.module:function`."""
    optimiser: Optimiser | None = None
    """Of method 'prompt', what searches; None: gepa."""
    counted: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Tokens that the provider's own counter finds in the rows of some records, by their ids: 20 or more, drawn at
    random. They make the estimate a figure with a narrow range."""
    whole_records: bool = False
    """Put each record as a whole into its row: for a function made from your own verifier (Bedrock)."""
    validation: Literal["split", "none"] = "none"
    """With 'split' one group of records in ten is the provider's validation file, and no group is on both sides."""
    suffix: str = "stepforge"
    attempt: int = 1
    shutdown: date | None = None
    """The day on which the base model ends; the catalogue's where this is left out."""
    needed_until: date | None = None

    @model_validator(mode="after")
    def _searches(self) -> Plan:
        if isinstance(self.provider, VertexSettings) and (self.method == "prompt") != (
            self.provider.prompts is not None
        ):
            raise ValueError(
                "at Vertex method 'prompt' and [provider.prompts] belong together: give both (docs/finetune-vertex.md) "
                "for a better prompt, or neither to tune weights"
            )
        return self

    def search_price(self) -> ModelPrice | None:
        """What a search for a prompt costs at most, in the plan's own words; None: weights are tuned."""
        if isinstance(self.provider, AnthropicSettings):
            return self.provider.price()
        if isinstance(self.provider, VertexSettings) and self.provider.prompts is not None:
            return self.provider.prompts.price()
        return None

    def lacks_secret(self) -> bool:
        """Whether the state machine would find no key: what it tunes, and what is promoted, it asks itself."""
        settings = self.provider
        if not isinstance(settings, OpenAISettings | AnthropicSettings):
            return False
        return settings.api_key_secret is None and not is_loopback(settings.base_url)

    def terms(self, catalogue: Catalogue, today: date) -> Terms:
        """Price and end of the base model: the plan's own, else the catalogue's.

        Raises UnknownPrice where neither has a price, ModelGone where the catalogue knows that it cannot be launched,
        UnknownName for a distillation of a model that it does not have: nobody would know who may teach it.
        """
        model = self.catalogue_model or f"{self.provider.type}/{self.base_model}"
        row = catalogue.rows.get(model)
        if (own := self.search_price()) is not None:
            return Terms(price=own, shutdown=self.shutdown or (row.shuts_down if row else None))
        if row is None and self.method == "distillation":
            raise UnknownName(
                "student of the catalogue", model, [one for pair in catalogue.pairs for one in pair.students]
            )
        if row is None:
            if self.price is None:
                raise UnknownPrice(
                    f"the catalogue has no {model!r}, so what its training costs is not known: give [price] (kind, "
                    "usd, unit, as_of, source), or name a row of the catalogue as catalogue_model"
                )
            return Terms(price=self.price, shutdown=self.shutdown)
        teacher = None if self.teacher is None else self.teacher.model
        if refused := catalogue.refusals(model, self.method, today, teacher=teacher):
            raise ModelGone(f"{'; '.join(refused)}: choose another base model or method (`stepforge catalogue`)")
        warnings = () if self.price else warnings_of(catalogue, [model], today)
        try:
            price = self._price(catalogue, model)
        except UnknownPrice as error:
            raise UnknownPrice(f"{error}. In a plan: [price], with kind, usd, unit, as_of and source") from error
        if self.teacher is not None:
            warnings += self._about_teacher(catalogue, teacher_row(model, self.teacher.model), today)
        return Terms(price=price, shutdown=self.shutdown or row.shuts_down, warnings=warnings)

    def _price(self, catalogue: Catalogue, model: str) -> ModelPrice:
        """Raises UnknownPrice. A distillation's own price may leave the teacher's rates to the catalogue."""
        teacher = None if self.teacher is None else self.teacher.model
        if self.price is None:
            return training_price(catalogue, model, self.method, teacher=teacher)
        if self.method != "distillation" or self.price.teacher is not None:
            return self.price
        return self.price.model_copy(update={"teacher": teacher_prices(catalogue, model, teacher)})

    def _about_teacher(self, catalogue: Catalogue, teacher: str, today: date) -> tuple[str, ...]:
        own = self.price is not None and self.price.teacher is not None
        warnings = () if own else warnings_of(catalogue, [teacher], today)
        ends = catalogue.row(teacher).shuts_down
        if ends is not None and self.needed_until is not None and ends <= self.needed_until:
            warnings += (f"{teacher} shuts down on {ends}: after that nobody can distil from it again",)
        return warnings

    def booked_at(self, catalogue: Catalogue) -> ModelPrice | None:
        """The price for the books of a job that was launched, though nothing may be any more; None: not known."""
        if (own := self.search_price()) is not None:
            return own
        model = self.catalogue_model or f"{self.provider.type}/{self.base_model}"
        if model not in catalogue.rows:
            return self.price
        return self._price(catalogue, model)

    def spec(self, records: Sequence[Item], folder: Path) -> TuneSpec:
        """Write the data below `folder`, and say what is to be launched: pairs for `dpo`, else records.

        Raises InvalidInput.
        """
        items, validated = list(records), list[Item]()
        if self.validation == "split":
            if self.method in ("prompt", "distillation"):
                raise InvalidInput(f"method {self.method!r} splits its own validation off: leave validation out")
            items, validated = validation_split(items, self.provider.type)
        grader, whole = self.grader, self.whole_records
        if self.verifier is not None:
            from stepforge.finetune.graders import is_own

            grader, whole = self._from_verifier(self.verifier), is_own(self.verifier)
        writing = partial(
            write,
            folder=folder,
            provider=self.provider.type,
            method=self.method,
            system=self.system,
            whole=whole,
            labelled=self.teacher is not None and self.teacher.labelled,
            base_model=self.base_model,
            counted=self.counted,
        )
        file = writing(items)
        few = replace(LIMITS[self.provider.type, self.method], min_rows=1)
        try:
            return TuneSpec(
                provider=self.provider.type,
                environment=self.environment,
                base_model=self.base_model,
                method=self.method,
                training=file,
                validation=writing(validated, limits=few) if validated else None,
                hyperparameters=self.hyperparameters,
                grader=grader,
                teacher=self.teacher,
                optimiser=self.optimiser,
                suffix=self.suffix,
                attempt=self.attempt,
            )
        except ValidationError as error:
            raise InvalidInput(first_problem(error)) from error

    def _from_verifier(self, domain: str) -> Grader:
        if self.grader is not None:
            raise InvalidInput("a plan has a grader or a verifier, not both: leave one out")
        if self.method != "rft":
            raise InvalidInput(f"method {self.method!r} has no grader: leave verifier out, or use method 'rft'")
        from stepforge.finetune.graders import is_own, python_grader

        if self.provider.type not in ("openai", "vertex"):
            if is_own(domain):
                remedy = (
                    f"write the code of one with `stepforge finetune grader {domain}`, make a function of it, and give "
                    "its ARN"
                )
            else:
                remedy = "give the ARN of stepforge-ENV-finetune-grade, which has the verifiers of all that ship,"
            raise InvalidInput(
                f"{self.provider.type} calls a function as its grader: {remedy} as a grader of type 'lambda'"
            )
        return python_grader(domain)


def load_plan(path: Path) -> Plan:
    """Raises InvalidInput naming the file and the field."""
    try:
        given: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as TOML: {error}") from error
    try:
        return Plan.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {first_problem(error, fields=Plan.model_fields)}") from error


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
