"""A prompt is optimised with the real gepa, and never for more money than there is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from stepforge.errors import InvalidInput, OverBudget
from stepforge.finetune import Message
from stepforge.finetune.claude import AnthropicModel
from stepforge.finetune.metering import Meter, TokenPrices
from stepforge.finetune.prompts import Example, Optimised, Search, optimise
from stepforge.finetune.searches.gepa import Gepa
from stepforge.testing.providers import LocalAnthropic

PRICES = TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5))
EXAMPLES = [Example(prompt=f"{n} plus one", reference=str(n + 1)) for n in range(6)]


def answer(system: str, messages: list[dict[str, Any]]) -> str:
    """A model that adds only where its prompt says so, and that proposes such a prompt when asked for one."""
    text = str(messages[-1]["content"])
    if "plus one" in text and len(text) < 20:
        return str(int(text.split()[0]) + 1) if "ADD" in system else "no idea"
    return "```\nADD the numbers.\n```"


def metric(example: Example, text: str) -> float:
    return float(text.endswith(f" {example.reference}"))


def model(server: Any, budget: str) -> AnthropicModel:
    meter = Meter(PRICES, budget_usd=Decimal(budget))
    return AnthropicModel(SecretStr("sk-test"), "claude-test", meter, base_url=server.url)


def search(model: AnthropicModel, search: Search, *, max_tokens: int = 512) -> Optimised:
    return optimise(model, "Be kind.", EXAMPLES[:3], EXAMPLES[3:], metric=metric, search=search, max_tokens=max_tokens)


def test_a_better_prompt_is_found_and_every_call_is_metered() -> None:
    with LocalAnthropic(answer=answer) as server:
        assert isinstance(server, LocalAnthropic)
        found = search(model(server, "10"), Gepa(max_metric_calls=30))
        used = server.usage
        calls = server.calls("POST", "/v1/messages")
    assert (found.seed_score, found.score, found.local_fake, found.stopped_by_budget) == (0.0, 1.0, True, False)
    assert "ADD" in found.prompt
    assert found.calls == calls
    assert found.spent_usd == (used["input_tokens"] + 5 * used["output_tokens"]) / Decimal(1_000_000)


@pytest.mark.parametrize("budget", ["0.03", "0.05"])
def test_the_money_is_never_exceeded_and_what_was_found_is_kept(budget: str) -> None:
    with LocalAnthropic(answer=answer) as server:
        found = search(model(server, budget), Gepa(max_metric_calls=10_000), max_tokens=5000)
    assert found.stopped_by_budget
    assert found.spent_usd <= Decimal(budget)
    assert found.score >= found.seed_score


def test_a_call_that_may_cost_too_much_is_not_sent() -> None:
    with LocalAnthropic() as server:
        with pytest.raises(OverBudget, match="not sent"):
            model(server, "0.00001").ask([Message(role="user", content="hi")], max_tokens=100)
        assert server.seen == []
        with pytest.raises(InvalidInput, match="examples"):
            optimise(model(server, "1"), "p", [], EXAMPLES, metric=metric, search=Gepa())
