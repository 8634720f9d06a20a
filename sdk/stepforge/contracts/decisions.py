"""Whether a fine-tune pays: the question that is asked, and the verdict that is given.

Money is US dollars of today, time is months of 1/12 year, quality is a mean score in [0, 1].
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract, Sha256

Method = Literal["prompt", "sft", "dpo", "rft", "distillation", "managed", "own"]
"""`managed`: customization that a cloud runs in one's own account; `own`: one's own SRL -> RLVR run."""
METHODS: tuple[Method, ...] = ("prompt", "sft", "dpo", "rft", "distillation", "managed", "own")
Privacy = Literal["any", "no_retention", "own_account"]
"""What happens to the data, the strictest last."""
PRIVACY: tuple[Privacy, ...] = ("any", "no_retention", "own_account")

Usd = Annotated[float, Field(ge=0, le=1e12)]
"""Up to a million millions: squares and sums of more leave the numbers that there are."""
Scores = tuple[Annotated[float, Field(ge=0, le=1)], ...]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,79}$")]


class Amount(Contract):
    """A quote and how far it may be off: `relative_sd` is the standard deviation as a share of `mean`."""

    mean: Annotated[float, Field(ge=0, le=1e12)]
    relative_sd: Annotated[float, Field(ge=0, le=5)] = 0.0


class Gain(Contract):
    """Belief about a gain in quality before anything is measured."""

    mean: Annotated[float, Field(ge=-1, le=1)]
    sd: Annotated[float, Field(gt=0, le=1)]


class FixedCosts(Contract):
    """Paid once for each training, failed or not."""

    data_usd: Usd = 0.0
    training_usd: Usd | None = None
    """None: worked out from `Arm.job` and the catalogue."""
    grader_usd: Usd = 0.0
    evaluation_usd: Usd = 0.0
    people_usd: Usd = 0.0
    relative_sd: Annotated[float, Field(ge=0, le=5)] = 0.25

    @property
    def total_usd(self) -> float:
        return self.data_usd + (self.training_usd or 0.0) + self.grader_usd + self.evaluation_usd + self.people_usd


class TrainingPlan(Contract):
    """How much is trained: what a price is multiplied by."""

    tokens: Annotated[int, Field(ge=0, le=10**15)] = 0
    """Of one epoch."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    hours: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Where the price is by the hour."""
    teacher_prompt_tokens: Annotated[int, Field(ge=0, le=10**15)] = 0
    """Of a distillation: what the teacher reads, over all pairs that are made."""
    teacher_response_tokens: Annotated[int, Field(ge=0, le=10**15)] = 0
    """What it says to them."""

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if not self.tokens and not self.hours:
            raise ValueError("a job says how much is trained: give tokens, or hours. Nothing is trained for nothing")
        return self


class Traffic(Contract):
    """Tokens of one request, for a price that is looked up."""

    prompt_tokens: Annotated[float, Field(ge=0, le=1e9)]
    completion_tokens: Annotated[float, Field(ge=0, le=1e9)]
    cached_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the prompt's tokens, those that the provider charges as cached."""
    price_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the price that is paid: 0.5 where all requests go in batches at half of it."""


class Pilot(Contract):
    """A small trial that can be bought before the whole."""

    usd: Usd
    fidelity: Annotated[float, Field(ge=0.01, le=1.5)] = 0.7
    """The trial's gain as a share of what the whole would gain."""
    fidelity_sd: Annotated[float, Field(ge=0, le=1)] = 0.15
    scores: Scores | None = None
    """Of the trial, on the items of `Question.base_scores` and in their order, once it has been made."""


class Arm(Contract):
    """One way to a better model."""

    name: Name
    method: Method
    model: str | None = None
    """Row of the catalogue, such as `openai/gpt-4.1-mini`."""
    teacher: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """Of a distillation: the row of the model whose responses are learnt from."""
    fixed: FixedCosts = FixedCosts()
    job: TrainingPlan | None = None
    request_usd: Usd | None = None
    """None: worked out from `traffic` and the catalogue."""
    request_relative_sd: Annotated[float, Field(ge=0, le=5)] = 0.1
    traffic: Traffic | None = None
    month_usd: Usd | None = None
    """Hosting and storage, whether anyone asks or not. None: what the catalogue has for `model`, with one deployment
    all hours of the month; nothing where it has neither."""
    retrains: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Within the horizon."""
    failure_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of one training: the fixed costs are then paid again."""
    gain: Gain | None = None
    """None: what experience says of this method."""
    pilot: Pilot | None = None
    scores: Scores | None = None
    """Of the whole arm on the items of `Question.base_scores`, where it exists already."""
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    privacy: Privacy = "any"
    """What the arm promises."""
    shuts_down: date | None = None
    """Of the base model; the catalogue's date is taken where this is None."""

    @model_validator(mode="after")
    def _teaches_a_student(self) -> Self:
        if self.teacher is not None and self.method != "distillation":
            raise ValueError(f"arm {self.name!r} has a teacher, and method {self.method!r} has none: leave it out")
        return self


