"""The zero-shot optimiser: what is sent is what Google's own client sends, and what is read is what it reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from decimal import Decimal

import pytest
from google.oauth2.credentials import Credentials
from pydantic import ValidationError

from stepforge.errors import InvalidInput, OverBudget, ProviderRefused, ProviderUnavailable, Throttled
from stepforge.finetune import Message
from stepforge.finetune.metering import Meter, TokenPrices
from stepforge.finetune.optimisers import VertexOptimiser
from stepforge.finetune.searches.vertex import VertexRewriter, suggested
from stepforge.finetune.settings import AnthropicSettings
from stepforge.testing.providers import LocalVertex
from stepforge.testing.providers._server import Request
from tests.unit.finetune.test_anthropic import plan

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


def rewriter(server: LocalVertex, budget_usd: str = "1") -> VertexRewriter:
    meter = Meter(TokenPrices(input_usd=Decimal(10), output_usd=Decimal(10)), budget_usd=Decimal(budget_usd))
    place = {"project": "demo", "location": "us-central1", "base_url": server.url}
    return VertexRewriter(meter, **place, credentials=Credentials(token="ya29.test"))


def rewrite(rewriter: VertexRewriter) -> str:
    return rewriter.ask([Message(role="user", content=PROMPT)], max_tokens=100).text


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
    assert rewrite(rewriter(server)) == theirs == f"BETTER {PROMPT} {{}} ```"
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
    made = rewriter(server)
    with pytest.raises(kind) as refusal:
        rewrite(made)
    assert len(server.seen) == 1
    # A lost answer may have been charged; what was refused was not.
    assert (made.meter.spent_usd > 0) == (kind is ProviderUnavailable)
    assert "Quietly" not in str(refusal.value)


def test_the_most_that_both_prompts_can_be_is_booked_and_what_may_cost_more_is_not_sent(server: Watched) -> None:
    made = rewriter(server)
    found = rewrite(made)
    sizes = [len(text.encode()) for text in (PROMPT, found)]
    least, most = (sum(sizes) / each * 10 / 1_000_000 for each in (6, 1))
    assert least < made.meter.spent_usd <= most
    assert made.meter.calls == 1
    server.seen.clear()
    with pytest.raises(OverBudget, match="not sent"):
        rewrite(rewriter(server, "0.0005"))
    assert server.seen == []


@pytest.mark.parametrize(
    "text", ["", "no JSON", "{}", "[1]", '{"suggested_prompt": ""}', '{"suggested_prompt": 3}', '{"new": "x"}']
)
def test_an_answer_without_a_prompt_is_none(text: str) -> None:
    assert suggested([{"content": {"parts": [{"text": text}]}}]) == ""
    assert suggested(json.loads("{}")) == ""


def test_the_plan_s_price_and_credentials_are_asked_for_with_what_to_do() -> None:
    given = {"type": "vertex", "project": "demo", "location": "us-central1", "as_of": "2026-11-01", "source": "a bill"}
    with pytest.raises(ValidationError, match="give token_usd"):
        VertexOptimiser.model_validate(given)
    with pytest.raises(ValidationError, match="local server"):
        VertexOptimiser.model_validate({**given, "token_usd": 1, "base_url": "https://example.com"})
    settings = plan({**given, "token_usd": 1}, folder_uri="s3://bucket/finetune").provider
    assert isinstance(settings, AnthropicSettings)
    for secret, refused in ((None, True), ("stepforge/dev/finetune/vertex", False)):
        optimiser = VertexOptimiser.model_validate({**given, "token_usd": 1, "credentials_secret": secret})
        if refused:
            with pytest.raises(InvalidInput, match="credentials_secret"):
                settings.check_machine(optimiser)
        else:
            settings.check_machine(optimiser)
