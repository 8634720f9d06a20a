"""What an engine is that samples rollouts in place of our own network, and what its answers are held to.

An engine has a copy of the policy's weights, which `renew` makes the present ones, and says how likely each token was
that it drew: the gradient needs both (rl/importance.py). `evaluation.sampling.sample` is our own sampler; evaluations,
probes and endpoints ask it always.

Legend: P prompts, G completions of each, B = P x G.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from stepforge.contracts.metrics import Metric
from stepforge.errors import Diverged, InvalidInput, SamplerFailed
from stepforge_jobs.evaluation.sampling import seed_of
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks

ROUNDING = 1e-3
"""How far above 0 a log-probability may be."""


@dataclass(frozen=True)
class Request:
    """One completion that is asked for."""

    prompt: Sequence[int]
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Completion:
    tokens: list[int]
    """Up to and with the stop token, if one was drawn."""
    logps: list[float]
    """Of each token in the distribution that it was drawn from, the temperature included."""


class Engine(Protocol):
    """Samples with a copy of the weights. One engine a rank, for that rank's rows."""

    @property
    def name(self) -> str:
        """What it is, with its version, for the stage's report."""
        ...

    def renew(self, policy: Policy) -> None:
        """Take the policy's present weights, adapters merged, and the memory that sampling needs."""
        ...

    def generate(self, requests: Sequence[Request], *, temperature: float, stops: Collection[int]) -> list[Completion]:
        """A completion of each request, in their order."""
        ...

    def rest(self) -> None:
        """Give the memory back until the next `renew`."""
        ...


@contextmanager
def renewed(engine: Engine | None, policy: Policy) -> Iterator[None]:
    """Hold the engine, if there is one, ready to sample as the policy would now."""
    if engine is None:
        yield
        return
    with clock().phase(Metric.RENEWAL_SECONDS):
        engine.renew(policy)
    yield
    with clock().phase(Metric.RENEWAL_SECONDS):
        engine.rest()


def complete(
    engine: Engine,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    count: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stops: Collection[int],
) -> list[Completion]:
    """`count` completions of each prompt, prompt by prompt: of each rank's own prompts by its engine, told to all.

    Each completion has a seed of its own. Raises InvalidInput for a prompt that leaves no room, Diverged where weights
    are no numbers, SamplerFailed for answers that no engine may give.
    """
    longest = max(map(len, prompts), default=0)
    if longest >= policy.context:
        raise InvalidInput(f"a prompt of {longest} tokens leaves no room in the model's context of {policy.context}")
    own = range(*ranks().own(len(prompts)).indices(len(prompts)))
    requests = [
        Request(
            prompts[place], min(max_new_tokens, policy.context - len(prompts[place])), seed_of(seed, place, rollout)
        )
        for place in own
        for rollout in range(count)
    ]
    found = engine.generate(requests, temperature=temperature, stops=stops) if requests else []
    check(requests, found, stops=stops, vocabulary=policy.network.config.get_text_config().vocab_size)
    return ranks().gather(found)


def check(requests: Sequence[Request], found: Sequence[Completion], *, stops: Collection[int], vocabulary: int) -> None:
    """Raises SamplerFailed where an answer is none to its request, Diverged where a log-probability is no number."""
    if len(found) != len(requests):
        raise SamplerFailed(f"the engine gave {len(found)} completions of {len(requests)} that were asked for")
    for number, (request, completion) in enumerate(zip(requests, found, strict=True)):
        if wrong := _fault(request, completion, frozenset(stops), vocabulary):
            raise SamplerFailed(f"the engine's completion {number + 1} of {len(found)} {wrong}")
        bad = next((logp for logp in completion.logps if not math.isfinite(logp)), None)
        if bad is not None:
            raise Diverged(
                f"the engine's completion {number + 1} of {len(found)} has a token of log-probability {bad}: the "
                "weights that it was given have left the numbers. Train with a lower learning_rate, or start from "
                "another model"
            )


def _fault(request: Request, completion: Completion, stops: frozenset[int], vocabulary: int) -> str | None:
    tokens, logps = completion.tokens, completion.logps
    if not 0 < len(tokens) <= request.max_new_tokens:
        return f"has {len(tokens)} tokens, where 1 to {request.max_new_tokens} were asked for"
    if len(logps) != len(tokens):
        return f"has {len(tokens)} tokens and {len(logps)} log-probabilities"
    if strange := [token for token in tokens if not 0 <= token < vocabulary]:
        return f"has token {strange[0]}, and the model knows 0 to {vocabulary - 1}"
    if any(token in stops for token in tokens[:-1]):
        return "goes on after a stop token"
    if tokens[-1] not in stops and len(tokens) < request.max_new_tokens:
        return f"ends after {len(tokens)} of {request.max_new_tokens} tokens without a stop token"
    if above := [logp for logp in logps if logp > ROUNDING]:
        return f"has a token of log-probability {above[0]:g}, which is above 0"
    return None
