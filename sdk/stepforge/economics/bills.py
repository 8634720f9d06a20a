"""What a provider will charge: tokens x epochs, hours or seconds of machines, hosting, storage and requests, rounded as
the provider rounds. Decimal throughout; a price is always given, never assumed.

Not covered: taxes, free tiers, discounts that an account has agreed on, and how long a training will take: hours come
from whoever plans it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

from stepforge.economics.catalogue import TOKENS_IN, ModelPrice, Provider
from stepforge.economics.tokens import TokenCount
from stepforge.errors import InvalidInput, UnknownPrice

CENT = Decimal("0.01")
HOURS_OF_MONTH = 30 * 24
"""As in Microsoft's worked example of hosting."""
NO_RATES = (
    "the price has no rates of a teacher, and a distillation is charged for what its teacher says too: name the "
    "teacher, whose row of the catalogue has them, or give [price.teacher] (model, input, output)"
)


@dataclass(frozen=True)
class Rule:
    """How a provider counts."""

    hours_step: Decimal | None
    """Hours are rounded to this, half up; None where seconds are charged as they are."""
    cap_usd: Decimal | None
    """Where one job stops."""
    pair_prompts: int
    """How often the prompt of a preference pair is charged: once, or once for each of its completions."""
    source: str


@dataclass(frozen=True)
class Synthesis:
    """What a provider makes of the prompts of a distillation before it tunes on them."""

    most_pairs: int | None
    """How many pairs of prompt and response the prompts may grow to, each charged at the teacher's prices; None: they
    stay as many as they are."""
    epochs: tuple[int, int] | None
    """The fewest and the most that the provider may choose; None: the caller's choice."""
    source: str


SYNTHESES: dict[Provider, Synthesis] = {
    "bedrock": Synthesis(
        15_000,
        (1, 5),
        "AWS, Bedrock user guide: model distillation (at most 15,000 pairs, at the teacher's on-demand price). How "
        "many epochs it trains is not said: the range is that of Nova's fine-tuning",
    ),
    "vertex": Synthesis(
        None,
        None,
        "Google Cloud, Supervised and distillation fine-tuning for open models: training tokens x epochs, and the "
        "teacher's calls",
    ),
}

RULES: dict[Provider, Rule] = {
    "openai": Rule(Decimal("0.01"), None, 1, "OpenAI help article 11323177; pricing page"),
    "azure": Rule(Decimal("0.01"), Decimal(5000), 1, "Microsoft Learn, Cost management for fine-tuning"),
    "vertex": Rule(None, None, 2, "Google Cloud, About preference tuning for Gemini models: pricing"),
    "bedrock": Rule(None, None, 1, "AWS, Bedrock pricing: tokens x epochs, per 1,000 tokens"),
    "sagemaker": Rule(None, None, 1, "AWS, DescribeTrainingJob: BillableTimeInSeconds x InstanceCount"),
}


@dataclass(frozen=True)
class Line:
    """One item: `usd` is rounded to the cent as the vendor does, `low_usd`..`high_usd` is the range of its quantity,
    rounded away from the middle: what may cost something is never free."""

    what: str
    quantity: str
    usd: Decimal
    low_usd: Decimal
    high_usd: Decimal


@dataclass(frozen=True)
class Bill:
    """Lines and their sums, in dollars to the cent."""

    lines: tuple[Line, ...]

    @property
    def usd(self) -> Decimal:
        return sum((line.usd for line in self.lines), Decimal(0))

    @property
    def low_usd(self) -> Decimal:
        return sum((line.low_usd for line in self.lines), Decimal(0))

    @property
    def high_usd(self) -> Decimal:
        return sum((line.high_usd for line in self.lines), Decimal(0))

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.lines + other.lines)


def by_tokens(tokens: TokenCount, epochs: int, price: ModelPrice) -> Bill:
    """Training that is charged by the token: OpenAI and Azure SFT and DPO, Vertex, Bedrock, SageMaker serverless.

    Tokens of the training file x epochs; validation data are not charged. Raises InvalidInput for a price per hour.
    """
    return Bill((_of_tokens(f"training, {epochs} epochs", tokens.times(epochs), price),))


def by_job(price: ModelPrice) -> Bill:
    """A flat price. Raises InvalidInput for any other."""
    if price.unit != "job":
        raise InvalidInput(f"a price per {price.unit} was given for a job: give the price of training_job")
    return Bill((Line("training", "1 job", cents(price.usd), *_outward(price.usd, price.usd)),))


def pair_prompts(provider: Provider) -> int:
    """How often a provider charges the prompt of a preference pair."""
    return _rule(provider).pair_prompts


