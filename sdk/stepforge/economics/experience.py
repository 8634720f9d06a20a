"""What was expected of each method, what came of it, and the priors that follow. A small JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError

from stepforge.contracts.base import Contract, first_problem
from stepforge.contracts.decisions import Gain, Method, Outcome
from stepforge.errors import InvalidInput


class Observation(Contract):
    """One measured gain, and the standard deviation of its measurement."""

    gain: Annotated[float, Field(ge=-1, le=1)]
    sd: Annotated[float, Field(ge=0, le=1)] = 0.0


class MethodPrior(Contract):
    """How gains of one method spread, and how much that rests on."""

    mean: Annotated[float, Field(ge=-1, le=1)]
    sd: Annotated[float, Field(gt=0, le=1)]
    """Of the gains themselves, not of their mean."""
    weight: Annotated[float, Field(gt=0)]
    """Observations that this counts as."""
    source: str

    def gain(self) -> Gain:
        """What the next gain may be: wider while little has been seen."""
        return Gain(mean=self.mean, sd=min(1.0, self.sd * math.sqrt(1 + 1 / self.weight)))


JUDGEMENT = "judgement before any measurement: no published survey covers it"
DEFAULT_PRIORS: dict[Method, MethodPrior] = {
    "prompt": MethodPrior(mean=0.03, sd=0.03, weight=2, source=JUDGEMENT),
    "sft": MethodPrior(mean=0.06, sd=0.06, weight=2, source=JUDGEMENT),
    "dpo": MethodPrior(mean=0.04, sd=0.06, weight=2, source=JUDGEMENT),
    "rft": MethodPrior(mean=0.07, sd=0.08, weight=2, source=JUDGEMENT),
    "distillation": MethodPrior(mean=0.05, sd=0.06, weight=2, source=JUDGEMENT),
    "managed": MethodPrior(mean=0.06, sd=0.06, weight=2, source=JUDGEMENT),
    "own": MethodPrior(mean=0.08, sd=0.09, weight=2, source=JUDGEMENT),
}


def learn(prior: MethodPrior, observations: Sequence[Observation]) -> MethodPrior:
    """The prior after these observations: the conjugate update of a normal whose mean and variance are unknown.

    A noisy observation counts as the share of one that its signal is: sd^2 / (sd^2 + its variance). None changes
    nothing.
    Gelman et al., Bayesian Data Analysis, section 3.3.
    """
    weights = [prior.sd**2 / (prior.sd**2 + seen.sd**2) for seen in observations]
    count = sum(weights)
    if not count:
        return prior
    mean = sum(w * seen.gain for w, seen in zip(weights, observations, strict=True)) / count
    scatter = sum(w * (seen.gain - mean) ** 2 for w, seen in zip(weights, observations, strict=True))
    # What the measurements themselves scatter is no spread of the gains.
    scatter = max(0.0, scatter - sum(w * seen.sd**2 for w, seen in zip(weights, observations, strict=True)))
    total = prior.weight + count
    between = prior.weight * count / total * (mean - prior.mean) ** 2
    variance = (prior.weight * prior.sd**2 + scatter + between) / total
    return MethodPrior(
        mean=(prior.weight * prior.mean + count * mean) / total,
        sd=min(1.0, max(1e-3, math.sqrt(variance))),
        weight=total,
        source=f"{prior.source}; {len(observations)} measured",
    )


class Experience(Contract):
    """Outcomes so far, and where the priors began.

    >>> experience = Experience()
    >>> experience.prior("sft").mean
    0.06
    """

    version: int = 1
    starts: dict[Method, MethodPrior] = DEFAULT_PRIORS
    outcomes: tuple[Outcome, ...] = ()

    def prior(self, method: Method) -> Gain:
        """What is believed of the next gain of this method."""
        return self.learned(method).gain()

    def learned(self, method: Method) -> MethodPrior:
        start = self.starts.get(method, DEFAULT_PRIORS[method])
        seen = [
            Observation(gain=outcome.measured_gain.mean, sd=outcome.measured_gain_sd)
            for outcome in self.outcomes
            if outcome.method == method and not outcome.local_fake
        ]
        return learn(start, seen)

    def adding(self, outcome: Outcome) -> Self:
        """With one outcome more. The same arm of the same question is replaced, so that telling twice counts once."""
        key = (outcome.question_sha256, outcome.arm)
        kept = [one for one in self.outcomes if (one.question_sha256, one.arm) != key]
        return self.model_copy(update={"outcomes": (*kept, outcome)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a file holds, or a new one where there is none. Raises InvalidInput for a file that is no ledger."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InvalidInput(f"{str(path)!r} holds no outcomes: {first_problem(error)}") from error

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n")
        part.replace(path)
