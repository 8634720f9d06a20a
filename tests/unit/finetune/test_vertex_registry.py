"""google-cloud-aiplatform's clients against the local server: labels of lineage, and endpoints that are emptied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from stepforge.finetune import Provider, Tuned
from stepforge.finetune.provider import Labels
from stepforge.finetune.vertex import VertexProvider
from stepforge.testing.providers import LocalVertex
from tests.unit.finetune.conftest import Clock
from tests.unit.finetune.test_providers import start, vertex_case


@pytest.fixture
def tuned(tmp_path: Path, clock: Clock) -> Iterator[tuple[LocalVertex, VertexProvider, Tuned]]:
    with LocalVertex(delay_seconds=0.02) as server:
        assert isinstance(server, LocalVertex)
        case = vertex_case(server, tmp_path)
        job = start(case, clock).entry.job_id
        for _ in range(3):
            case.provider.status(job)
        assert isinstance(case.provider, VertexProvider)
        yield server, case.provider, case.provider.retrieve(job)


def test_a_model_says_where_it_comes_from_and_keeps_what_it_said(
    tuned: tuple[LocalVertex, VertexProvider, Tuned],
) -> None:
    _, provider, model = tuned
    assert isinstance(provider, Labels)
    assert isinstance(provider, Provider)
    provider.label(model, {"stepforge-key": "sf-1"})
    provider.label(model, {"stepforge-version": "3"})
    found = provider.registry.model(model.model)
    assert found.labels == {"stepforge-key": "sf-1", "stepforge-version": "3"}
    assert (found.version, found.endpoints) == ("1", (model.handle,))
    with pytest.raises(InvalidInput, match="63"):
        provider.label(model, {"long": "x" * 64})


def test_an_endpoint_is_emptied_before_it_is_deleted(tuned: tuple[LocalVertex, VertexProvider, Tuned]) -> None:
    server, provider, model = tuned
    assert server.endpoints[model.handle] != []
    for _ in range(2):
        provider.delete(model)
    assert (server.endpoints, server.models) == ({}, {})
    assert provider.registry.empty(model.handle) == 0


def test_faults_are_told_as_everywhere(tuned: tuple[LocalVertex, VertexProvider, Tuned]) -> None:
    server, provider, model = tuned
    with pytest.raises(ProviderRefused, match="404"):
        provider.registry.model(f"{model.model.rpartition('/')[0]}/none")
    server.plan = lambda _: "error"
    with pytest.raises(ProviderUnavailable, match="500"):
        provider.registry.model(model.model)


def test_a_function_without_the_large_client_registers_without_labels(caplog: pytest.LogCaptureFixture) -> None:
    from stepforge.errors import MissingExtra
    from stepforge.finetune import Tuned
    from stepforge.finetune.flow import label

    class Without:
        asked = 0

        def label(self, tuned: Tuned, labels: dict[str, str]) -> None:
            self.asked += 1
            raise MissingExtra("google-cloud-aiplatform", extra="vertex")

    provider = Without()
    label(provider, Tuned(provider="vertex", job_id="j", model="m", handle="e"), {"a": "b"})  # type: ignore[arg-type]
    assert provider.asked == 1
    assert "not labelled" in caplog.text