def distillation(
    prompts: TokenCount, responses: TokenCount, epochs: int, price: ModelPrice, *, trained: TokenCount | None = None
) -> Bill:
    """The teacher's reading of the prompts, its responses, and the student's training on both, three lines.

    `prompts` and `responses` are of all pairs that are made: see `synthesised`. `trained` is one epoch where somebody
    has counted it: the sum of both leaves out what a tokenizer puts around an example. Raises UnknownPrice where the
    price has no teacher's rates.
    """
    if price.teacher is None:
        raise UnknownPrice(NO_RATES)
    asked = requests(prompts, responses, price.teacher.input, price.teacher.output)
    lines = tuple(replace(line, what=f"teacher's {line.what}") for line in asked.lines)
    return Bill(lines) + by_tokens(prompts.plus(responses) if trained is None else trained, epochs, price)


def synthesised(provider: Provider, one_each: TokenCount, rows: int) -> TokenCount:
    """Tokens of all pairs, where `one_each` has one for each of `rows` prompts: more of them where the provider adds
    some. Raises InvalidInput for a provider that distils nothing."""
    most = _synthesis(provider).most_pairs
    if most is None or most <= rows:
        return one_each
    high = -(-one_each.high * most // rows)
    return TokenCount(one_each.low, one_each.expected, high, f"{one_each.method}; {rows:,} to {most:,} pairs")


def epochs_of(provider: Provider, asked: int) -> tuple[int, int]:
    """The fewest and the most epochs of a distillation. Raises InvalidInput for a provider that distils nothing."""
    return _synthesis(provider).epochs or (asked, asked)


def by_hours(provider: Provider, hours: Decimal, price: ModelPrice) -> Bill:
    """Reinforcement tuning that is charged by the hour of its training loop: hours to two decimals, half up.

    On Azure one job stops at 5,000 USD, and going on is a choice. The range is of hours rounded down and up. Raises
    InvalidInput for a price per token.
    """
    if price.unit != "hour":
        raise InvalidInput(f"a price per {price.unit} was given for hours: give the price of training_hours")
    rule = _rule(provider)
    charged, fewest, most = (
        hours if rule.hours_step is None else hours.quantize(rule.hours_step, rounding)
        for rounding in (ROUND_HALF_UP, ROUND_FLOOR, ROUND_CEILING)
    )
    amounts = [cents(charged * price.usd), *_outward(fewest * price.usd, most * price.usd)]
    if rule.cap_usd is not None:
        amounts = [min(usd, rule.cap_usd) for usd in amounts]
    return Bill((Line("training by the hour", f"{charged} h at {price.usd} USD", *amounts),))


def by_instances(seconds: int, instances: int, usd_hour: Decimal, *, what: str = "training instances") -> Bill:
    """Machines that are charged by the second, as SageMaker training jobs are: billable seconds x instances x price."""
    usd = cents(Decimal(seconds) * instances * usd_hour / 3600)
    return Bill((Line(what, f"{instances} x {seconds:,} s at {usd_hour} USD an hour", usd, usd, usd),))


def hosting(hours: Decimal, usd_hour: Decimal, copies: int = 1) -> Bill:
    """A deployment that is charged whether it is asked or not."""
    usd = cents(hours * copies * usd_hour)
    return Bill((Line("hosting", f"{copies} x {hours} h at {usd_hour} USD an hour", usd, usd, usd),))


def storage(months: Decimal, usd_month: Decimal) -> Bill:
    """Keeping a tuned model, in parts of months."""
    usd = cents(months * usd_month)
    return Bill((Line("storage", f"{months} months at {usd_month} USD", usd, usd, usd),))


def requests(
    prompt_tokens: TokenCount, completion_tokens: TokenCount, input_price: ModelPrice, output_price: ModelPrice
) -> Bill:
    """Answers or a grader's verdicts, charged by the token; input and output are two lines."""
    pairs = (("input", prompt_tokens, input_price), ("output", completion_tokens, output_price))
    return Bill(tuple(_of_tokens(what, tokens, price) for what, tokens, price in pairs))


def cents(usd: Decimal) -> Decimal:
    """To the cent, half up."""
    return usd.quantize(CENT, ROUND_HALF_UP)


def _outward(low: Decimal, high: Decimal) -> tuple[Decimal, Decimal]:
    return low.quantize(CENT, ROUND_FLOOR), high.quantize(CENT, ROUND_CEILING)


def _of_tokens(what: str, tokens: TokenCount, price: ModelPrice) -> Line:
    if price.unit not in TOKENS_IN:
        raise InvalidInput(f"a price per {price.unit} was given for tokens: give a price per 1M or 1K tokens")
    quantity = f"{tokens.expected:,} tokens ({tokens.method}) at {price.usd} USD per {price.unit}"
    each = price.usd_each
    return Line(what, quantity, cents(each * tokens.expected), *_outward(each * tokens.low, each * tokens.high))


def _synthesis(provider: Provider) -> Synthesis:
    if provider not in SYNTHESES:
        raise InvalidInput(f"how {provider!r} distils is not known: there are rules for {', '.join(SYNTHESES)}")
    return SYNTHESES[provider]


def _rule(provider: Provider) -> Rule:
    if provider not in RULES:
        raise InvalidInput(f"how {provider!r} charges is not known: there are rules for {', '.join(RULES)}")
    return RULES[provider]
