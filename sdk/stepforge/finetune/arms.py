"""Which arms a question can have: of the catalogue's models, those that could be tuned with these data, and why not the
others. Nothing is sent and nothing is written.

An arm has what the catalogue and the data say: model, method, how much is trained, tokens of a request. What only a
person knows is left to the question (`stepforge.economics.question_file`). Not covered: privacy and latency, which no
row has; one's own SRL -> RLVR, whose cost hangs on instances.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from stepforge.contracts.base import digest
from stepforge.contracts.decisions import Amount, Arm, FixedCosts, Method, Question, TrainingPlan
from stepforge.economics import bills
from stepforge.economics.catalogue import TRAINING, Catalogue, ModelPrice, ModelRow
from stepforge.economics.catalogue import Provider as Charged
from stepforge.economics.decide import months_until
from stepforge.economics.quotes import quoted, training_price
from stepforge.economics.tokens import TokenCount
from stepforge.errors import InvalidInput, ModelGone, UnknownPrice
from stepforge.finetune.arm_data import ArmData, centred, joint, middle
from stepforge.finetune.datasets import LIMITS, Item, Limits
from stepforge.finetune.pairs import trained
from stepforge.finetune.sent import MOST_EPOCHS
from stepforge.finetune.spec import Method as Tuning
from stepforge.finetune.spec import ProviderName, TokenRange

_SPOKEN_AS: dict[Charged, ProviderName] = {
    "openai": "openai",
    "azure": "openai",
    "vertex": "vertex",
    "bedrock": "bedrock",
    "sagemaker": "sagemaker",
    "anthropic": "anthropic",
}
"""Whose protocol and format each provider of the catalogue takes."""
ALIASES: tuple[Method, ...] = ("managed",)
"""Another word for a tune that a launch calls by its method."""
NO_BASE = "no row is known to be what answers now: name it with --base MODEL, or add the arm by hand"

PRICE_ADVICE = (
    "read its prices from the provider's page and give them in a row of your own with --catalogue (`stepforge "
    "catalogue MODEL --json` has what is known of it), or add the arm by hand with fixed.training_usd and request_usd"
)
PEOPLE_AND_QUOTES = FixedCosts().relative_sd


@dataclass(frozen=True)
class Asked:
    """What is looked for, and what the data cannot say."""

    today: date
    horizon_months: int
    needed_until: date | None = None
    """The base model has to answer on this day; None: for the horizon, as `decide` judges it."""
    since: date | None = None
    """Where the horizon begins; None: today."""
    cut: bool = False
    """Whether a model that ends within the horizon counts until then."""
    providers: tuple[Charged, ...] = ()
    """Empty: all."""
    methods: tuple[Method, ...] = ()
    """Empty: all."""
    epochs: int = 2
    hours: Decimal | None = None
    """Of one training, where the price is by the hour."""
    answer_tokens: int | None = None
    """Of one answer; None: as long as those of the data."""
    system: str | None = None
    base: str | None = None
    """Row of the model that answers now."""
    people_usd: float | None = None
    """Of one training; None: not known yet."""


@dataclass(frozen=True)
class Proposed:
    """One arm, and what it rests on."""

    arm: Arm
    tokens: TokenRange | None
    """Of one epoch as the provider may count them; None where nothing is trained."""
    training_usd: tuple[Decimal, Decimal] | None
    """The least and the most that one training costs."""

    @property
    def about(self) -> str:
        if self.tokens is None or self.training_usd is None:
            return "no training: by hand, or by a search, whose budget is then fixed.training_usd"
        low, high = self.training_usd
        cost = f"{high:,.2f} USD" if low == high else f"{low:,.2f} to {high:,.2f} USD"
        counts = f"{self.tokens.low:,} to {self.tokens.high:,} tokens of data ({self.tokens.method})"
        return f"{counts}; one training costs {cost}"


@dataclass(frozen=True)
class LeftOut:
    """What is no arm, and why."""

    model: str | None
    method: Method
    reason: str
    teacher: str | None = None
    advice: str | None = None
    """What to do where a price is not known."""

    @property
    def name(self) -> str:
        return _words(self.model, self.method, self.teacher) if self.model else f"better {self.method}"


@dataclass(frozen=True)
class Proposal:
    proposed: tuple[Proposed, ...]
    left_out: tuple[LeftOut, ...]
    base_request_usd: float | None = None
    """What a request costs today at the prices of `Asked.base`; None: not known."""


def propose(items: Sequence[Item], catalogue: Catalogue, asked: Asked) -> Proposal:
    """An arm for each way to tune a row of the catalogue that can be launched with these records, held-out ones aside,
    and one for a better prompt; every other way with the reasons why not.

    Raises UnknownName for a base that the catalogue does not have, InvalidInput where the data have nothing to train.
    """
    found = trained(items)
    if not found:
        raise InvalidInput("all records are of held-out splits, which are not trained on: give others too")
    scout = _Scout(found, catalogue, asked)
    proposed, left_out = [], []
    for model, method, teacher in _ways(catalogue, asked):
        if model is None:
            left_out.append(LeftOut(None, method, NO_BASE))
            continue
        try:
            proposed.append(scout.arm(catalogue.row(model), method, teacher))
        except UnknownPrice as error:
            left_out.append(LeftOut(model, method, str(error), teacher, PRICE_ADVICE))
        except (InvalidInput, ModelGone) as error:
            left_out.append(LeftOut(model, method, str(error), teacher))
    return Proposal(tuple(proposed), tuple(left_out), scout.base_request_usd())


def arm_name(model: str, method: Method, teacher: str | None = None) -> str:
    """A name that a question takes: what other characters a model's id has become hyphens.

    >>> arm_name("vertex/qwen/qwen3@qwen3-4b", "sft")
    'vertex/qwen/qwen3-qwen3-4b by sft'
    """
    whole = _words(model, method, teacher)
    name = re.sub(r"[^A-Za-z0-9 ._:/-]", "-", whole)
    return name if len(name) <= 80 else f"{name[:71]}-{digest(whole)[:8]}"


def _words(model: str, method: Method, teacher: str | None) -> str:
    whole = "better prompt of " + model if method == "prompt" else f"{model} by {method}"
    return whole if teacher is None else f"{whole} from {teacher.partition('/')[2]}"


def _ways(catalogue: Catalogue, asked: Asked) -> Iterator[tuple[str | None, Method, str | None]]:
    """Model, method and teacher of each; a model of None for a better prompt of nobody knows what."""

    def wanted(method: Method) -> bool:
        return not asked.methods or method in asked.methods

    prompted = [] if asked.base is None else [catalogue.row(asked.base).id]
    for row in catalogue.rows.values():
        if asked.providers and row.provider not in asked.providers:
            continue
        if "prompt" in row.tunable and row.id not in prompted:
            prompted.append(row.id)
        others = [method for method in row.tunable if method not in ALIASES]
        for method in others or row.tunable:
            if method == "prompt" or not wanted(method):
                continue
            known = tuple(catalogue.taught_by(row.id)) if method == "distillation" else ()
            teachers: tuple[str | None, ...] = known or (None,)
            yield from ((row.id, method, teacher) for teacher in teachers)
    if wanted("prompt"):
        models: tuple[str | None, ...] = tuple(prompted) or (None,)
        yield from ((model, "prompt", None) for model in models)


class _Scout:
    """Judges one way after another; the data are written and counted once for all that take them alike."""

    def __init__(self, items: Sequence[Item], catalogue: Catalogue, asked: Asked) -> None:
        self.catalogue, self.asked = catalogue, asked
        self.data = ArmData(items, system=asked.system, answer_tokens=asked.answer_tokens)

    def arm(self, row: ModelRow, method: Method, teacher: str | None) -> Proposed:
        """Raises ModelGone, InvalidInput or UnknownPrice with every reason why it is none."""
        if gone := self._gone(row, method, teacher):
            raise ModelGone("; ".join(gone))
        if method == "prompt":
            return self._prompt(row)
        kind, provider = _launched(row, method)
        missing = _missing(self.catalogue, row, method, teacher)
        try:
            tokens = self._rows(row, provider, kind)
            (traffic, spread), answers = self.data.request(provider), self.data.answers(provider)
        except InvalidInput as error:
            if missing:
                raise UnknownPrice(f"{error}; {_unpriced(missing)}") from error
            raise
        if missing:
            raise UnknownPrice(_unpriced(missing))
        price = training_price(self.catalogue, row.id, method, teacher=teacher)
        job, cost = self._training(row, price, middle(tokens), answers)
        arm = Arm(
            name=arm_name(row.id, method, teacher),
            method=method,
            model=row.id,
            teacher=teacher,
            job=job,
            fixed=self._fixed(cost, training_usd=float(price.usd) if job is None else None),
            traffic=traffic,
            request_relative_sd=spread,
        )
        return Proposed(self._priced(arm), tokens, cost)

    def base_request_usd(self) -> float | None:
        if self.asked.base is None:
            return None
        try:
            base = self._prompt(self.catalogue.row(self.asked.base)).arm
        except (InvalidInput, UnknownPrice):
            return None  # said of the arm
        return self._quoted(base).request_usd

    def _gone(self, row: ModelRow, method: Method, teacher: str | None) -> list[str]:
        asked, end = self.asked, row.shuts_down
        if end is not None and end <= asked.today:
            return [f"it shut down on {end}"]
        reasons = self.catalogue.refusals(row.id, method, asked.today, teacher=teacher)
        if end is None:
            return reasons
        if asked.needed_until is not None and end <= asked.needed_until:
            reasons.append(f"it shuts down on {end}, and is needed until {asked.needed_until}")
        elif not asked.cut and months_until(asked.since or asked.today, end, 120) < asked.horizon_months:
            reasons.append(f"it shuts down on {end}, within the horizon of {asked.horizon_months} months")
        return reasons

    def _rows(self, row: ModelRow, provider: ProviderName, method: Tuning) -> TokenRange:
        """Tokens of the file that a launch would upload. Raises InvalidInput where it could not."""
        most = [row.limits.epochs_max, MOST_EPOCHS.get((provider, method))]
        epochs = min((one for one in most if one is not None), default=None)
        if method != "distillation" and epochs is not None and self.asked.epochs > epochs:
            raise InvalidInput(f"it takes {epochs} epochs at most, and {self.asked.epochs} were asked for")
        model = row.id.partition("/")[2] if (provider, method) == ("vertex", "distillation") else ""
        return self.data.tokens(provider, method, model, _limits(row, provider, method))

    def _fixed(self, cost: tuple[Decimal, Decimal], *, training_usd: float | None) -> FixedCosts:
        """How far the whole may be off hangs on people's share of it: where that is not known it is as it comes."""
        people = self.asked.people_usd
        if people is None:
            return FixedCosts(training_usd=training_usd)
        low, high = (float(usd) + people for usd in cost)
        spread = joint(PEOPLE_AND_QUOTES, low, high)
        return FixedCosts(training_usd=training_usd, people_usd=people, relative_sd=spread)

    def _prompt(self, row: ModelRow) -> Proposed:
        missing = sorted({"input", "output"} - {price.kind for price in row.prices})
        if missing:
            raise UnknownPrice(_unpriced(missing))
        traffic, spread = self.data.request(_SPOKEN_AS.get(row.provider, "openai"))
        arm = Arm(
            name=arm_name(row.id, "prompt"),
            method="prompt",
            model=row.id,
            fixed=FixedCosts(people_usd=self.asked.people_usd or 0.0),
            traffic=traffic,
            request_relative_sd=spread,
        )
        return Proposed(self._priced(arm), None, None)

    def _priced(self, arm: Arm) -> Arm:
        """The arm, if `decide` finds each of its prices. Raises UnknownPrice."""
        self._quoted(arm)
        return arm

    def _quoted(self, arm: Arm) -> Arm:
        nothing = Amount(mean=0)
        question = Question(
            name="arm",
            today=self.asked.today,
            horizon_months=1,
            requests_month=nothing,
            quality_usd=nothing,
            base_request_usd=0,
            base_scores=(0, 0),
            arms=(arm,),
        )
        return quoted(question, self.catalogue)[0].arms[0]

    def _training(
        self, row: ModelRow, price: ModelPrice, tokens: TokenCount, answers: TokenCount
    ) -> tuple[TrainingPlan | None, tuple[Decimal, Decimal]]:
        """How much is trained, and the least and most that it costs; no plan where the price is flat."""
        asked = self.asked
        if price.kind == "training_job":
            bill = bills.by_job(price)
            return None, (bill.low_usd, bill.high_usd)
        if price.kind == "training_hours":
            if asked.hours is None:
                raise InvalidInput(f"it is charged by the hour, {price.usd} USD: say how many with --hours")
            if row.provider == "sagemaker":
                bill = bills.by_instances(math.ceil(asked.hours * 3600), 1, price.usd)
            else:
                bill = bills.by_hours(row.provider, asked.hours, price)
            return TrainingPlan(hours=float(asked.hours)), (bill.low_usd, bill.high_usd)
        if price.teacher is None:
            bill = bills.by_tokens(tokens, asked.epochs, price)
            return TrainingPlan(tokens=tokens.expected, epochs=asked.epochs), (bill.low_usd, bill.high_usd)
        count = len(self.data.items)
        read, said = (centred(bills.synthesised(row.provider, each, count)) for each in (tokens, answers))
        fewest, most = bills.epochs_of(row.provider, asked.epochs)
        low, high = (bills.distillation(read, said, epochs, price) for epochs in (fewest, most))
        plan = TrainingPlan(
            tokens=read.expected + said.expected,
            epochs=(fewest + most) // 2,
            teacher_prompt_tokens=read.expected,
            teacher_response_tokens=said.expected,
        )
        return plan, (low.low_usd, high.high_usd)


