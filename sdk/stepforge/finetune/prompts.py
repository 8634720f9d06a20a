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
from stepforge.errors import InvalidInput, OverBudget, ProviderRefused, StepforgeError
from stepforge.finetune.job import Message
from stepforge.finetune.metering import Metered

MOST_REFUSED = 5
"""New prompts in a row whose calls are refused, after which the refusals are not the prompts' fault."""
REFUSED = "[no answer: the request was refused]"


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
    refused: int = 0
    """Prompts beside the first of which a call was refused: they scored 0 there."""

    @property
    def words(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        why = "; the budget was used up" * self.stopped_by_budget + (self.note and f"; {self.note}")
        tried = f"{self.candidates} tried beside it{refused}"
        return f"{self.optimiser}: {self.seed_score:.2f} to {self.score:.2f}, {tried}{why}"


class Example(Contract):
    """One problem and what a right answer is compared with."""

    prompt: str
    reference: str


Metric = Callable[[Example, str], float]
"""0 to 1 for an answer: a verifier, say."""


class Task:
    """What an optimiser works on, and the only way to the model that it has.

    After an error of the model, or of the metric, every further question raises it again: libraries pass over errors
    and go on, which would be another search than the one that is replayed later. A prompt whose calls are refused (too
    long, say) scores 0 where it is run, and the search goes on; not so the first prompt of all, and not after
    `MOST_REFUSED` new ones in a row.
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
        self.ended: Exception | None = None
        self.judged = True
        """False once the metric raised."""
        self.note = ""
        self._model, self._metric, self._max_tokens = model, metric, max_tokens
        self._validated: dict[str, float] = {}
        self._answered: set[str] = set()
        self._refused: set[str] = set()
        self._refused_in_a_row: set[str] = set()

    def ask(self, system: str | None, text: str) -> str:
        """What the model says. Raises OverBudget, and whatever the model raises."""
        if self.ended is not None:
            raise self.ended
        try:
            return self._said(system, text)
        except StepforgeError as error:
            self.ended = error
            raise

    def run(self, prompt: str, examples: Sequence[Example]) -> list[tuple[str, float]]:
        """Answer and score of each example under a prompt; `REFUSED` and 0 for all where one call was refused."""
        if self.ended is not None:
            raise self.ended
        try:
            answers = [self._said(prompt, example.prompt) for example in examples]
        except StepforgeError as error:
            if not self._is_of_the_prompt(error, prompt):
                self.ended = error
                raise
            scored = [(REFUSED, 0.0) for _ in examples]
        else:
            if prompt not in self._answered:  # the prompt that it was made from is asked between two of the row
                self._answered.add(prompt)
                self._refused_in_a_row.clear()
            scored = [(text, self._judge(e, text)) for e, text in zip(examples, answers, strict=True)]
        if tuple(examples) == self.validation:
            self._validated.setdefault(prompt, sum(score for _, score in scored) / len(scored))
        return scored

    def _judge(self, example: Example, text: str) -> float:
        try:
            return self._metric(example, text)
        except Exception as error:  # kept, because libraries score 0 and go on
            self.ended, self.judged = error, False
            raise

    def _said(self, system: str | None, text: str) -> str:
        asked = [] if system is None else [Message(role="system", content=system)]
        return self._model.ask([*asked, Message(role="user", content=text)], max_tokens=self._max_tokens).text

    def _is_of_the_prompt(self, error: StepforgeError, prompt: str) -> bool:
        """Whether it counts against this prompt alone. Before the first was scored, it is the plan that is refused."""
        if not (isinstance(error, ProviderRefused) and error.of_this_question and self._validated):
            return False
        self._refused.add(prompt)
        self._refused_in_a_row.add(prompt)
        if len(self._refused_in_a_row) < MOST_REFUSED:
            return True
        self.note = f"ended early: {MOST_REFUSED} prompts in a row were refused, the last with status {error.status}"
        return False

    def validate(self, prompt: str) -> float:
        """The mean score of a prompt on the validation examples, which are asked once."""
        if prompt not in self._validated:
            self.run(prompt, self.validation)
        return self._validated[prompt]

    @property
    def candidates(self) -> int:
        return len(self._validated) - 1

    def was_refused(self, prompt: str) -> bool:
        """Whether a call under this prompt was refused: its 0 is no score to go on from."""
        return prompt in self._refused

    @property
    def refused(self) -> int:
        return len(self._refused - {self.seed_prompt})

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

    A refusal, a verifier that cannot judge, and a budget that is used up, end it with the best prompt so far and the
    reason. Raises InvalidInput without examples, OverBudget where not even the seed prompt could be scored,
    ProviderRefused and what the metric raises where nothing better was found before it, MissingExtra without the
    optimiser's package, and what a later try may get over (ProviderUnavailable, Throttled).
    """
    if not training or not validation:
        raise InvalidInput("training and validation examples are needed, at least one of each")
    task = Task(model, seed_prompt, training, validation, metric=metric, max_tokens=max_tokens)
    seed_score = task.validate(seed_prompt)
    try:
        search(task)
    except (OverBudget, ProviderRefused, InvalidInput) as error:
        task.ended = task.ended or error
    except Exception:
        if task.ended is None:
            raise
    prompt, score = task.best
    if task.ended is not None and not isinstance(task.ended, OverBudget):
        if score <= seed_score or not isinstance(task.ended, (ProviderRefused, InvalidInput)):
            raise task.ended
        task.note = task.note or (_why(task.ended) if task.judged else "ended early: an answer could not be judged")
    return Optimised(
        prompt=prompt,
        seed_score=seed_score,
        score=score,
        candidates=task.candidates,
        spent_usd=model.meter.spent_usd,
        calls=model.meter.calls,
        stopped_by_budget=isinstance(task.ended, OverBudget),
        local_fake=model.local,
        note=task.note,
        refused=task.refused,
    )


def _why(error: ProviderRefused | InvalidInput) -> str:
    """In our words: a vendor's may repeat prompts."""
    if isinstance(error, InvalidInput):
        return "ended early: the optimiser's service takes no such prompt"
    remedy = {401: ": check the key", 402: ": the account has no credit", 403: ": check what the key may do"}
    return f"ended early: a call was refused with status {error.status}{remedy.get(error.status or 0, '')}"
