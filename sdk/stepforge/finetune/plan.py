"""A paid fine-tune in a TOML file: which provider and model, at whose price, within which budgets.

Keys do not stand in it: it names the environment variable that holds one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from stepforge.contracts.base import Contract, first_problem
from stepforge.economics.catalogue import Catalogue, ModelPrice, teacher_row, warnings_of
from stepforge.economics.quotes import teacher_prices, training_price
from stepforge.errors import InvalidInput, ModelGone, UnknownName, UnknownPrice
from stepforge.finetune.datasets import LIMITS, Item, Kind, personal_in, record_of, validation_split, write
from stepforge.finetune.entries import Budgets
from stepforge.finetune.keys import is_loopback
from stepforge.finetune.optimisers import Optimiser
from stepforge.finetune.pairs import heldout, trained
from stepforge.finetune.people import Kind as PersonalKind
from stepforge.finetune.people import kinds_in
from stepforge.finetune.personal import Personal, asked_sent, system_sent
from stepforge.finetune.settings import AnthropicSettings, OpenAISettings, Settings, VertexSettings
from stepforge.finetune.spec import DatasetFile, Grader, Hyperparameters, Teacher, TuneSpec

if TYPE_CHECKING:
    pass

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
    personal: Personal = "refuse"
    """What becomes of e-mail addresses, phone and card numbers in what goes to the provider: with 'refuse' nothing is
    sent, 'redact' puts a placeholder in the place of each, 'keep' sends them."""
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

    @property
    def system_sent(self) -> str | None:
        """The system prompt as the provider sees it. Raises InvalidInput where it holds what is refused."""
        return system_sent(self.system, self.personal)

    def personal_data(self, items: Iterable[Item]) -> dict[str, tuple[PersonalKind, ...]]:
        """Kinds of personal data in what would go to the provider as it is, by the ids of records that have some: rows
        of the data, and prompts of held-out records. Raises InvalidInput for a record that no row can be made of."""
        items = list(items)
        found = {record.id: kinds_in(record.prompt) for record in heldout(items)}
        options = self._rows()
        found |= {record_of(item).id: personal_in(item, **{**options, "system": None}) for item in trained(items)}
        return {name: kinds for name, kinds in found.items() if kinds}

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

        Held-out records are not in the data, and of those that are given the prompts are looked at: once the tune is
        paid for, it is judged by asking them. Raises InvalidInput.
        """
        asked_sent(heldout(records), self.personal)
        items, validated = trained(records), list[Item]()
        if self.validation == "split":
            if self.method in ("prompt", "distillation"):
                raise InvalidInput(f"method {self.method!r} splits its own validation off: leave validation out")
            items, validated = validation_split(items, self.provider.type)
        grader = self.grader if self.verifier is None else self._from_verifier(self.verifier)
        self._check_grader()

        def writing(rows: Sequence[Item], **more: Any) -> DatasetFile:
            return write(rows, folder, personal=self.personal, **self._rows(), **more)

        file = writing(items, counted=self.counted)
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

    def _rows(self) -> dict[str, Any]:
        """What makes rows of records."""
        whole = self.whole_records
        if self.verifier is not None:
            from stepforge.finetune.graders import is_own

            whole = is_own(self.verifier)
        return {
            "provider": self.provider.type,
            "method": self.method,
            "system": self.system,
            "whole": whole,
            "labelled": self.teacher is not None and self.teacher.labelled,
            "base_model": self.base_model,
        }

    def _check_grader(self) -> None:
        """Its words and code go to the provider too, and what it grades by is nothing to put placeholders into."""
        if self.personal == "keep" or self.grader is None:
            return
        if kinds := kinds_in(self.grader.model_dump(mode="json")):
            raise InvalidInput(
                f"the plan's grader holds personal data ({', '.join(kinds)}), and goes to the provider: take it out, "
                'or send it as it is with personal = "keep"'
            )

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
