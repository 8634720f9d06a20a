"""What the stages that learn from their own rollouts share: sampling, judging, and a KL that is watched or held.

Legend: P prompts, G rollouts of each, B = P x G.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any, Generic

from torch import Tensor

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import PolicyGradient
from stepforge.errors import InvalidInput
from stepforge_jobs.engines.base import Engine, renewed
from stepforge_jobs.rl.importance import importance
from stepforge_jobs.rl.welford import Moments
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.distance import as_reference
from stepforge_jobs.training.gathering import Gathered, JudgeFunction, Pool, Problem, gather
from stepforge_jobs.training.hard import Hard
from stepforge_jobs.training.held import Held
from stepforge_jobs.training.loop import Stage, Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.sharing import Sharing
from stepforge_jobs.training.stage import Probe, Start

FAR = 0.05
"""Nats a token from vLLM to the network, above which it is said once. Rounding to bfloat16 makes some thousandths; no
source states a bound, so this one is ours, and so is the next."""
MANY = 0.05
"""Share of weights over their cap."""
SAMPLING = "sampling"
SAMPLER = (
    "{name}, with the step's weights; the gradient of each token times min(p of the network / p of vLLM, {cap:g}), by "
    "{weigh}; evaluations and probes by our own sampler"
)


class RolloutStage(Stage, Generic[Problem]):
    """Each step takes problems from every pool; `judge` gets each problem's rollouts in their order.

    `hard` are problems that the base fails: where KL is held, it is reported on them too. `engine` samples the rollouts
    where `work` has vllm.
    """

    probe: Probe
    shared: tuple[str, ...] = (SAMPLING, "the log-probabilities of the reference and of the policy that sampled")
    """Where prefixes may be shared."""

    def __init__(
        self,
        start: Start,
        work: PolicyGradient,
        *,
        pools: Sequence[Pool[Problem]],
        judge: JudgeFunction[Problem],
        stops: Collection[int],
        hard: Sequence[tuple[list[int], Problem]] = (),
        engine: Engine | None = None,
    ) -> None:
        if (work.beta or work.kl) and start.reference is None:
            raise InvalidInput(
                "beta > 0 and kl need a model to stay close to; a stage that starts from scratch has none: "
                "set beta to 0 and leave kl out"
            )
        self.policy, self.work = start.policy, work
        self._reference = start.reference
        self._pools, self._judge, self._stops = pools, judge, stops
        self.engine = engine
        assert (engine is None) == (work.vllm is None)
        self._warn, self._told = start.warn, False
        self.updates = work.updates_per_batch
        self.probe = Probe(start, seed=work.seed)
        self.sharing = Sharing(wanted=work.share_prefixes, say=start.say)
        self.rewards = Moments()
        """Of all rewards so far, for those that are normalised by them."""
        self.held: Held | None = None
        self.hard: Hard[Problem] | None = None
        if work.kl is not None:
            assert start.reference is not None
            rollouts = work.batch_prompts * work.group_size
            self.held = Held(work.kl, start, self.probe, seed=work.seed, rollouts=rollouts)
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
        """Weight of the KL penalty on this step's rollouts."""
        return self.held.beta if self.held is not None and self.held.on_rollouts else self.work.beta

    @property
    def reference(self) -> Policy:
        """The stage's initial policy, where there is one."""
        assert self._reference is not None
        return self._reference

    def roll_out(self, step: int, sampler: Policy | None = None) -> Gathered:
        """Draw, sample from the policy (or from another, with its adapters off), judge; maybe no group at all."""
        given: dict[str, Any] = {"judge": self._judge, "stops": self._stops, "engine": self.engine}
        with as_reference(sampler) if sampler else nullcontext(), renewed(self.engine, self.policy):
            gathered = gather(sampler or self.policy, self.work, self._pools, step, **given)
        if self.held is not None:
            with clock().phase(Metric.REFERENCE_SECONDS):
                gathered.metrics.update(self.held.before_step(step))
        return gathered

    def old_logps(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of the policy that sampled them, each completion's tokens."""
        return self._logps(self.policy, prompts, completions)

    def importance(self, old: Sequence[Tensor], engine: Sequence[Tensor] | None) -> tuple[list[Tensor] | None, Values]:
        """Weights of an engine's tokens in the gradient, and what they say of it; none where our own sampler drew."""
        if engine is None or not engine:
            return None, {}
        vllm = self.work.vllm
        assert vllm is not None
        found = importance([row.cpu() for row in old], engine, cap=vllm.cap, weigh=vllm.weigh)
        if not self._told and (found.kl > FAR or found.capped > MANY):
            self._told = True
            self._warn(
                f"vLLM samples from another distribution than the network learns in: KL {found.kl:.3g} nats a token, "
                f"{100 * found.capped:.3g} % of weights over the cap {vllm.cap:g}, the largest {found.largest:.3g}; "
                "the gradient is weighed, but noisy: look whether vLLM supports this model, or leave vllm out"
            )
        metrics: Values = {
            Metric.SAMPLER_KL: found.kl,
            Metric.IMPORTANCE: found.mean,
            Metric.IMPORTANCE_LARGEST: found.largest,
            Metric.IMPORTANCE_CAPPED: found.capped,
        }
        return found.weights, metrics

    def reference_logps(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of the stage's initial policy."""
        with as_reference(self.reference):
            return self._logps(self.reference, prompts, completions)

    def _logps(
        self, policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        given = policy.network, prompts, completions
        with clock().phase(Metric.REFERENCE_SECONDS):
            return self.sharing.logps(*given, temperature=self.work.temperature, device=self.policy.device)

    def after_probe(self, values: Values) -> bool:
        if self.held is None:
            return True
        stays = self.held.after_probe(values)
        self.learning_rate_scale = self.held.learning_rate_scale
        if stays and self.hard is not None:
            values |= self.hard()
        return stays

    def state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"rewards": self.rewards.state_dict()}
        if self.held is not None:
            found |= {"held": self.held.state_dict(), "base": self.hard and self.hard.base}
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rewards = Moments.from_state(state["rewards"])
        if self.held is not None:
            self.held.load_state_dict(state["held"])
            self.learning_rate_scale = self.held.learning_rate_scale
        if self.hard is not None and state["base"]:
            self.hard.base = tuple(state["base"])

    @property
    def choices(self) -> dict[str, Any]:
        """What this run decided, for the stage's report."""
        shared = [where for where in self.shared if where != SAMPLING or self.engine is None]
        found: dict[str, Any] = {**self.probe.choices, "prefixes": self.sharing.choice(*shared)}
        if self.engine is not None and (vllm := self.work.vllm) is not None:
            found["sampler"] = SAMPLER.format(name=self.engine.name, weigh=vllm.weigh, cap=vllm.cap)
        if self.held is not None:
            found |= self.held.choices
        if self.hard is not None and self.hard.base is not None:
            found["kl_hard_bound"] = "ln(1 / p_base), p_base {} of {} completions".format(*self.hard.base)
        return found

    def _accepted(self, problems: Sequence[Problem], completions: Sequence[Sequence[int]]) -> int:
        judged = ranks().same(lambda: self._judge(problems, completions))
        return round(judged.metrics[Metric.ACCEPTED] * len(completions))
