"""Synthetic worlds in which it is known what each way of getting a better model is worth.

A world is one question with its truth: the arms with their true quality and costs, what whoever decides may see (base
scores item by item, priors, quotes), pilots that can be bought, and the net value that each choice turns out to have.
Kinds differ in how far the truth departs from what is seen. `HELD_BACK` is the kind that nothing was tuned on: it is
looked at once, at the end.

These generators were committed before the evaluator was written. They share no code with it: the truth is computed
here, month by month, from what was drawn. Money is US dollars, time is months, quality is a score in [0, 1].
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

METHODS = ("prompt", "sft", "rft", "managed", "own")
WELL_SPECIFIED = ("wellspecified", "smallvolume", "fewitems")
"""Kinds whose truth is drawn from the very priors that are shown."""
TUNED_ON = (*WELL_SPECIFIED, "optimistic", "correlated", "shutdowns", "heavytails", "volumeshocks")
HELD_BACK = "drift"
"""Better and cheaper base models appear within the horizon, so that what a tune gained is worth less from then on."""
KINDS = (*TUNED_ON, HELD_BACK)

NORMAL = NormalDist()
ITEM_SHARE = 0.5
"""Share of the variance of an answer's latent score that is the item's difficulty: what pairing takes out."""
GAIN_CORRELATION = 0.3
"""Where one way of tuning works, others are likelier to work."""


@dataclass(frozen=True)
class SeenArm:
    """What is known of one arm before it is tried."""

    name: str
    fixed_usd: float
    """Data, training, graders, evaluation and people, once."""
    fixed_relative_sd: float
    request_usd: float
    request_relative_sd: float
    month_usd: float
    """Hosting and storage."""
    retrains: float
    """Over the horizon."""
    failure_rate: float
    gain_mean: float
    gain_sd: float
    pilot_usd: float
    pilot_fidelity: float
    """The pilot's gain as a share of the full one's."""
    pilot_fidelity_sd: float
    months_left: int | None = None
    """Until the base model shuts down, where that is announced."""


@dataclass(frozen=True)
class Seen:
    """What whoever decides may look at."""

    base_scores: tuple[float, ...]
    base_request_usd: float
    requests_month: float
    requests_relative_sd: float
    quality_usd: float
    """Of one request whose quality rises from 0 to 1."""
    horizon_months: int
    discount_year: float
    arms: tuple[SeenArm, ...]


@dataclass
class World:
    """One question and its truth. Deterministic: the same kind, seed and number give the same world."""

    kind: str
    seen: Seen
    gains: dict[str, float]
    """True gain in quality of each arm, fully trained."""
    values: dict[str, float]
    """True net value of each arm, in dollars of today. Doing nothing is worth 0."""
    pilot_scores: dict[str, tuple[float, ...]] = field(repr=False)

    @property
    def best(self) -> float:
        return max(0.0, *self.values.values())

    def pilot(self, arm: str) -> tuple[float, ...]:
        """Scores of a small trial of this arm, on the items of the base scores and in their order."""
        return self.pilot_scores[arm]

    def payoff(self, choice: str | None, piloted: Sequence[str] = ()) -> float:
        """What is left in the end: the choice's value less what the pilots cost. None is to stay with the base."""
        price = {arm.name: arm.pilot_usd for arm in self.seen.arms}
        return (0.0 if choice is None else self.values[choice]) - sum(price[name] for name in piloted)


@dataclass
class Truth:
    """What a kind may bend before the values are worked out."""

    base_quality: float
    gains: dict[str, float]
    fixed: dict[str, float]
    requests: dict[str, float]
    """Cost of a request."""
    volume: list[float]
    """Requests of each month."""
    months: dict[str, int]
    """In which the arm serves."""
    gain_in_month: Callable[[str, int, float], float]
    base_request: list[float]
    cluster: int = 1
    """Items that share their noise."""
    cluster_share: float = 0.0


def world(kind: str, seed: int, number: int) -> World:
    """One world. Raises KeyError for a kind that does not exist."""
    rng = random.Random(f"{kind}/{seed}/{number}")
    seen = _seen(rng)
    bend = _BENDS[kind]
    if kind == "smallvolume":
        seen = replace(seen, requests_month=_log_uniform(rng, 300, 10_000))
    if kind == "fewitems":
        seen = replace(seen, base_scores=seen.base_scores[: rng.randint(12, 30)])
    truth = _truth(rng, seen)
    seen = bend(rng, seen, truth)
    base, pilots = _scores(rng, seen, truth)
    seen = replace(seen, base_scores=base)
    failed = {arm.name: rng.random() < arm.failure_rate for arm in seen.arms}
    values = {arm.name: _value(arm, seen, truth, failed=failed[arm.name]) for arm in seen.arms}
    return World(kind=kind, seen=seen, gains=dict(truth.gains), values=values, pilot_scores=pilots)


# ── What is seen ─────────────────────────────────────────────────────────────────────────────────