def _launched(row: ModelRow, method: Method) -> tuple[Tuning, ProviderName]:
    """The method and the provider as a launch names them. Raises InvalidInput where there is no such launch."""
    provider = _SPOKEN_AS.get(row.provider)
    for name, tuning in LIMITS:
        if (name, tuning) == (provider, method):
            return tuning, name
    ways = ", ".join(tuning for name, tuning in LIMITS if name == provider) or "nothing"
    raise InvalidInput(
        f"no launch tunes by {method} at {row.provider}, there are {ways}: add the arm by hand, with its costs"
    )


def _limits(row: ModelRow, provider: ProviderName, method: Tuning) -> Limits:
    """The tighter of what the launch holds to and what the row says."""
    known, own = LIMITS[provider, method], row.limits
    return replace(
        known,
        min_rows=max(known.min_rows, own.examples_min or 0),
        max_rows=min(known.max_rows, own.examples_max or known.max_rows),
        max_bytes=min(known.max_bytes, own.file_bytes_max or known.max_bytes),
        max_tokens=min(known.max_tokens, own.example_tokens_max or known.max_tokens),
    )


def _missing(catalogue: Catalogue, row: ModelRow, method: Method, teacher: str | None) -> list[str]:
    """The prices that this arm needs and that nobody gave."""
    kinds = {price.kind for price in row.prices if price.method in (None, method)}
    training = TRAINING if method != "distillation" else TRAINING[:1]
    missing = [] if kinds & set(training) else [" or ".join(training)]
    served = {price.kind for price in row.prices if price.method is None}
    missing += [kind for kind in ("tuned_input", "tuned_output") if kind not in served]
    if teacher is not None:
        of_teacher = {price.kind for price in catalogue.row(teacher).prices}
        missing += [f"{kind} of {teacher}" for kind in ("input", "output") if kind not in of_teacher]
    return missing


def _unpriced(missing: Sequence[str]) -> str:
    return f"no price is known of {', '.join(missing)}"
