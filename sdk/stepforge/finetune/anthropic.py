"""Claude as a provider of paid tunes: what is made is a better prompt, since no weights can be tuned.

Nobody runs the search for us, so a job is a folder (in S3, or on this machine) and goes on while somebody looks at it:
`status` searches for some time. Each call of the model is written down before it is sent and again with its answer. A
look replays what was answered, so that it goes on where the last one stopped, after a crash too, and no answer is paid
for twice. A call whose answer was lost is booked at the most that it can have cost.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

from stepforge.contracts.base import Contract, canonical_json, digest
from stepforge.contracts.records import Record
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput, OverBudget, ProviderRefused, ProviderUnavailable, StepforgeError
from stepforge.finetune import job as jobs
from stepforge.finetune.folders import Folder
from stepforge.finetune.job import FAKE_MARK, Completion, Estimate, Job, Message, Prepared, State, Tuned
from stepforge.finetune.judging import Judge
from stepforge.finetune.keys import Key
from stepforge.finetune.prompts import AnthropicModel, Example, Meter, Optimised, TokenPrices, optimise
from stepforge.finetune.spec import ProviderName, TuneSpec
from stepforge.finetune.uploads import checked_bytes

SEED_PROMPT = "Solve the problem."
TRAINING_SHARE = 2 / 3
"""Of the examples; by the others candidates are scored."""
LOST_SECONDS = 900.0
"""After which a call that has no answer is nobody's: longer than a client waits for one."""
_JOB, _RESULT, _FAILED = "job.json", "result.json", "failed.json"
_CANCELLED, _DELETED = "cancelled.json", "deleted.json"


class Paused(StepforgeError):
    """The time of this look is used up; the next goes on."""


class Asked(Contract):
    """One call of the model, as it is written down."""

    at: float
    """When it was sent; 0 where nobody waits for an answer."""
    sent: int
    """How many times, where it may have been charged."""
    most_input: int
    answer: Completion | None = None

    def book(self, meter: Meter, max_tokens: int) -> None:
        for _ in range(self.sent - (self.answer is not None)):
            meter.book(self.most_input, max_tokens)
        if self.answer is not None:
            meter.book(self.answer.input_tokens, self.answer.output_tokens)


class PromptJob(Contract):
    """What a job was launched with."""

    key: str
    spec: TuneSpec
    data: str
    budget_usd: Decimal
    prices: TokenPrices
    max_metric_calls: int
    max_tokens: int
    verifier: str | None