#       fixed cost     request / base  month         gain  sd    retrains  failure
_TYPICAL = {
    "prompt": ((150, 900), (1.02, 1.25), (0, 0), 0.03, 0.03, 0.0, 0.02),
    "sft": ((100, 1_800), (0.70, 1.60), (0, 10), 0.07, 0.06, 0.5, 0.08),
    "rft": ((500, 5_000), (0.70, 1.60), (0, 10), 0.09, 0.08, 0.5, 0.15),
    "managed": ((80, 1_200), (0.50, 1.20), (2, 160), 0.065, 0.06, 0.5, 0.10),
    "own": ((800, 7_000), (0.10, 0.60), (100, 900), 0.10, 0.09, 1.0, 0.20),
}


def _seen(rng: random.Random) -> Seen:
    base_request = _log_uniform(rng, 0.0005, 0.01)
    horizon = rng.choice((6, 12, 18, 24))
    arms = []
    for name in METHODS:
        fixed_range, request_range, month_range, mean, sd, retrains, failure = _TYPICAL[name]
        fixed = _log_uniform(rng, *fixed_range)
        prompt = name == "prompt"
        arms.append(
            SeenArm(
                name=name,
                fixed_usd=fixed,
                fixed_relative_sd=0.25,
                request_usd=base_request * rng.uniform(*request_range),
                request_relative_sd=0.05 if prompt else 0.12,
                month_usd=rng.uniform(*month_range),
                retrains=retrains * horizon / 12,
                failure_rate=failure * rng.uniform(0.5, 1.5),
                gain_mean=mean * rng.uniform(0.6, 1.4),
                gain_sd=sd * rng.uniform(0.7, 1.3),
                pilot_usd=fixed * rng.uniform(0.05, 0.15) + rng.uniform(5, 40),
                pilot_fidelity=1.0 if prompt else rng.uniform(0.55, 0.85),
                pilot_fidelity_sd=0.05 if prompt else 0.15,
            )
        )
    return Seen(
        base_scores=(0.0,) * rng.randint(60, 250),
        base_request_usd=base_request,
        requests_month=_log_uniform(rng, 3_000, 300_000),
        requests_relative_sd=0.3,
        quality_usd=_log_uniform(rng, 0.004, 0.15),
        horizon_months=horizon,
        discount_year=0.1,
        arms=tuple(arms),
    )


# ── What is true ─────────────────────────────────────────────────────────────────────────────────


def _truth(rng: random.Random, seen: Seen) -> Truth:
    """The truth as it is where all that is seen is right."""
    base = rng.uniform(0.35, 0.88)
    gains = _gains(rng, seen, base, shift=lambda arm, z: arm.gain_mean + arm.gain_sd * z)
    factor = _mean_one(rng, seen.requests_relative_sd)
    return Truth(
        base_quality=base,
        gains=gains,
        fixed={arm.name: arm.fixed_usd * _mean_one(rng, arm.fixed_relative_sd) for arm in seen.arms},
        requests={arm.name: arm.request_usd * _mean_one(rng, arm.request_relative_sd) for arm in seen.arms},
        volume=[seen.requests_month * factor] * seen.horizon_months,
        months={arm.name: seen.horizon_months for arm in seen.arms},
        gain_in_month=lambda _name, _month, gain: gain,
        base_request=[seen.base_request_usd] * seen.horizon_months,
    )


def _gains(
    rng: random.Random, seen: Seen, base: float, *, shift: Callable[[SeenArm, float], float]
) -> dict[str, float]:
    """Gains that share a part, and never lift the score above 1 or below 0."""
    common = rng.gauss(0, 1)
    gains = {}
    for arm in seen.arms:
        z = math.sqrt(GAIN_CORRELATION) * common + math.sqrt(1 - GAIN_CORRELATION) * rng.gauss(0, 1)
        gains[arm.name] = min(1 - base, max(-base, shift(arm, z)))
    return gains


def _value(arm: SeenArm, seen: Seen, truth: Truth, *, failed: bool) -> float:
    """Net value against staying with the base, month by month."""
    gain, request, fixed = truth.gains[arm.name], truth.requests[arm.name], truth.fixed[arm.name]
    total = -fixed * (1 + arm.retrains + failed)
    for month in range(1, truth.months[arm.name] + 1):
        now = (1 + seen.discount_year) ** (-month / 12)
        better = seen.quality_usd * truth.gain_in_month(arm.name, month, gain)
        dearer = request - truth.base_request[month - 1]
        total += now * (truth.volume[month - 1] * (better - dearer) - arm.month_usd)
    return total


def _scores(rng: random.Random, seen: Seen, truth: Truth) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """Right and wrong answers of the base and of each arm's pilot, on the same items."""
    count = len(seen.base_scores)
    difficulty = _noise(rng, count, truth)
    base = _answers(rng, truth.base_quality, difficulty, truth)
    pilots = {}
    for arm in seen.arms:
        fidelity = max(0.0, rng.gauss(arm.pilot_fidelity, arm.pilot_fidelity_sd))
        quality = min(1.0, max(0.0, truth.base_quality + fidelity * truth.gains[arm.name]))
        pilots[arm.name] = _answers(rng, quality, difficulty, truth)
    return base, pilots


