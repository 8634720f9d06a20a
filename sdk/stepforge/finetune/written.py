"""A metered model whose every call is written down: replayed where it was answered, and never paid for twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from stepforge.contracts.base import canonical_json, digest
from stepforge.errors import ProviderUnavailable, StepforgeError
from stepforge.finetune.anthropic import LOST_SECONDS, Asked, Paused
from stepforge.finetune.folders import Folder
from stepforge.finetune.job import Completion, Message
from stepforge.finetune.keys import unreadable
from stepforge.finetune.prompts import Meter


class Metered(Protocol):
    """A model that asks its meter before each call, and books each."""

    meter: Meter
    local: bool

    def most_input(self, messages: Sequence[Message]) -> int: ...

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion: ...


class Written:
    """The model of one look: what was answered before is read, and what is asked is written down below `prefix`."""

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
        """Raises Paused where the look is over or another asks the same, OverBudget where it could cost too much."""
        most = self._model.most_input(messages)
        request = digest([message.model_dump() for message in messages])
        self._times[request] += 1
        # The same question twice is two calls: the n-th of one look is the n-th of another.
        name = f"{self._prefix}/{request[:32]}-{self._times[request]}.json"
        raw = self._folder.read(name)
        try:
            before = Asked(at=0, sent=0, most_input=most) if raw is None else Asked.model_validate_json(raw)
        except ValueError:  # which quotes what it was given
            raise unreadable(self._folder.name, name, Asked) from None
        before.book(self.meter, max_tokens)
        if before.answer is not None:
            return before.answer
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
        except StepforgeError:  # it was refused, and so not charged
            self._folder.write(name, canonical_json(before))
            raise
        self._folder.write(name, canonical_json(asked.model_copy(update={"answer": answer})))
        return answer
