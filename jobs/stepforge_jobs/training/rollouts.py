"""What the stages that learn from their own rollouts share: sampling, judging, and a KL that is watched or held.

Not covered: sampling again in place of groups without spread.

Legend: P prompts, G rollouts of each, B = P x G.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stepforge.contracts.jobs import PolicyGradient
from stepforge.contracts.metrics import Metric
from stepforge.errors import InvalidInput
from stepforge_jobs.evaluation.sampling import sample, seed_of
from stepforge_jobs.rl.advantages import has_spread
from stepforge_jobs.training.hard import Hard
from stepforge_jobs.training.held import Held
from stepforge_jobs.training.loop import Stage, Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.scoring import logps_of
from stepforge_jobs.training.stage import Probe, Start, as_reference

ROLLOUTS = 1
"""Tells the seeds of rollouts from other seeds of the same step."""

Problem = TypeVar("Problem")


@dataclass(frozen=True)
class Judged:
    """Rewards of B rollouts, prompt by prompt, and the components that are logged apart."""

    rewards: list[float]
    metrics: Values


@dataclass(frozen=True)
class Rollouts:
    """One step's, prompt by prompt."""

    prompts: list[list[int]]
    completions: list[list[int]]
    rewards_PG: Tensor
    metrics: Values


class RolloutStage(Stage, Generic[Problem]):
    """`draw` gives a step's problems with their prompts' tokens; `judge` gets each problem's rollouts in that order.

    `hard` are problems that the base fails: where KL is held, it is reported on them too.
    """

    probe: Probe

    def __init__(
        self,
        start: Start,
        work: PolicyGradient,
        *,
        draw: Callable[[int], list[tuple[list[int], Problem]]],
        judge: Callable[[Sequence[Problem], Sequence[Sequence[int]]], Judged],
        stops: Collection[int],
        hard: Sequence[tuple[list[int], Problem]] = (),
    ) -> None:
        if (work.beta or work.kl) and start.reference is None:
            raise InvalidInput(
                "beta > 0 and kl need a model to stay close to; a stage that starts from scratch has none: "
                "set beta to 0 and leave kl out"
            )
        self.policy, self.work = start.policy, work
        self._reference = start.reference
        self._draw, self._judge, self._stops = draw, judge, stops
        self.updates = work.updates_per_batch
        self.probe = Probe(start, seed=work.seed)
        self.held: Held | None = None
        self.hard: Hard[Problem] | None = None
        if work.kl is not None:
            assert start.reference is not None
            rollouts = work.batch_prompts * work.group_size
            self.held = Held(work.kl, self.probe, beta=work.beta, rollouts=rollouts)
            self.guarded = work.kl.guard
            if hard:
                self.hard = Hard(
                    start.policy,
                    start.reference,
                    hard,
                    accepted=self._accepted,
                    seed=work.seed,
                    max_new_tokens=work.max_new_tokens,
                    stops=stops,
                )

    @property
    def beta(self) -> float:
        """Weight of the KL penalty in this step."""
        return self.work.beta if self.held is None else self.held.beta

    @property
    def reference(self) -> Policy:
        """The stage's initial policy, where there is one."""
        assert self._reference is not None
        return self._reference

    def roll_out(self, step: int, sampler: Policy | None = None) -> Rollouts:
        """Draw, sample from the policy (or from another, whose adapters are off), judge."""
        work = self.work
        drawn = self._draw(step)
        completions = sample(
            sampler or self.policy,
            [prompt for prompt, _ in drawn],
            count=work.group_size,
            max_new_tokens=work.max_new_tokens,
            temperature=work.temperature,
            seed=seed_of(work.seed, step, ROLLOUTS),
            stops=self._stops,
        )
        problems = [problem for _, problem in drawn for _ in range(work.group_size)]
        judged = ranks().same(lambda: self._judge(problems, completions))
        rewards_PG = torch.tensor(judged.rewards).view(len(drawn), work.group_size)
        metrics: Values = {
            Metric.REWARD: float(rewards_PG.mean()),
            Metric.REWARD_STD: float(rewards_PG.std(1).mean()),
            Metric.ZERO_SPREAD: 1.0 - float(has_spread(rewards_PG).float().mean()),
            Metric.COMPLETION_TOKENS: sum(len(c) for c in completions) / len(completions),
            **judged.metrics,
        }
        if self.held is not None:
            metrics |= self.held.before_step(step)
        prompts = [prompt for prompt, _ in drawn for _ in range(work.group_size)]
        return Rollouts(prompts, completions, rewards_PG, metrics)

    def old_logps(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of the policy that sampled them, each completion's tokens."""
        return logps_of(
            self.policy.network, prompts, completions, temperature=self.work.temperature, device=self.policy.device
        )

    def reference_logps(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of the stage's initial policy."""
        with as_reference(self.reference):
            return logps_of(
                self.reference.network,
                prompts,
                completions,
                temperature=self.work.temperature,
                device=self.policy.device,
            )

    def after_probe(self, values: Values) -> bool:
        if self.held is None:
            return True
        stays = self.held.after_probe(values)
        self.learning_rate_scale = self.held.learning_rate_scale
        if stays and self.hard is not None:
            values |= self.hard()
        return stays

    def state_dict(self) -> dict[str, Any]:
        if self.held is None:
            return {}
        return {"held": self.held.state_dict(), "base": self.hard and self.hard.base}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.held is not None:
            self.held.load_state_dict(state["held"])
            self.learning_rate_scale = self.held.learning_rate_scale
        if self.hard is not None and state["base"]:
            self.hard.base = tuple(state["base"])

    @property
    def choices(self) -> dict[str, Any]:
        """What this run decided, for the stage's report."""
        found: dict[str, Any] = {"kl_prompts": self.probe.prompts_of}
        if self.held is not None:
            found |= self.held.choices
        if self.hard is not None and self.hard.base is not None:
            found["kl_hard_bound"] = "ln(1 / p_base), p_base {} of {} completions".format(*self.hard.base)
        return found

    def _accepted(self, problems: Sequence[Problem], completions: Sequence[Sequence[int]]) -> int:
        judged = ranks().same(lambda: self._judge(problems, completions))
        return round(judged.metrics[Metric.ACCEPTED] * len(completions))
