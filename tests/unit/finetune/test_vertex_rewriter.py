"""The zero-shot optimiser: what is sent is what Google's own client sends, and what is read is what it reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import pytest
from google.oauth2.credentials import Credentials

from stepforge.errors import ProviderRefused, ProviderUnavailable, Throttled
from stepforge.finetune.vertex_rewriter import ZeroShotOptimiser, suggested
from stepforge.testing.providers import LocalVertex
from stepforge.testing.providers._server import Request

PROMPT = 'Answer with a {number}.\n"Quietly", at 20 °C.'


class Watched(LocalVertex):
    """Keeps what came in."""

    bodies: list[Request]

    def fault_for(self, request: Request) -> None:
        self.bodies = [*getattr(self, "bodies", []), request]
        return super().fault_for(request)  # type: ignore[return-value]


@pytest.fixture
def server() -> Iterator[Watched]:
    with Watched(rewrite=lambda prompt: f"BETTER {prompt} {{}} ```", delay_seconds=0.02) as running:
        assert isinstance(running, Watched)
        yield running


def optimiser(server: LocalVertex) -> ZeroShotOptimiser:
    return ZeroShotOptimiser(
        project="demo", location="us-central1", credentials=Credentials(token="ya29.test"), base_url=server.url
    )


def test_google_s_own_client_sends_and_reads_the_same(server: Watched) -> None:
    from google.genai.types import HttpOptions

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself experimental
        from agentplatform import Client

        client = Client(
            project="demo",
            location="us-central1",
            credentials=Credentials(token="ya29.test"),
            http_options=HttpOptions(base_url=server.url),
        )
        theirs = client.prompts.optimize(prompt=PROMPT).parsed_response.suggested_prompt
    assert optimiser(server).rewrite(PROMPT) == theirs == f"BETTER {PROMPT} {{}} ```"
    one, other = server.bodies
    assert (one.method, one.path, one.query, one.json()) == (other.method, other.path, other.query, other.json())
    assert one.headers["authorization"] == other.headers["authorization"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("throttled", Throttled),
        ("error", ProviderUnavailable),
        ("lost", ProviderUnavailable),
        ("wrong_schema", ProviderUnavailable),
        ("echo", ProviderRefused),
    ],
)
def test_it_is_sent_once_and_its_faults_are_told_without_the_prompt(server: Watched, fault: str, kind: type) -> None:
    server.plan = lambda _: fault  # type: ignore[assignment,return-value]
    with pytest.raises(kind) as refusal:
        optimiser(server).rewrite(PROMPT)
    assert len(server.seen) == 1
    assert "Quietly" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "no JSON", "{}", "[1]", '{"suggested_prompt": ""}', '{"suggested_prompt": 3}', '{"new": "x"}']
)
def test_an_answer_without_a_prompt_is_none(text: str) -> None:
    assert suggested([{"content": {"parts": [{"text": text}]}}]) == ""
    assert suggested(json.loads("{}")) == ""
