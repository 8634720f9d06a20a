"""KL that is held: the controller and the guard of rl/kl_control.py, between a probe and a stage.

Before each step one completion of each of the probe's prompts steers beta, and takes its gradient where the penalty is
on these; at each evaluation the whole probe decides whether the weights stay. All state that outlives a step is in
`state_dict`, and each measurement has the seed of its step, so a restart finds the same beta.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import KlControl
from stepforge_jobs.evaluation.sampling import seed_of
from stepforge_jobs.rl import kl_control
from stepforge_jobs.rl.kl_control import Control, Guarded
from stepforge_jobs.training.distance import kl_of
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.stage import Probe, Start

SMALL = 2
"""Tells the seeds of these completions from other seeds of the same step."""


class Held:
    """Of one stage. `beta` is its penalty's weight now, `learning_rate_scale` what refusals have left of the rate."""

    def __init__(self, config: KlControl, start: Start, probe: Probe, *, seed: int, rollouts: int) -> None:
        assert start.reference is not None
        self._config, self._probe, self._seed, self._rollouts = config, probe, seed, rollouts
        self._policy, self._reference = start.policy, start.reference
        self._control = kl_control.begin(config)
        self._guarded = Guarded()
        self._measured: tuple[list[list[int]], list[list[int]]] = ([], [])

    @property
    def beta(self) -> float:
        return self._control.beta

    @property
    def on_rollouts(self) -> bool:
        """Whether beta weighs the penalty on the batch's rollouts."""
        return self._config.penalise == "rollouts"

    @property
    def learning_rate_scale(self) -> float:
        return self._guarded.learning_rate_scale

    def before_step(self, step: int) -> Values:
        """Measure and steer; what the step's metrics say of it."""
        self._measured = self._probe.completions(1, seed=seed_of(self._seed, step, SMALL))
        kl = kl_of(self._policy, self._reference, *self._measured).per_token
        self._control = kl_control.update(self._config, self._control, kl, rollouts=self._rollouts)
        return {Metric.BETA: self.beta, Metric.KL_AVERAGE: self._control.average or 0.0}

    def add_gradient(self) -> None:
        """Add that of beta x the exact KL on what was measured, unless the rollouts carry the penalty."""
        if not self.on_rollouts:
            kl_of(self._policy, self._reference, *self._measured, weight=self.beta)

    def after_probe(self, values: Values) -> bool:
        """Whether the weights of this KL may stay; where not, `values` tells the KL of those that come back."""
        kl = values[Metric.KL]
        if not self._config.guard:
            self._guarded = replace(self._guarded, kl=kl)
            return True
        stays, self._guarded, self._control = kl_control.judge(self._config, self._guarded, self._control, kl)
        if not stays:
            values[Metric.KL], values[Metric.KL_REFUSED] = self._guarded.kl, kl
        return stays

    def state_dict(self) -> dict[str, Any]:
        return {"control": self._control.state_dict(), "guarded": self._guarded.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._control, self._guarded = Control(**state["control"]), Guarded(**state["guarded"])

    @property
    def choices(self) -> dict[str, Any]:
        """For the stage's report."""
        return {
            "kl_control": f"{self._config.controller}, towards {self._config.target:g} of {self._config.cap:g} nats, "
            f"penalty on {self._config.penalise}",
            "kl_refused_evaluations": self._guarded.refused,
            "learning_rate_scale": self.learning_rate_scale,
        }
