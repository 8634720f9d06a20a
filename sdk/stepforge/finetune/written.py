"""A metered model whose every call is written down: replayed where it was answered, and never paid for twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from stepforge.contracts.base import Contract, canonical_json, digest
from stepforge.errors import ProviderRefused, ProviderUnavailable, StepforgeError
from stepforge.finetune.folders import Folder
from stepforge.finetune.job import Completion, Message
from stepforge.finetune.keys import unreadable
from stepforge.finetune.metering import Meter, Metered, most_input

LOST_SECONDS = 900.0
"""After which a call that has no answer is nobody's: longer than a client waits for one."""


class Paused(StepforgeError):
    """The time of this look is used up; the next goes on."""


class Asked(Contract):
    """One call of the model, as it is written down."""

    at: float
    """When it was sent; 0 where nobody waits for an answer."""
    sent: int
    """How many times, where it may have been charged."""
    most_input: int
    most_output: int
    answer: Completion | None = None
    refused: int | None = None
    """HTTP's status, where this question is refused whenever it is asked. A refusal costs nothing."""

    def book(self, meter: Meter) -> None:
        for _ in range(self.sent - (self.answer is not None)):
            meter.book(self.most_input, self.most_output)
        if self.answer is not None:
            meter.book(self.answer.input_tokens, self.answer.output_tokens)


class Written:
    """The model of one look: what was answered before is read, and what is asked is written below `prefix`."""

    def __init__(
        self,
        model: Metered,
        folder: Folder,
        prefix: str,
        *,
        until: float,
        clock: Callable[[], float],
        stopped: Callable[[], bool],
    ) -> None:
        self._model, self._folder, self._prefix = model, folder, prefix
        self._until, self._clock, self._stopped = until, clock, stopped
        self.meter, self.local = model.meter, model.local
        self._times: Counter[str] = Counter()

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """Raises Paused where the look is over or another asks the same, OverBudget where it could cost too much,
        and what the model raises: a refusal of this very question again in each look, without asking."""
        most = most_input(messages)
        request = digest([message.model_dump() for message in messages])
        self._times[request] += 1
        # The same question twice is two calls: the n-th of one look is the n-th of another.
        name = f"{self._prefix}/{request[:32]}-{self._times[request]}.json"
        raw = self._folder.read(name)
        fresh = Asked(at=0, sent=0, most_input=most, most_output=max_tokens)
        try:
            before = fresh if raw is None else Asked.model_validate_json(raw)
        except ValueError:  # which quotes what it was given
            raise unreadable(self._folder.name, name, Asked) from None
        before.book(self.meter)
        if before.answer is not None:
            return before.answer
        if before.refused is not None:
            raise ProviderRefused(f"refused with status {before.refused}, in an earlier look", status=before.refused)
        if self._clock() - before.at < LOST_SECONDS:
            raise Paused("another look is asking this")
        if self._clock() >= self._until or self._stopped():
            raise Paused("the time of this look is used up")
        self.meter.room(most, max_tokens)
        asked = before.model_copy(update={"at": self._clock(), "sent": before.sent + 1})
        if raw is not None:
            self._folder.write(name, canonical_json(asked))
        elif not self._folder.write_once(name, canonical_json(asked)):
            raise Paused("another look is asking this")
        try:
            answer = self._model.ask(messages, max_tokens=max_tokens)
        except ProviderUnavailable:
            self._folder.write(name, canonical_json(asked.model_copy(update={"at": 0.0})))
            raise
        except StepforgeError as error:  # it was not done, and so not charged
            # A search goes on after the refusal of one question, so the next look has to come by here as this one did.
            told = error.status if isinstance(error, ProviderRefused) and error.of_this_question else None
            self._folder.write(name, canonical_json(before.model_copy(update={"refused": told})))
            raise
        self._folder.write(name, canonical_json(asked.model_copy(update={"answer": answer})))
        return answer


def book_written(folder: Folder, prefix: str, meter: Meter) -> None:
    """What the calls below a prefix have cost, by what is written down."""
    for name in folder.names(f"{prefix}/"):
        raw = folder.read(name)
        assert raw is not None
        Asked.model_validate_json(raw).book(meter)