def _answers(rng: random.Random, quality: float, difficulty: list[float], truth: Truth) -> tuple[float, ...]:
    """Each item is right where its latent score, a standard normal, is below the quality's quantile."""
    own = _noise(rng, len(difficulty), truth)
    limit = NORMAL.inv_cdf(min(1 - 1e-9, max(1e-9, quality)))
    a, b = math.sqrt(ITEM_SHARE), math.sqrt(1 - ITEM_SHARE)
    return tuple(float(a * d + b * e < limit) for d, e in zip(difficulty, own, strict=True))


def _noise(rng: random.Random, count: int, truth: Truth) -> list[float]:
    """Standard normals; items of one cluster share a part of theirs."""
    share = truth.cluster_share
    if not share:
        return [rng.gauss(0, 1) for _ in range(count)]
    shared = [rng.gauss(0, 1) for _ in range(-(-count // truth.cluster))]
    return [
        math.sqrt(share) * shared[i // truth.cluster] + math.sqrt(1 - share) * rng.gauss(0, 1) for i in range(count)
    ]


# ── Kinds ────────────────────────────────────────────────────────────────────────────────────────


def _as_seen(_rng: random.Random, seen: Seen, _truth: Truth) -> Seen:
    return seen


def _optimistic(rng: random.Random, seen: Seen, truth: Truth) -> Seen:
    """Priors from success stories: gains are a fraction of what they promise, and projects cost more."""
    share = rng.uniform(-0.1, 0.8)
    truth.gains = _gains(
        rng, seen, truth.base_quality, shift=lambda arm, z: share * arm.gain_mean + 1.2 * arm.gain_sd * z
    )
    truth.fixed = {name: usd * rng.uniform(1.0, 2.0) for name, usd in truth.fixed.items()}
    return seen


def _correlated(rng: random.Random, seen: Seen, truth: Truth) -> Seen:
    """Items come in families that succeed and fail together, which the scores do not say."""
    truth.cluster, truth.cluster_share = rng.randint(5, 20), 0.6
    return seen


def _shutdowns(rng: random.Random, seen: Seen, truth: Truth) -> Seen:
    """Base models end within the horizon; of those without an announced date some end too."""
    arms = []
    for arm in seen.arms:
        if arm.name == "own" or rng.random() > 0.6:
            arms.append(arm)
            continue
        left = rng.randint(1, seen.horizon_months)
        truth.months[arm.name] = left
        arms.append(replace(arm, months_left=left if rng.random() < 0.85 else None))
    return replace(seen, arms=tuple(arms))


def _heavy_tails(rng: random.Random, seen: Seen, truth: Truth) -> Seen:
    """Rare great wins, rare great losses, and projects that cost several times their quote."""
    truth.gains = _gains(
        rng,
        seen,
        truth.base_quality,
        # Student's t with 2 degrees of freedom, scaled so that its middle half is about the normal's.
        shift=lambda arm, z: arm.gain_mean + 0.8 * arm.gain_sd * z / math.sqrt(rng.expovariate(1.0) + 1e-3),
    )
    truth.fixed = {name: usd * (0.7 * rng.paretovariate(2.0)) for name, usd in truth.fixed.items()}
    truth.requests = {name: usd * (0.8 + 0.1 * rng.paretovariate(1.5)) for name, usd in truth.requests.items()}
    return seen


def _volume_shocks(rng: random.Random, seen: Seen, truth: Truth) -> Seen:
    """Demand breaks away or multiplies at times that nobody foresees."""
    level = 1.0
    for month in range(seen.horizon_months):
        if rng.random() < 0.08:
            level *= rng.choice((0.1, 0.3, 0.5, 2.0, 4.0))
        truth.volume[month] *= level
    return seen


def _drift(rng: random.Random, seen: Seen, truth: Truth) -> Seen:
    """A better and cheaper base model appears: tuned arms keep their quality, the base catches up with it."""
    month = rng.randint(3, 15)
    better, cheaper = rng.uniform(0.01, 0.10), rng.uniform(0.5, 1.0)
    kept = {"prompt": 0.7}

    def gain_in_month(name: str, now: int, gain: float) -> float:
        return gain if now < month else gain - (1 - kept.get(name, 0.0)) * better

    truth.gain_in_month = gain_in_month
    for now in range(month - 1, seen.horizon_months):
        truth.base_request[now] *= cheaper
    return seen


_BENDS: dict[str, Callable[[random.Random, Seen, Truth], Seen]] = {
    "wellspecified": _as_seen,
    "smallvolume": _as_seen,
    "fewitems": _as_seen,
    "optimistic": _optimistic,
    "correlated": _correlated,
    "shutdowns": _shutdowns,
    "heavytails": _heavy_tails,
    "volumeshocks": _volume_shocks,
    "drift": _drift,
}


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _mean_one(rng: random.Random, relative_sd: float) -> float:
    """Lognormal with mean 1 and about this relative standard deviation."""
    variance = math.log(1 + relative_sd**2)
    return math.exp(rng.gauss(-variance / 2, math.sqrt(variance)))
