"""What the steps of a promotion hand on to each other."""

from __future__ import annotations

from stepforge.contracts.base import Contract, Sha256
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.registry import GateVerdict, Promotion, PromotionStep
from stepforge.contracts.serving import Fleet


class Deployment(Contract):
    """A verified package, and the names of what serves it."""

    promotion: Promotion
    model: str
    config: str
    """What serves it: name of both the Model and, but for components, the EndpointConfig. They hold the same digest."""
    image: str
    artifact: ArtifactRef
    evaluation: ArtifactRef
    endpoint: str
    candidate: str
    previous_config: str | None = None
    """What the live endpoint or component goes back to; None where there is nothing. `look_live` has the last word."""
    fleet: Fleet
    poll_seconds: int
    external: bool = False
    """A provider has the weights and answers: nothing is deployed."""
    champion_gate: GateVerdict | None = None
    """What the champion gate said at the registration; None in executions of an older machine."""


class Golden(Contract):
    """What a model answered in its evaluation, greedily."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    max_new_tokens: int


class SmokeRequest(Contract):
    deployment: Deployment
    endpoint: str


class Stamp(Contract):
    promotion: Promotion
    result: PromotionStep
    reason: str


class SmokeResult(Contract):
    endpoint: str
    asked: int
    equal: int
    model_sha256: Sha256
