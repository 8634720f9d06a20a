"""A better prompt for a Gemini, by Vertex's data-driven prompt optimiser: a custom job that tries system instructions.

The optimiser runs in Google's container, and judges by a metric of Google's. What it proposes is therefore scored again
with the domain's own verifier, on records that it has not seen, and the prompt that the tune began with competes. The
job is launched once under the launch's key; a look at it never waits. Scoring goes on while somebody looks, each call
written down, as in `anthropic`. Follows the guide of the data-driven optimiser and its notebooks (autumn 2026). Not
covered: demonstrations, several metrics, images.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from stepforge.contracts.base import Contract, canonical_json
from stepforge.contracts.records import Record
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import (
    InvalidInput,
    MissingExtra,
    OverBudget,
    ProviderRefused,
    ProviderUnavailable,
    StepforgeError,
)
from stepforge.finetune import job as jobs
from stepforge.finetune.anthropic import SEED_PROMPT, TRAINING_SHARE, refused_for_good
from stepforge.finetune.folders import GcsFolder
from stepforge.finetune.job import FAKE_MARK, Completion, Estimate, Job, Message, Prepared, State, Tuned
from stepforge.finetune.judging import Judge
from stepforge.finetune.keys import unreadable
from stepforge.finetune.metering import Meter, TokenPrices, most_input
from stepforge.finetune.prompts import Example, Optimised, Task, optimise
from stepforge.finetune.sent import check_sent
from stepforge.finetune.spec import ProviderName, TuneSpec
from stepforge.finetune.uploads import checked_bytes
from stepforge.finetune.vertex_jobs import Container, CustomJob, VertexJobs
from stepforge.finetune.vertex_settings import DataDriven
from stepforge.finetune.written import Paused, Written

if TYPE_CHECKING:
    from stepforge.finetune.vertex import VertexProvider

TEMPLATE = "Question: {question}\n\nAnswer: {target}"
"""The form that the guide gives where answers are known."""
FEWEST_SAMPLES = 5
"""Of the guide, which recommends 50 to 100."""
TARGETS = re.compile(r"gemini-\d+(\.\d+)?-(pro|flash|flash-lite)(-\d{3})?")
"""Names of models that are generally available; previews and experiments have more words."""
_JOB, _RESULT, _FAILED = "job.json", "result.json", "failed.json"
_CANCELLED, _DELETED = "cancelled.json", "deleted.json"
Form = TypeVar("Form", bound=Contract)


class Useless(StepforgeError):
    """The optimiser's job succeeded, and nothing can be made of what it left."""


class OptimiserJob(Contract):
    """What a job was launched with."""

    key: str
    spec: TuneSpec
    data: str
    settings: DataDriven


class GeminiModel:
    """One Gemini, metered."""

    def __init__(self, vertex: VertexProvider, model: str, meter: Meter) -> None:
        self._vertex, self.meter, self.local = vertex, meter, vertex.local
        self._handle = Tuned(provider="vertex", job_id="none", model=model, handle=model)

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """One call, greedy. Raises OverBudget before it. A lost answer is booked at the most that it can cost."""
        most = most_input(messages)
        self.meter.room(most, max_tokens)
        try:
            answer = self._vertex.invoke(self._handle, messages, max_tokens=max_tokens, temperature=0.0)
        except ProviderUnavailable:
            self.meter.book(most, max_tokens)
            raise
        self.meter.book(answer.input_tokens, answer.output_tokens)
        return answer


