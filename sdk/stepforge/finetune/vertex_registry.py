"""Tuned models in Vertex's own Model Registry, and their endpoints, through google-cloud-aiplatform.

The registry there gets labels that say where a model comes from, so that who looks at it in Google's console finds our
launch. An endpoint is what a deployed model is charged for: it is emptied before it is deleted. The library's clients
are used without `aiplatform.init`, whose settings are the whole process's. Not used: versions and aliases, because a
tune is a model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stepforge.contracts.base import Contract
from stepforge.errors import InvalidInput, MissingExtra, ProviderRefused
from stepforge.finetune.keys import unlogged
from stepforge.finetune.vertex_calls import calling, root_of, straight

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

LONGEST_LABEL = 63


class RegisteredModel(Contract):
    """A model as Vertex's registry has it."""

    name: str
    version: str = ""
    display_name: str = ""
    labels: dict[str, str] = {}
    endpoints: tuple[str, ...] = ()
    """Where it is deployed."""


class VertexRegistry:
    """Models and endpoints of one project and location."""

    def __init__(
        self,
        *,
        location: str,
        credentials: Credentials,
        base_url: str | None = None,
        timeout_seconds: float = 60,
        target: str = "vertex",
    ) -> None:
        """Raises MissingExtra without google-cloud-aiplatform."""
        try:
            from google.cloud import aiplatform_v1
        except ImportError as error:
            raise MissingExtra(error.name or "google-cloud-aiplatform", extra="vertex") from error
        options: Any = {"api_endpoint": root_of(location, base_url)}
        given: Any = {"credentials": credentials, "transport": "rest", "client_options": options}
        self._models = straight(aiplatform_v1.ModelServiceClient(**given))
        self._endpoints = straight(aiplatform_v1.EndpointServiceClient(**given))
        self._types, self._target = aiplatform_v1, target
        # The library repeats what it may; a caller here does so itself, and knows how often.
        self._call: Any = {"timeout": timeout_seconds, "retry": None}

    def model(self, name: str) -> RegisteredModel:
        """Raises ProviderRefused where there is none."""
        found = self._asked("GetModel", self._models.get_model, name=name)
        return RegisteredModel(
            name=found.name,
            version=found.version_id,
            display_name=found.display_name,
            labels=dict(found.labels),
            endpoints=tuple(deployed.endpoint for deployed in found.deployed_models),
        )

    def label(self, name: str, labels: Mapping[str, str]) -> RegisteredModel:
        """Add labels to those that the model has. Raises InvalidInput for a value that is too long to be one."""
        if long := [key for key, value in labels.items() if len(value) > LONGEST_LABEL]:
            raise InvalidInput(f"label {long[0]!r} has more than {LONGEST_LABEL} characters: shorten it")
        merged = {**self.model(name).labels, **labels}
        model = self._types.Model(name=name.partition("@")[0], labels=merged)
        self._asked("UpdateModel", self._models.update_model, model=model, update_mask="labels")
        return self.model(name)

    def empty(self, endpoint: str) -> int:
        """Undeploy all that an endpoint holds, so that it can be deleted. How many there were; 0 where it is gone."""
        try:
            found = self._asked("GetEndpoint", self._endpoints.get_endpoint, name=endpoint)
        except ProviderRefused as refusal:
            if "404" in str(refusal):
                return 0
            raise
        for deployed in found.deployed_models:
            operation = self._asked(
                "UndeployModel", self._endpoints.undeploy_model, endpoint=endpoint, deployed_model_id=deployed.id
            )
            with unlogged():
                operation.result(timeout=self._call["timeout"])
        return len(found.deployed_models)

    def _asked(self, call: str, method: Any, **given: Any) -> Any:
        with calling(self._target, call, about_content=True):
            return method(**given, **self._call)
