"""A better prompt in the place of new weights: what there is for models that cannot be tuned, as Claude today.

gepa proposes prompts and we meter every call: the optimiser may overrun its own budget, so the meter refuses a call
that could cost more than is left, before it is sent. Needs the extra `anthropic` (client) and `prompts` (gepa).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Annotated, Any, cast

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.errors import InvalidInput, MissingExtra, OverBudget
from stepforge.finetune.job import Completion, Message
from stepforge.finetune.keys import Key, failure, is_loopback, reveal, unlogged, unreadable

MILLION = Decimal(1_000_000)
SLACK_TOKENS = 32
"""For roles and ends of messages, in the most that a call may cost."""


class TokenPrices(Contract):
    """US dollars for a million tokens."""

    input_usd: Annotated[Decimal, Field(gt=0)]
    output_usd: Annotated[Decimal, Field(gt=0)]


class Meter:
    """Counts what calls cost, and refuses the one that could exceed the budget.

    >>> meter = Meter(TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5)), budget_usd=Decimal("0.01"))
    >>> meter.book(1000, 200)
    >>> meter.spent_usd
    Decimal('0.002')
    """

    def __init__(self, prices: TokenPrices, *, budget_usd: Decimal) -> None:
        self.prices, self.budget_usd = prices, budget_usd
        self.spent_usd = Decimal(0)
        self.calls = 0

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        return (self.prices.input_usd * input_tokens + self.prices.output_usd * output_tokens) / MILLION

    def room(self, most_input_tokens: int, most_output_tokens: int) -> None:
        """Raises OverBudget where a call of this size might not be paid for."""
        most = self.cost(most_input_tokens, most_output_tokens)
        if self.spent_usd + most > self.budget_usd:
            raise OverBudget(
                f"the next call may cost {most:.4f} USD after {self.spent_usd:.4f}, but the budget is "
                f"{self.budget_usd} USD: it was not sent"
            )

    def book(self, input_tokens: int, output_tokens: int) -> None:
        self.calls += 1
        self.spent_usd += self.cost(input_tokens, output_tokens)


class AnthropicModel:
    """One Claude model, metered."""

    def __init__(
        self, api_key: Key, model: str, meter: Meter, *, base_url: str | None = None, timeout_seconds: float = 60
    ) -> None:
        """Raises MissingExtra without the package `anthropic`."""
        try:
            import anthropic
        except ImportError as error:
            raise MissingExtra("anthropic", extra="anthropic") from error
        self._sdk, self._key = anthropic, reveal(api_key, what="the API key")
        # A repeated call is charged again, and the meter would not see it.
        self._client = anthropic.Anthropic(
            api_key=self._key,
            base_url=base_url,
            timeout=timeout_seconds,
            max_retries=0,
            # Prompts go to the address that was given, and to none that it names.
            http_client=anthropic.DefaultHttpxClient(follow_redirects=False),
        )
        self.model, self.meter, self.local = model, meter, is_loopback(base_url)
        self.target = f"anthropic:{model}"

    @staticmethod
    def most_input(messages: Sequence[Message]) -> int:
        """Tokens that these can be at most: a token is at least a byte."""
        return sum(len(m.content.encode()) for m in messages) + SLACK_TOKENS * len(messages)

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """One call. Raises OverBudget before it, where it might exceed the budget.

        A call whose answer was lost is booked at the most that it can have cost.
        """
        system = "\n".join(m.content for m in messages if m.role == "system")
        turns = [{"role": m.role, "content": m.content} for m in messages if m.role != "system"]
        most = self.most_input(messages)
        self.meter.room(most, max_tokens)
        with self._calling(most, max_tokens):
            answer = self._client.messages.create(
                model=self.model,
                max_tokens=max_tokens,
                messages=turns,  # type: ignore[arg-type]
                system=system or self._sdk.omit,
            )
            usage, blocks = answer.usage, answer.content
            text = "".join(block.text for block in blocks if block.type == "text")
            tokens = usage.input_tokens, usage.output_tokens
        self.meter.book(*tokens)
        return Completion(text=text, model=answer.model, input_tokens=tokens[0], output_tokens=tokens[1])

    @contextmanager
    def _calling(self, most_input: int, most_output: int) -> Iterator[None]:
        try:
            with unlogged():
                yield
        except self._sdk.APIStatusError as error:
            if error.status_code >= 500:
                self.meter.book(most_input, most_output)
            body = error.body if isinstance(error.body, dict) else {}
            code = str((body.get("error") or {}).get("type") or "")
            raise failure(
                self.target, "messages", status=error.status_code, code=code, secrets=[self._key], about_content=True
            ) from None
        except self._sdk.APIConnectionError as error:
            self.meter.book(most_input, most_output)
            raise failure(self.target, "messages", status=None, code=type(error).__name__) from None
        except (self._sdk.APIError, TypeError, AttributeError) as error:
            self.meter.book(most_input, most_output)
            raise unreadable(self.target, "messages", type(error)) from None


class Optimised(Contract):
    """A prompt and how it did. `seed_score` and `score` are means over the same validation examples."""

    prompt: str
    seed_score: float
    score: float
    spent_usd: Decimal
    calls: int
    stopped_by_budget: bool
    local_fake: bool


class Example(Contract):
    """One problem and what a right answer is compared with."""

    prompt: str
    reference: str


Metric = Callable[[Example, str], float]
"""0 to 1 for an answer: a verifier, say."""


def optimise(
    model: AnthropicModel,
    seed_prompt: str,
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    metric: Metric,
    max_metric_calls: int = 200,
    max_tokens: int = 512,
    seed: int = 0,
) -> Optimised:
    """Search for a better system prompt with gepa, within the meter's budget.

    Raises MissingExtra without gepa, InvalidInput without examples, OverBudget where not even the seed prompt could be
    scored.
    """
    try:
        import gepa
    except ImportError as error:
        raise MissingExtra("gepa", extra="prompts") from error
    if not training or not validation:
        raise InvalidInput("training and validation examples are needed, at least one of each")
    adapter = _Adapter(model, metric, max_tokens)
    seed_score = adapter.mean(seed_prompt, validation)
    best = {"prompt": seed_prompt}
    score, stopped = seed_score, False
    try:
        # gepa's generics leave an adapter's types open; ours are examples and answers.
        found: Any = gepa.optimize(
            seed_candidate=best,
            trainset=list(training),
            valset=list(validation),
            adapter=cast(Any, adapter),
            reflection_lm=lambda prompt: adapter.reflect(prompt),
            max_metric_calls=max_metric_calls,
            reflection_minibatch_size=min(3, len(training)),
            display_progress_bar=False,
            raise_on_exception=True,
            seed=seed,
            logger=_Silent(),
        )
        best, score = found.best_candidate, float(found.val_aggregate_scores[found.best_idx])
    except OverBudget:
        stopped = True
        best, score = adapter.best(len(validation), {"prompt": seed_prompt}, seed_score)
    return Optimised(
        prompt=best["prompt"],
        seed_score=seed_score,
        score=score,
        spent_usd=model.meter.spent_usd,
        calls=model.meter.calls,
        stopped_by_budget=stopped,
        local_fake=model.local,
    )


class _Silent:
    """gepa prints prompts and answers."""

    def log(self, message: str) -> None: ...


class _Adapter:
    """gepa's adapter: a candidate is a system prompt, a score the metric's."""

    propose_new_texts = None

    def __init__(self, model: AnthropicModel, metric: Metric, max_tokens: int) -> None:
        self._model, self._metric, self._max_tokens = model, metric, max_tokens
        self._scored: list[tuple[dict[str, str], list[float]]] = []

    def _answer(self, prompt: str, example: Example) -> str:
        asked = [Message(role="system", content=prompt), Message(role="user", content=example.prompt)]
        return self._model.ask(asked, max_tokens=self._max_tokens).text

    def mean(self, prompt: str, examples: Sequence[Example]) -> float:
        return sum(self._metric(e, self._answer(prompt, e)) for e in examples) / len(examples)

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        outputs = [self._answer(candidate["prompt"], example) for example in batch]
        scores = [self._metric(example, output) for example, output in zip(batch, outputs, strict=True)]
        self._scored.append((candidate, scores))
        pairs = list(zip(batch, outputs, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=outputs, scores=scores, trajectories=pairs)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        rows = [
            {"Inputs": example.prompt, "Generated Outputs": output, "Feedback": _feedback(example, score)}
            for (example, output), score in zip(eval_batch.trajectories, eval_batch.scores, strict=True)
        ]
        return dict.fromkeys(components_to_update, rows)

    def reflect(self, prompt: str | list[dict[str, Any]]) -> str:
        text = prompt if isinstance(prompt, str) else "\n".join(str(turn["content"]) for turn in prompt)
        return self._model.ask([Message(role="user", content=text)], max_tokens=self._max_tokens).text

    def best(self, size: int, seed: dict[str, str], seed_score: float) -> tuple[dict[str, str], float]:
        """The best of those that were scored on the whole validation set before the money ran out."""
        whole = [(sum(scores) / size, candidate) for candidate, scores in self._scored if len(scores) == size]
        score, candidate = max(whole, key=lambda pair: pair[0], default=(seed_score, seed))
        return (candidate, score) if score > seed_score else (seed, seed_score)


def _feedback(example: Example, score: float) -> str:
    return "right" if score >= 1 else f"scored {score:.2f}; a right answer is: {example.reference}"