class Constraints(Contract):
    """What is not weighed against money."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    privacy: Privacy = "any"
    budget_usd: Usd | None = None
    """Of the fixed costs and pilots."""
    on_shutdown: Literal["refuse", "cut"] = "refuse"
    """A base model that ends within the horizon: refused, or worth something until then."""


class Risk(Contract):
    """`mean - aversion * CVaR` is what arms are compared by; the CVaR is the mean loss in the worst `tail`."""

    aversion: Annotated[float, Field(ge=0, le=10)] = 0.1
    tail: Annotated[float, Field(gt=0, le=0.5)] = 0.2


class Question(Contract):
    """What is decided, and all that the decision may depend on. The same question has the same verdict."""

    version: Literal[1] = 1
    name: Name
    today: date
    horizon_months: Annotated[int, Field(ge=1, le=120)]
    discount_year: Annotated[float, Field(ge=0, lt=1)] = 0.1
    requests_month: Amount
    quality_usd: Amount
    """Worth of one request whose score rises from 0 to 1."""
    base_request_usd: Usd
    base_scores: Annotated[Scores, Field(min_length=2)]
    """What serves now, item by item."""
    item_groups: tuple[str, ...] | None = None
    """The family of each item; items of one family are resampled together."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=40)]
    constraints: Constraints = Constraints()
    risk: Risk = Risk()
    prior_doubt: Annotated[float, Field(ge=0, le=2)] = 0.2
    """Relative standard deviation of one factor on all priors' means: all may be too hopeful together."""
    gain_correlation: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Where one arm gains, others are likelier to."""

    @model_validator(mode="after")
    def _same_items(self) -> Self:
        names = [arm.name for arm in self.arms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"arm {twice[0]!r} is given twice: give each its own name")
        count = len(self.base_scores)
        given = [(f"scores of arm {arm.name!r}", arm.scores) for arm in self.arms]
        given += [(f"pilot scores of arm {arm.name!r}", arm.pilot.scores) for arm in self.arms if arm.pilot]
        for what, scores in given:
            if scores is not None and len(scores) != count:
                raise ValueError(
                    f"{what}: {len(scores)} items, base_scores has {count}: score both on the same items in one order"
                )
        if self.item_groups is not None and len(self.item_groups) != count:
            raise ValueError(f"item_groups has {len(self.item_groups)} entries for {count} items: give one for each")
        return self


class Criterion(Contract):
    """One consideration beside money, in money: it adds weight_usd x (an arm's score - base_score) to each arm."""

    name: Name
    weight_usd: Usd
    """For a full point."""
    scores: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """By arm; an arm that is left out scores as the base does."""
    base_score: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of staying with the base."""
    reason: str = ""


class Criteria(Contract):
    """What one advisor says about a question: a file for `finetune decide --criteria`."""

    version: Literal[1] = 1
    question: Name | None = None
    """Name of the question that it is about: no other is then judged by it."""
    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1, max_length=40)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [one.name for one in self.criteria]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"criterion {twice[0]!r} is given twice: one advisor has one opinion of it, keep one")
        return self


class Range(Contract):
    """A mean with the 10 % and 90 % quantiles: an 80 % interval."""

    mean: float
    low: float
    high: float


class JudgedArm(Contract):
    """One arm, judged."""

    name: str
    method: Method
    refusals: tuple[str, ...] = ()
    """Why it may not be launched, whatever it is worth."""
    months: int
    """In which it would serve."""
    net_usd: Range
    """Net value against staying with the base."""
    pays_probability: float
    cvar_usd: float
    """Mean loss in the worst tail; below 0 where even that is a gain."""
    score_usd: float
    """What arms are compared by: (mean - aversion * CVaR) / (1 + aversion), so that a certain dollar is a dollar."""
    gain: Range
    measured: Literal["no", "pilot", "whole"] = "no"
    fixed_usd: float
    break_even_requests: float | None
    """None: however many are asked, it never pays itself back."""
    expected_requests: float
    pilot_usd: float | None = None
    pilot_worth_usd: float | None = None
    """Expected value of the sample information, before its price."""
    criteria_usd: float = 0.0
    """What criteria from outside add."""


class Swing(Contract):
    """Net value of one arm at the 10 % and 90 % quantiles of one input, all others at their means."""

    input: str
    low_label: str
    high_label: str
    low_usd: float
    high_usd: float


class Decision(Contract):
    """The verdict: what to do, and why. `stepforge.economics.show` has it for people: table, page and plot."""

    version: Literal[1] = 1
    question: str
    question_sha256: Sha256
    asked: date
    action: Literal["launch", "pilot", "stay"]
    arm: str | None
    """None where the action is to stay."""
    sentence: str
    arms: tuple[JudgedArm, ...]
    """Best first, refused ones last."""
    horizon_months: int
    swings: tuple[Swing, ...] = ()
    """Of the arm that is chosen, or of the best one where none is; the widest first."""
    swings_of: str | None = None
    warnings: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()


class Outcome(Contract):
    """What came of an arm, against what was predicted."""

    version: Literal[1] = 1
    question_sha256: Sha256
    arm: str
    method: Method
    predicted_gain: Range
    measured_gain: Range
    measured_gain_sd: Annotated[float, Field(ge=0, le=1)]
    predicted_fixed_usd: float
    measured_fixed_usd: float | None = None
    gain_inside: bool
    """Whether the measured mean lies in the predicted 80 % interval."""
    local_fake: bool = False
    """Of a local server's model: nothing was trained, so nothing is learnt from it."""
    sentence: str
