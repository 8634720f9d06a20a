"""What a verifier says about one completion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepforge.contracts.base import Contract

Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class RuleResult(Contract):
    """One rule's word on one artifact."""

    rule: str
    score: Unit
    hard: bool
    """A hard rule below 1 refuses the artifact whatever the others say."""
    path: str = ""
    """Where in the artifact the rule looked, such as `blendshapes.jawOpen`."""
    message: str = ""


class Verdict(Contract):
    """Reward = product of the hard rules x weighted mean of the soft ones; `accepted` = every hard rule holds.

    `partial` is the mean over all rules' scores: the partial-credit control of an experiment, never the reward
    that a model is promoted on.
    """

    accepted: bool
    reward: Unit
    partial: Unit
    rules: tuple[RuleResult, ...] = ()
    reason: str = ""
    """Why the completion could not be read at all, where that is so; then every score is 0."""

    @property
    def refusal(self) -> str:
        """Every hard rule that fails, with its message, or why nothing could be read; empty where accepted."""
        failed = [f"{rule.rule}: {rule.message}".rstrip(": ") for rule in self.rules if rule.hard and rule.score < 1]
        return "" if self.accepted else self.reason or "; ".join(failed) or "refused without a reason"
