"""Gathering the rollouts of one step: prompts, completions, rewards, and other groups for those that teach nothing.

All of it is a pure function of (weights, seed, step): the order of fresh prompts is shuffled for each step by itself,
so a restart draws what an uninterrupted run would have drawn.

Legend: P prompts, G rollouts of each, B = P x G.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import PolicyGradient
from stepforge_jobs.engines.base import Engine, complete
from stepforge_jobs.evaluation.sampling import sample, seed_of
from stepforge_jobs.rl.advantages import has_spread
from stepforge_jobs.rl.dynamic_sampling import informative
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.stage import draw, shuffled

ROLLOUTS = 1
"""Tells the seeds of rollouts from other seeds of the same step."""

Problem = TypeVar("Problem")


@dataclass(frozen=True)
class Judged:
    """Rewards of B rollouts, prompt by prompt, and the components that are logged apart."""

    rewards: list[float]
    metrics: Values


JudgeFunction = Callable[[Sequence[Problem], Sequence[Sequence[int]]], Judged]


@dataclass(frozen=True)
class Pool(Generic[Problem]):
    """Problems with their prompts' tokens, of which every step takes `count`."""

    items: Sequence[tuple[list[int], Problem]]
    count: int
    seed: int
    runs: Sequence[Sequence[int]] | None = None
    """Places that are drawn side by side, all of them once; where None each item is by itself."""

    def batch(self, step: int) -> list[int]:
        """Places of a step's items: an endless sequence of shuffled passes over all."""
        return draw(range(len(self.items)), step, self.count, seed=self.seed, runs=self.runs)

    def fresh(self, step: int) -> Iterator[int]:
        """Places of all items that are not in the step's batch, in an order of this step's own."""
        drawn = set(self.batch(step))
        runs = self.runs or [[place] for place in range(len(self.items))]
        left = [kept for run in runs if (kept := [place for place in run if place not in drawn])]
        yield from shuffled(left, random.Random(f"{self.seed}:fresh:{step}"))


@dataclass(frozen=True)
class Gathered:
    """What one step learns from."""

    prompts: list[list[int]]
    """B, each prompt G times."""
    completions: list[list[int]]
    rewards_PG: Tensor
    sampled_logps: list[Tensor] | None
    """Of each completion's tokens as the engine that drew them says; None where our own sampler did."""
    metrics: Values
    """Of the prompts that were drawn first, so that they mean the same with dynamic sampling and without."""


def gather(
    policy: Policy,
    work: PolicyGradient,
    pools: Sequence[Pool[Problem]],
    step: int,
    *,
    judge: JudgeFunction[Problem],
    stops: Collection[int],
    engine: Engine | None = None,
) -> Gathered:
    """Sample and judge a step's groups; with dynamic sampling, refill from each pool what it lacks of informative ones.

    An engine that is given must be renewed, and samples in place of our own sampler. Fewer groups than asked for come
    back where `sampling_rounds` or the pool's problems are used up, maybe none.
    """
    group = work.group_size
    wanted = [(number, place) for number, pool in enumerate(pools) for place in pool.batch(step)]
    fresh = [pool.fresh(step) for pool in pools]
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    logps: list[Tensor] = []
    rewards: list[Tensor] = []
    metrics: Values = {}
    sampled = kept = rounds = 0
    while wanted and rounds < (work.sampling_rounds if work.dynamic_sampling else 1):
        drawn = [pools[number].items[place] for number, place in wanted]
        with clock().phase(Metric.SAMPLING_SECONDS):
            seed = seed_of(work.seed, step, ROLLOUTS, *([rounds] if rounds else []))
            found, found_logps = _draw(policy, work, [prompt for prompt, _ in drawn], seed, stops, engine)
        problems = [problem for _, problem in drawn for _ in range(group)]
        with clock().phase(Metric.REWARD_SECONDS):
            judged = ranks().same(partial(judge, problems, found))
        rewards_PG = torch.tensor(judged.rewards).view(len(drawn), group)
        informs_P = informative(rewards_PG, above=work.spread_above)
        if not rounds:
            metrics = _metrics(rewards_PG, found, judged)
        takes = informs_P.tolist() if work.dynamic_sampling else [True] * len(drawn)
        for place in (place for place, take in enumerate(takes) if take):
            prompts += [drawn[place][0]] * group
            rows = slice(place * group, (place + 1) * group)
            completions += found[rows]
            logps += found_logps[rows]
            rewards.append(rewards_PG[place])
        sampled, kept, rounds = sampled + len(drawn), kept + sum(takes), rounds + 1
        lacking = [number for (number, _), take in zip(wanted, takes, strict=True) if not take]
        wanted = [(number, item) for number in lacking for item in islice(fresh[number], 1)]
    if work.dynamic_sampling:
        metrics |= {Metric.KEPT_GROUPS: kept / sampled, Metric.SAMPLING_ROUNDS: rounds, Metric.BATCH_GROUPS: kept}
    stacked = torch.stack(rewards) if rewards else torch.zeros(0, group)
    return Gathered(
        prompts=prompts,
        completions=completions,
        rewards_PG=stacked,
        sampled_logps=None if engine is None else logps,
        metrics=metrics,
    )


def _draw(
    policy: Policy,
    work: PolicyGradient,
    prompts: list[list[int]],
    seed: int,
    stops: Collection[int],
    engine: Engine | None,
) -> tuple[list[list[int]], list[Tensor]]:
    """A group of completions of each prompt, with the log-probabilities of their tokens where an engine drew them."""
    asked: dict[str, Any] = {
        "count": work.group_size,
        "max_new_tokens": work.max_new_tokens,
        "temperature": work.temperature,
        "seed": seed,
        "stops": stops,
    }
    if engine is None:
        return sample(policy, prompts, **asked, share_prefixes=work.share_prefixes), []
    found = complete(engine, policy, prompts, **asked)
    return [completion.tokens for completion in found], [torch.tensor(completion.logps) for completion in found]


def _metrics(rewards_PG: Tensor, completions: Sequence[Sequence[int]], judged: Judged) -> Values:
    return {
        Metric.REWARD: float(rewards_PG.mean()),
        Metric.REWARD_STD: float(rewards_PG.std(1).mean()),
        Metric.ZERO_SPREAD: 1.0 - float(has_spread(rewards_PG).float().mean()),
        Metric.COMPLETION_TOKENS: sum(len(c) for c in completions) / len(completions),
        **judged.metrics,
    }


def sampling_choices(work: PolicyGradient) -> dict[str, Any]:
    """What run.json says of dynamic sampling."""
    if not work.dynamic_sampling:
        return {
            "dynamic_sampling": "none: groups without spread take no part, and a step of them alone changes nothing"
        }
    return {
        "dynamic_sampling": (
            f"groups whose rewards' population standard deviation exceeds {work.spread_above:g}; the others are "
            f"replaced by whole groups of fresh prompts, in at most {work.sampling_rounds} rounds; the gradient is the "
            "mean over the groups that were found"
        )
    }