class AnthropicProvider:
    """Prompt optimisation with one account of Anthropic; jobs lie in `folder`."""

    name: ProviderName = "anthropic"
    remembers_seconds = 0.0
    """A job is written once, and read back as it was written."""

    def __init__(
        self,
        api_key: Key,
        folder: Folder,
        *,
        prices: TokenPrices,
        budget_usd: Decimal,
        base_url: str | None = None,
        max_metric_calls: int = 200,
        max_tokens: int = 512,
        verifier: str | None = None,
        look_seconds: float = 600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`verifier` is a user's own, in the place of the domain's; `look_seconds` is how long a look searches."""
        self._api_key, self._folder, self._base_url = api_key, folder, base_url
        self._prices, self._budget = prices, budget_usd
        self._max_metric_calls, self._max_tokens, self._verifier = max_metric_calls, max_tokens, verifier
        self._look_seconds, self._clock = look_seconds, clock
        self.local = AnthropicModel(api_key, "none", self._unmetered(), base_url=base_url).local
        self.target = f"anthropic:{base_url or 'https://api.anthropic.com'}:{folder.name}"

    def validate(self, spec: TuneSpec) -> None:
        if spec.method != "prompt" or spec.training.format != "prompt":
            raise InvalidInput(
                f"method {spec.method!r}: no Claude can be tuned, but its prompt can be made better: give 'prompt'"
            )
        if spec.training.rows < 3:
            raise InvalidInput(f"{spec.training.rows} records are too few to search a prompt with: give 3 or more")

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        """At most the budget, which no call goes beyond."""
        if price.kind != "training_job" or price.usd != self._budget:
            raise InvalidInput(f"a search costs its budget_usd ({self._budget}) at most: leave [price] out")
        return jobs.estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        name = f"data/{spec.training.filename}"
        self._folder.write(name, checked_bytes(folder / spec.training.filename, spec.training.sha256))
        return Prepared(training=name)

    def find(self, key: str, prepared: Prepared) -> Job | None:
        del prepared
        return None if self._folder.read(f"{key}/{_JOB}") is None else self._job(key, look=False)

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        made = PromptJob(
            key=key,
            spec=spec,
            data=prepared.training,
            budget_usd=self._budget,
            prices=self._prices,
            max_metric_calls=self._max_metric_calls,
            max_tokens=self._max_tokens,
            verifier=self._verifier,
        )
        self._folder.write_once(f"{key}/{_JOB}", canonical_json(made))
        return self._job(key, look=False)

    def status(self, job_id: str) -> Job:
        """Where it stands, after some more searching where it is not at its end."""
        return self._job(_key_of(job_id), look=True)

    def cancel(self, job_id: str) -> Job:
        key = _key_of(job_id)
        before = self._job(key, look=False)
        if not before.state.terminal:
            self._folder.write_once(f"{key}/{_CANCELLED}", b"{}")
        return self._job(key, look=False)

    def retrieve(self, job_id: str) -> Tuned:
        model = jobs.model_of(self._job(_key_of(job_id), look=False))
        return Tuned(provider=self.name, job_id=job_id, model=model, handle=model)

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        """With the prompt that was found in the place of any system message.

        Claude's protocol has no temperature any more, so the given one changes nothing.
        """
        del temperature
        key = _key_of(tuned.job_id)
        raw = self._folder.read(f"{key}/{_RESULT}")
        if raw is None or self._folder.read(f"{key}/{_DELETED}") is not None:
            raise ProviderRefused(
                f"{tuned.model} has no prompt in {self._folder.name}: it was deleted, or made on another machine"
            )
        found, made = Optimised.model_validate_json(raw), self._made(key)
        asked = [Message(role="system", content=found.prompt), *(m for m in messages if m.role != "system")]
        model = AnthropicModel(self._api_key, made.spec.base_model, self._unmetered(), base_url=self._base_url)
        return model.ask(asked, max_tokens=max_tokens)

    def delete(self, tuned: Tuned) -> None:
        self._folder.write_once(f"{_key_of(tuned.job_id)}/{_DELETED}", b"{}")

    # Jobs

    def _unmetered(self) -> Meter:
        return Meter(self._prices, budget_usd=Decimal("Infinity"))

    def _made(self, key: str) -> PromptJob:
        raw = self._folder.read(f"{key}/{_JOB}")
        if raw is None:
            raise ProviderRefused(f"{self.target}: there is no job {key!r}. Check the folder that it was launched with")
        return PromptJob.model_validate_json(raw)

    def _job(self, key: str, *, look: bool) -> Job:
        made, raw = self._made(key), self._folder.read(f"{key}/{_RESULT}")
        if raw is not None:
            return self._told(made, State.SUCCEEDED, self._spent(made))
        if self._folder.read(f"{key}/{_CANCELLED}") is not None:
            return self._told(made, State.CANCELLED, self._spent(made))
        if (failed := self._folder.read(f"{key}/{_FAILED}")) is not None:
            return self._told(made, State.FAILED, self._spent(made), failed.decode())
        if not look:
            return self._told(made, State.RUNNING, None)
        try:
            self._folder.write_once(f"{key}/{_RESULT}", canonical_json(self._search(made)))
        except Paused:
            return self._told(made, State.RUNNING, None)
        except OverBudget as error:
            self._folder.write_once(f"{key}/{_FAILED}", f"not one prompt could be scored: {error}".encode())
        return self._job(key, look=False)

    def _told(self, made: PromptJob, state: State, cost: Decimal | None, error: str | None = None) -> Job:
        job_id = f"{FAKE_MARK}-{made.key}" if self.local else f"prompt-{made.key}"
        return Job(
            provider=self.name,
            id=job_id,
            key=made.key,
            state=state,
            raw_state=state.value,
            base_model=made.spec.base_model,
            model=f"{made.spec.base_model}@{job_id}" if state == State.SUCCEEDED else None,
            cost_usd=cost,
            error=error,
        )

    def _search(self, made: PromptJob) -> Optimised:
        raw = self._folder.read(made.data)
        if raw is None:
            raise ProviderUnavailable(f"{self.target}: {made.data} is not there")
        rows = [json.loads(line) for line in raw.splitlines()]
        records = {record.prompt: record for row in rows if (record := Record.model_validate(row["record"]))}
        examples = [Example(prompt=prompt, reference=r.answer or r.solution or "") for prompt, r in records.items()]
        cut = max(1, round(len(examples) * TRAINING_SHARE))
        meter = Meter(made.prices, budget_usd=made.budget_usd)
        model = _Written(self, made, meter, until=self._clock() + self._look_seconds)
        with Judge(next(iter(records.values())).domain, made.verifier) as judge:
            found = optimise(
                model,
                rows[0]["system"] or SEED_PROMPT,
                examples[:cut],
                examples[cut:],
                metric=lambda example, text: judge(records[example.prompt], text).reward,
                max_metric_calls=made.max_metric_calls,
                max_tokens=made.max_tokens,
            )
        if model.stopped_by is not None and not isinstance(model.stopped_by, OverBudget):
            raise model.stopped_by
        return found

    def _spent(self, made: PromptJob) -> Decimal:
        """By what is written down."""
        meter = Meter(made.prices, budget_usd=made.budget_usd)
        for name in self._folder.names(f"{made.key}/calls/"):
            raw = self._folder.read(name)
            assert raw is not None
            Asked.model_validate_json(raw).book(meter, made.max_tokens)
        return meter.spent_usd


class _Written(AnthropicModel):
    """The model of one look: what was answered before is read, and what is asked is written down."""

    def __init__(self, provider: AnthropicProvider, made: PromptJob, meter: Meter, *, until: float) -> None:
        super().__init__(provider._api_key, made.spec.base_model, meter, base_url=provider._base_url)
        self._provider, self._made, self._until = provider, made, until
        self._times: Counter[str] = Counter()
        self.stopped_by: StepforgeError | None = None
        """gepa passes over some errors and goes on: another search than the one that will be replayed."""

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        if self.stopped_by is not None:
            raise self.stopped_by
        try:
            return self._ask(messages, max_tokens=max_tokens)
        except StepforgeError as error:
            self.stopped_by = error
            raise

    def _ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        folder, clock, most = self._provider._folder, self._provider._clock, self.most_input(messages)
        request = digest([message.model_dump() for message in messages])
        self._times[request] += 1
        # The same question twice is two calls: the n-th of one look is the n-th of another.
        name = f"{self._made.key}/calls/{request[:32]}-{self._times[request]}.json"
        raw = folder.read(name)
        before = Asked(at=0, sent=0, most_input=most) if raw is None else Asked.model_validate_json(raw)
        before.book(self.meter, max_tokens)
        if before.answer is not None:
            return before.answer
        if clock() - before.at < LOST_SECONDS:
            raise Paused("another look is asking this")
        if clock() >= self._until or folder.read(f"{self._made.key}/{_CANCELLED}") is not None:
            raise Paused("the time of this look is used up")
        self.meter.room(most, max_tokens)
        asked = before.model_copy(update={"at": clock(), "sent": before.sent + 1})
        if raw is not None:
            folder.write(name, canonical_json(asked))
        elif not folder.write_once(name, canonical_json(asked)):
            raise Paused("another look is asking this")
        try:
            answer = super().ask(messages, max_tokens=max_tokens)
        except ProviderUnavailable:
            folder.write(name, canonical_json(asked.model_copy(update={"at": 0.0})))
            raise
        except StepforgeError:  # it was refused, and so not charged
            folder.write(name, canonical_json(before))
            raise
        folder.write(name, canonical_json(asked.model_copy(update={"answer": answer})))
        return answer


def _key_of(job_id: str) -> str:
    return job_id.removeprefix(f"{FAKE_MARK}-").removeprefix("prompt-")