class VertexPrompts:
    """Method 'prompt' at Vertex. Jobs lie below `{folder_uri}/prompts`, where the optimiser writes its results too."""

    name: ProviderName = "vertex"

    def __init__(
        self,
        vertex: VertexProvider,
        settings: DataDriven,
        *,
        look_seconds: float = 600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`vertex` asks the model, and has account, address and folder. Raises MissingExtra."""
        self._vertex, self._settings = vertex, settings
        self._look_seconds, self._clock = look_seconds, clock
        self._folder = GcsFolder(vertex.storage, f"{vertex.folder_uri}/prompts", target=vertex.target)
        self._jobs = VertexJobs(
            project=vertex.project,
            location=vertex.location,
            credentials=vertex.credentials,
            base_url=vertex.base_url,
            target=vertex.target,
        )
        self.target, self.local = vertex.target, vertex.local
        self.remembers_seconds = vertex.remembers_seconds

    def validate(self, spec: TuneSpec) -> None:
        if spec.method != "prompt" or spec.training.format != "prompt":
            raise InvalidInput(f"method {spec.method!r} is no search for a prompt: leave [provider.prompts] out")
        if spec.optimiser is not None:
            raise InvalidInput(
                f"optimiser {spec.optimiser.type!r} searches with Claude: at Vertex the data-driven optimiser does, so "
                "leave [optimiser] out"
            )
        if TARGETS.fullmatch(spec.base_model) is None:
            raise InvalidInput(_why_not(spec.base_model))
        if self._vertex.location == "global":
            raise InvalidInput(
                "the optimiser is a custom job, and none runs in 'global': give a region, 'us-central1' say"
            )
        if _cut(spec.training.rows) < FEWEST_SAMPLES:
            raise InvalidInput(
                f"of {spec.training.rows} records two thirds are the optimiser's samples, and it needs "
                f"{FEWEST_SAMPLES}: give 8 or more, better 100"
            )
        check_sent(spec)

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        """What the plan says that it may cost at most."""
        if price.kind != "training_job" or price.usd != self._settings.price().usd:
            raise InvalidInput(
                "what a search costs is job_usd and scoring_usd of [provider.prompts]: leave [price] out"
            )
        return jobs.estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        name = f"data/{spec.training.filename}"
        self._folder.write(name, checked_bytes(folder / spec.training.filename, spec.training.sha256))
        return Prepared(training=name)

    def find(self, key: str, prepared: Prepared) -> Job | None:
        del prepared
        found = self._jobs.find(key)
        return None if found is None else self._job(found, look=False)

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        made = OptimiserJob(key=key, spec=spec, data=prepared.training, settings=self._settings)
        self._folder.write_once(f"{key}/{_JOB}", canonical_json(made))
        made = self._made(key)
        records, seed = self._records(made)
        samples = records[: _cut(len(records))]
        lines = [json.dumps({"question": r.prompt, "target": _target(r)}, ensure_ascii=True) for r in samples]
        self._folder.write(f"{key}/samples.jsonl", ("\n".join(lines) + "\n").encode())
        self._folder.write(f"{key}/config.json", json.dumps(self._config(made, seed)).encode())
        given = made.settings
        container = Container(
            image=given.image,
            args=(f"--config={self._folder.uri(f'{key}/config.json')}",),
            machine_type=given.machine_type,
            most_seconds=max(60, int(given.most_hours * 3600)),
            service_account=given.service_account,
            output_uri=self._folder.uri(key),
            kms_key=self._vertex.kms_key,
        )
        return self._job(self._jobs.submit(container, key=key, display_name=f"{spec.suffix}-{key[-12:]}"), look=False)

    def status(self, job_id: str) -> Job:
        """Where it stands, after some scoring of candidates where the optimiser is at its end."""
        return self._job(self._jobs.status(job_id), look=True)

    def cancel(self, job_id: str) -> Job:
        found = self._jobs.cancel(job_id)
        before = self._job(found, look=False)
        if not before.state.terminal and found.state.terminal:
            self._folder.write_once(f"{before.key}/{_CANCELLED}", b"{}")
        return self._job(found, look=False)

    def retrieve(self, job_id: str) -> Tuned:
        found = self._job(self._jobs.status(job_id), look=False)
        return Tuned(provider=self.name, job_id=job_id, model=jobs.model_of(found), handle=found.base_model)

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        """With the prompt that was found in the place of any system message."""
        key = tuned.model.rpartition("@")[2].removeprefix(f"{FAKE_MARK}-")
        found = self._read(f"{key}/{_RESULT}", Optimised)
        if found is None or self._folder.read(f"{key}/{_DELETED}") is not None:
            raise ProviderRefused(f"{tuned.model} has no prompt in {self._folder.name}: it was deleted")
        asked = [Message(role="system", content=found.prompt), *(m for m in messages if m.role != "system")]
        return self._vertex.invoke(tuned, asked, max_tokens=max_tokens, temperature=temperature)

    def delete(self, tuned: Tuned) -> None:
        """Nothing is charged for a prompt; it answers no more."""
        key = tuned.model.rpartition("@")[2].removeprefix(f"{FAKE_MARK}-")
        self._folder.write_once(f"{key}/{_DELETED}", b"{}")

    # Jobs

    def _made(self, key: str) -> OptimiserJob:
        made = self._read(f"{key}/{_JOB}", OptimiserJob)
        if made is None:
            raise ProviderRefused(f"{self.target}: there is no job {key!r} in {self._folder.name}")
        return made

    def _read(self, name: str, form: type[Form]) -> Form | None:
        raw = self._folder.read(name)
        try:
            return None if raw is None else form.model_validate_json(raw)
        except ValidationError:  # which quotes what it was given
            raise unreadable(self.target, name, form) from None

    def _job(self, found: CustomJob, *, look: bool) -> Job:
        if found.key is None:
            raise ProviderRefused(f"{self.target}: custom job {found.name} has no label of a launch: it is another's")
        made = self._made(found.key)
        if found.state != State.SUCCEEDED:
            return self._told(made, found, found.state, found.error)
        if (result := self._read(f"{made.key}/{_RESULT}", Optimised)) is not None:
            return self._told(made, found, State.SUCCEEDED, how=result.words)
        if self._folder.read(f"{made.key}/{_CANCELLED}") is not None:
            return self._told(made, found, State.CANCELLED)
        if (failed := self._folder.read(f"{made.key}/{_FAILED}")) is not None:
            return self._told(made, found, State.FAILED, failed.decode())
        if not look:
            return self._told(made, found, State.RUNNING)
        try:
            self._folder.write_once(f"{made.key}/{_RESULT}", canonical_json(self._scored(made)))
        except Paused:
            return self._told(made, found, State.RUNNING)
        except (Useless, OverBudget) as error:
            self._folder.write_once(f"{made.key}/{_FAILED}", str(error).encode())
        except (ProviderRefused, MissingExtra) as error:
            self._folder.write_once(f"{made.key}/{_FAILED}", refused_for_good(error).encode())
        return self._job(found, look=False)

    def _told(
        self, made: OptimiserJob, found: CustomJob, state: State, error: str | None = None, *, how: str = ""
    ) -> Job:
        mark = f"{FAKE_MARK}-" if FAKE_MARK in found.name else ""
        return Job(
            provider=self.name,
            id=found.name,
            key=made.key,
            state=state,
            raw_state=found.raw_state + f": {state.value}" * (state != found.state) + (how and f" ({how})"),
            base_model=made.spec.base_model,
            model=f"{made.spec.base_model}@{mark}{made.key}" if state == State.SUCCEEDED else None,
            created_at=found.created_at,
            error=error,
        )

    def _records(self, made: OptimiserJob) -> tuple[list[Record], str]:
        """All of them, and the prompt that the search begins with."""
        raw = self._folder.read(made.data)
        if raw is None:
            raise ProviderUnavailable(f"{self.target}: {made.data} is not there")
        try:
            rows = [json.loads(line) for line in raw.splitlines()]
            return [Record.model_validate(row["record"]) for row in rows], rows[0]["system"] or SEED_PROMPT
        except (ValueError, KeyError, TypeError, IndexError):
            raise unreadable(self.target, made.data, Record) from None

    def _config(self, made: OptimiserJob, seed: str) -> dict[str, Any]:
        """What the optimiser's container reads, in the guide's words."""
        given, folder = made.settings, self._folder
        config: dict[str, Any] = {
            "project": self._vertex.project,
            "system_instruction": seed,
            "prompt_template": TEMPLATE,
            "target_model": made.spec.base_model,
            "target_model_location": self._vertex.location,
            "thinking_budget": -1,
            "optimization_mode": "instruction",
            "eval_metric": given.metric,
            "num_steps": given.steps,
            "data_limit": given.data_limit,
            "target_model_qps": given.qps,
            "eval_qps": given.qps,
            "input_data_path": folder.uri(f"{made.key}/samples.jsonl"),
            "output_path": folder.uri(f"{made.key}/output"),
        }
        if given.metric_function is not None:
            config["custom_metric_name"] = given.metric_name
            config["custom_metric_cloud_function_name"] = given.metric_function
        return config

    # Candidates

    def _scored(self, made: OptimiserJob) -> Optimised:
        """The best of the first prompt and the candidates, by the verifier, on records that the optimiser never saw."""
        records, seed = self._records(made)
        proposed = self._proposed(made, seed)
        given, cut = made.settings, _cut(len(records))
        prices = TokenPrices(input_usd=given.input_usd, output_usd=given.output_usd)
        meter = Meter(prices, budget_usd=given.scoring_usd)
        model = Written(
            GeminiModel(self._vertex, made.spec.base_model, meter),
            self._folder,
            f"{made.key}/calls",
            until=self._clock() + self._look_seconds,
            clock=self._clock,
            stopped=lambda: self._folder.read(f"{made.key}/{_CANCELLED}") is not None,
        )
        examples = [Example(prompt=record.prompt, reference=_target(record)) for record in records]
        judged = {record.prompt: record for record in records[cut:]}

        def search(task: Task) -> None:
            for prompt in proposed:
                task.validate(prompt)

        with Judge(records[0].domain, given.verifier) as judge:
            scored = optimise(
                model,
                seed,
                examples[:cut],
                examples[cut:],
                metric=lambda example, text: judge(judged[example.prompt], text).reward,
                search=search,
                max_tokens=given.max_tokens,
            )
        return scored.model_copy(update={"optimiser": "data-driven"})

    def _proposed(self, made: OptimiserJob, seed: str) -> list[str]:
        """The optimiser's best, the best one first. Raises Useless where its results cannot be read."""
        name = f"{made.key}/output/instruction/templates.json"
        raw = self._folder.read(name)
        if raw is None:
            raise Useless(f"the optimiser left no {self._folder.uri(name)}: look at the custom job's logs")
        found = candidates_of(raw)
        if not found:
            raise Useless(f"{self._folder.uri(name)} has no instructions with a score: its form may have changed")
        return [prompt for prompt in found if prompt != seed][: made.settings.candidates]


def candidates_of(templates: bytes) -> list[str]:
    """Instructions in `templates.json` of the optimiser, the best one first, each once.

    Its form is that which Google's notebooks read: rows with `instruction` (or `prompt`) and `metrics`, whose means end
    in `/mean`.

    >>> candidates_of(b'[{"instruction": "A", "metrics": {"x/mean": 0.1}}, {"prompt": "B", "metrics": {"x/mean": 1}}]')
    ['B', 'A']
    """
    try:
        rows = json.loads(templates)
    except ValueError:
        return []
    scored: dict[str, float] = {}
    for row in rows if isinstance(rows, list) else []:
        text = (row.get("instruction") or row.get("prompt")) if isinstance(row, dict) else None
        metrics = row.get("metrics") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip() or not isinstance(metrics, dict):
            continue
        means = [float(v) for k, v in metrics.items() if k.endswith("/mean") and isinstance(v, int | float)]
        if means:
            scored[text] = max(scored.get(text, float("-inf")), sum(means) / len(means))
    return sorted(scored, key=lambda text: -scored[text])


def _why_not(model: str) -> str:
    if "claude" in model:
        return (
            f"{model!r}: Vertex's data-driven optimiser takes Gemini models that are generally available. For a Claude "
            "use [provider] type = 'anthropic', with [optimiser] type = 'vertex' for Vertex's zero-shot optimiser"
        )
    if "preview" in model or "exp" in model:
        return (
            f"{model!r} is a preview: those answer in 'global' alone, where no custom job runs. Give a model that is "
            "generally available, 'gemini-3.5-flash' say"
        )
    return (
        f"{model!r}: Vertex's data-driven optimiser takes Gemini models that are generally available, by their plain "
        "names, 'gemini-3.5-flash' say; for others search with your own calls (docs/finetune-anthropic.md)"
    )


def _cut(count: int) -> int:
    return max(1, min(round(count * TRAINING_SHARE), count - 1))


def _target(record: Record) -> str:
    return record.answer or record.solution or ""
