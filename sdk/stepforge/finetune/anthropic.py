"""Claude as a provider of paid tunes: what is made is a better prompt, since no weights can be tuned.

Nobody runs the search for us, so a job is a folder (in S3, or on this machine) and goes on while somebody looks at it:
`status` searches for some time. Each call of the model is written down before it is sent and again with its answer. A
look replays what was answered, so that it goes on where the last one stopped, after a crash too, and no answer is paid
for twice. A call whose answer was lost is booked at the most that it can have cost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

from stepforge.contracts.base import Contract, canonical_json
from stepforge.contracts.records import Record
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput, MissingExtra, OverBudget, ProviderRefused, ProviderUnavailable
from stepforge.finetune import job as jobs
from stepforge.finetune.addresses import Secrets
from stepforge.finetune.claude import AnthropicModel
from stepforge.finetune.folders import Folder
from stepforge.finetune.job import FAKE_MARK, Completion, Estimate, Job, Message, Prepared, State, Tuned
from stepforge.finetune.judging import Judge
from stepforge.finetune.keys import Key
from stepforge.finetune.metering import Meter, TokenPrices
from stepforge.finetune.optimisers import GepaOptimiser, Rewriter, search_of
from stepforge.finetune.prompts import Example, Optimised, optimise
from stepforge.finetune.sent import check_sent
from stepforge.finetune.spec import ProviderName, TuneSpec
from stepforge.finetune.uploads import checked_bytes
from stepforge.finetune.written import Paused, Written, book_written

SEED_PROMPT = "Solve the problem."
TRAINING_SHARE = 2 / 3
"""Of the examples; by the others candidates are scored."""
_JOB, _RESULT, _FAILED = "job.json", "result.json", "failed.json"
_CANCELLED, _DELETED = "cancelled.json", "deleted.json"
_REWRITES = "rewrites"


class PromptJob(Contract):
    """What a job was launched with."""

    key: str
    spec: TuneSpec
    data: str
    budget_usd: Decimal
    prices: TokenPrices
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
        max_tokens: int = 512,
        verifier: str | None = None,
        look_seconds: float = 600,
        clock: Callable[[], float] = time.time,
        secrets: Secrets | None = None,
    ) -> None:
        """`verifier` is a user's own, in the place of the domain's; `look_seconds` is how long a look searches.

        With `secrets` an optimiser's credentials are read from there, where it names one.
        """
        self._api_key, self._folder, self._base_url = api_key, folder, base_url
        self._prices, self._budget = prices, budget_usd
        self._max_tokens, self._verifier = max_tokens, verifier
        self._look_seconds, self._clock, self._secrets = look_seconds, clock, secrets
        self.local = AnthropicModel(api_key, "none", self._unmetered(), base_url=base_url).local
        self.target = f"anthropic:{base_url or 'https://api.anthropic.com'}:{folder.name}"

    def validate(self, spec: TuneSpec) -> None:
        if spec.method != "prompt" or spec.training.format != "prompt":
            raise InvalidInput(
                f"method {spec.method!r}: no Claude can be tuned, but its prompt can be made better: give 'prompt'"
            )
        if spec.training.rows < 3:
            raise InvalidInput(f"{spec.training.rows} records are too few to search a prompt with: give 3 or more")
        check_sent(spec)

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
            found = Optimised.model_validate_json(raw)
            return self._told(made, State.SUCCEEDED, self._spent(made), how=found.words)
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
        except (ProviderRefused, MissingExtra) as error:
            self._folder.write_once(f"{key}/{_FAILED}", refused_for_good(error).encode())
        return self._job(key, look=False)

    def _told(
        self, made: PromptJob, state: State, cost: Decimal | None, error: str | None = None, *, how: str = ""
    ) -> Job:
        job_id = f"{FAKE_MARK}-{made.key}" if self.local else f"prompt-{made.key}"
        return Job(
            provider=self.name,
            id=job_id,
            key=made.key,
            state=state,
            raw_state=f"{state.value} ({how or made.spec.how})",
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
        model = AnthropicModel(self._api_key, made.spec.base_model, meter, base_url=self._base_url)
        written = partial(
            Written,
            folder=self._folder,
            until=self._clock() + self._look_seconds,
            clock=self._clock,
            stopped=lambda: self._folder.read(f"{made.key}/{_CANCELLED}") is not None,
        )
        optimiser = made.spec.optimiser or GepaOptimiser()
        with Judge(next(iter(records.values())).domain, made.verifier) as judge:
            found = optimise(
                written(model, prefix=f"{made.key}/calls"),
                rows[0]["system"] or SEED_PROMPT,
                examples[:cut],
                examples[cut:],
                metric=lambda example, text: judge(records[example.prompt], text).reward,
                search=search_of(
                    optimiser,
                    meter,
                    lambda model: written(model, prefix=f"{made.key}/{_REWRITES}"),
                    secrets=self._secrets,
                ),
                max_tokens=made.max_tokens,
            )
        return found.model_copy(update={"optimiser": optimiser.type})

    def _spent(self, made: PromptJob) -> Decimal:
        """By what is written down."""
        meter = Meter(made.prices, budget_usd=made.budget_usd)
        book_written(self._folder, f"{made.key}/calls", meter)
        if isinstance(made.spec.optimiser, Rewriter):
            book_written(self._folder, f"{made.key}/{_REWRITES}", meter.at(made.spec.optimiser.prices))
        return meter.spent_usd


def refused_for_good(error: ProviderRefused | MissingExtra) -> str:
    """Why a search ends here, in our words: a vendor's may repeat prompts. Raises the error where a look after the key,
    the credit or the network was mended would go on."""
    if isinstance(error, MissingExtra):
        return f"{error}. Then launch it with a higher attempt"
    if not error.for_good:
        raise error
    return (
        f"a call of the search was refused with status {error.status}, and each look would send it again. Change the "
        "plan (base_model, max_tokens, the records), and launch it with a higher attempt"
    )


def _key_of(job_id: str) -> str:
    return job_id.removeprefix(f"{FAKE_MARK}-").removeprefix("prompt-")
