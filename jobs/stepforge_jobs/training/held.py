"""KL that is held: the controller and the guard of rl/kl_control.py, between a probe and a stage.

Before each step a small probe steers beta; at each evaluation the whole probe decides whether the weights stay. All
state is in `state_dict`, and each measurement has the seed of its step, so a restart finds the same beta.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepforge.contracts.jobs import KlControl
from stepforge.contracts.metrics import Metric
from stepforge_jobs.rl import kl_control
from stepforge_jobs.rl.kl_control import Control, Guarded
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.stage import Probe


class Held:
    """Of one stage. `beta` is its penalty's weight now, `learning_rate_scale` what refusals have left of the rate."""

    def __init__(self, config: KlControl, probe: Probe, *, beta: float, rollouts: int) -> None:
        self._config, self._probe, self._rollouts = config, probe, rollouts
        self._control = kl_control.begin(config, beta)
        self._guarded = Guarded()

    @property
    def beta(self) -> float:
        return self._control.beta

    @property
    def learning_rate_scale(self) -> float:
        return self._guarded.learning_rate_scale

    def before_step(self, step: int) -> Values:
        """Measure and steer, where it is time to; what the step's metrics say of it."""
        if step and step % self._config.every == 0:
            kl = self._probe.small(step)
            rollouts = self._rollouts * self._config.every
            self._control = kl_control.update(self._config, self._control, kl, rollouts=rollouts)
        return {Metric.BETA: self.beta, Metric.KL_AVERAGE: self._control.average or 0.0}

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
            "kl_control": f"{self._config.controller}, towards {self._config.target:g} of {self._config.cap:g} nats",
            "kl_refused_evaluations": self._guarded.refused,
            "learning_rate_scale": self.learning_rate_scale,
        }
