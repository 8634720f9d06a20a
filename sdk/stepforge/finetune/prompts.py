"""A better prompt in the place of new weights: what there is for models that cannot be tuned, as Claude today.

An optimiser proposes prompts, and everything that it asks goes through a `Task`: each call is metered, because an
optimiser may overrun its own budget, and what counts is how a prompt does on the validation examples, whoever proposed
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Protocol

from stepforge.contracts.base import Contract
from stepforge.errors import InvalidInput, OverBudget, StepforgeError
from stepforge.finetune.job import Message
from stepforge.finetune.metering import Metered


class Optimised(Contract):
    """A prompt and how it did. `seed_score` and `score` are means over the same validation examples."""

    prompt: str
    optimiser: str = ""
    """Which one searched, by its name in a spec; empty for a search of the caller's own."""
    seed_score: float
    score: float
    candidates: int
    """Prompts beside the first that were scored on all validation examples."""
    spent_usd: Decimal
    calls: int
    stopped_by_budget: bool
    local_fake: bool
    note: str = ""
    """Why the optimiser ended before its time, where it was not the budget."""

    @property
    def words(self) -> str:
        why = "; the budget was used up" * self.stopped_by_budget + (self.note and f"; {self.note}")
        return f"{self.optimiser}: {self.seed_score:.2f} to {self.score:.2f}, {self.candidates} tried beside it{why}"


class Example(Contract):
    """One problem and what a right answer is compared with."""

    prompt: str
    reference: str


Metric = Callable[[Example, str], float]
"""0 to 1 for an answer: a verifier, say."""


class Task:
    """What an optimiser works on, and the only way to the model that it has.

    After an error of the model every further question raises it again: libraries pass over errors and go on, which
    would be another search than the one that is replayed later.
    """

    def __init__(
        self,
        model: Metered,
        seed_prompt: str,
        training: Sequence[Example],
        validation: Sequence[Example],
        *,
        metric: Metric,
        max_tokens: int,
    ) -> None:
        self.seed_prompt, self.training, self.validation = seed_prompt, tuple(training), tuple(validation)
        self.ended: StepforgeError | None = None
        self.note = ""
        self._model, self._metric, self._max_tokens = model, metric, max_tokens
        self._validated: dict[str, float] = {}

    def ask(self, system: str | None, text: str) -> str:
        """What the model says. Raises OverBudget, and whatever the model raises."""
        if self.ended is not None:
            raise self.ended
        asked = [] if system is None else [Message(role="system", content=system)]
        try:
            return self._model.ask([*asked, Message(role="user", content=text)], max_tokens=self._max_tokens).text
        except StepforgeError as error:
            self.ended = error
            raise

    def run(self, prompt: str, examples: Sequence[Example]) -> list[tuple[str, float]]:
        """Answer and score of each example under a prompt."""
        answers = [self.ask(prompt, example.prompt) for example in examples]
        scored = [(text, self._metric(e, text)) for e, text in zip(examples, answers, strict=True)]
        if tuple(examples) == self.validation:
            self._validated.setdefault(prompt, sum(score for _, score in scored) / len(scored))
        return scored

    def validate(self, prompt: str) -> float:
        """The mean score of a prompt on the validation examples, which are asked once."""
        if prompt not in self._validated:
            self.run(prompt, self.validation)
        return self._validated[prompt]

    @property
    def candidates(self) -> int:
        return len(self._validated) - 1

    @property
    def best(self) -> tuple[str, float]:
        """Of the prompts that were scored on all validation examples; the first of equals, the seed before all."""
        return max(self._validated.items(), key=lambda pair: pair[1])


class Search(Protocol):
    """An optimiser: it runs and validates what prompts it likes, the same ones whenever the model says the same."""

    def __call__(self, task: Task) -> None: ...


def optimise(
    model: Metered,
    seed_prompt: str,
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    metric: Metric,
    search: Search,
    max_tokens: int = 512,
) -> Optimised:
    """Search for a better system prompt, within the meter's budget.

    Raises InvalidInput without examples, OverBudget where not even the seed prompt could be scored, MissingExtra
    without the optimiser's package.
    """
    if not training or not validation:
        raise InvalidInput("training and validation examples are needed, at least one of each")
    task = Task(model, seed_prompt, training, validation, metric=metric, max_tokens=max_tokens)
    seed_score = task.validate(seed_prompt)
    try:
        search(task)
    except OverBudget as error:
        task.ended = task.ended or error
    except Exception:
        if task.ended is None:
            raise
    if task.ended is not None and not isinstance(task.ended, OverBudget):
        raise task.ended
    prompt, score = task.best
    return Optimised(
        prompt=prompt,
        seed_score=seed_score,
        score=score,
        candidates=task.candidates,
        spent_usd=model.meter.spent_usd,
        calls=model.meter.calls,
        stopped_by_budget=task.ended is not None,
        local_fake=model.local,
        note=task.note,
    )
