"""The OpenAI protocol: OpenAI, Azure, Bedrock's compatible endpoint, and any other `base_url` that speaks it.

Needs the extra `openai`. OpenAI itself takes no new jobs after 2027-01-06; the protocol outlives that. Not covered:
making Azure's deployment of a tuned model (its control plane), checkpoints, Weights & Biases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import (
    IdentityConflict,
    InvalidInput,
    LaunchUncertain,
    MissingExtra,
    ModelGone,
    ProviderRefused,
    WebhookRefused,
)
from stepforge.finetune import job as jobs
from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, State, Tuned, model_of, normalise
from stepforge.finetune.keys import Key, failure, is_loopback, reveal, unlogged, unreadable, without
from stepforge.finetune.sent import SENT, check_sent
from stepforge.finetune.spec import (
    Grader,
    LambdaGrader,
    ProviderName,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    TuneSpec,
)
from stepforge.finetune.uploads import checked_bytes

OPENAI = "https://api.openai.com/v1"
LAST_NEW_JOBS = date(2027, 1, 6)
"""OpenAI, 2026: its own platform takes no new jobs from anyone after this day."""
METADATA_KEY = "stepforge_key"
MOST_LISTED = 2_000
"""How far back the list of jobs is read where the server ignores the filter."""
_STATES = {
    "validating_files": State.QUEUED,
    "queued": State.QUEUED,
    "running": State.RUNNING,
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "cancelled": State.CANCELLED,
}
Vendor = Literal["openai", "azure", "bedrock"]
_METHODS = {"sft": "supervised", "dpo": "dpo", "rft": "reinforcement"}


class OpenAIProvider:
    """Fine-tuning where the OpenAI protocol is spoken.

    >>> from pydantic import SecretStr
    >>> OpenAIProvider(SecretStr("sk-test"), base_url="http://127.0.0.1:9/v1").local  # doctest: +SKIP
    True
    """

    name: ProviderName = "openai"

    def __init__(
        self,
        api_key: Key,
        *,
        base_url: str = OPENAI,
        project: str | None = None,
        deployment: str | None = None,
        timeout_seconds: float = 60,
        remembers_seconds: float | None = None,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        """`deployment` is what a tuned model answers as at Azure. Raises MissingExtra without the package `openai`."""
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("openai", extra="openai") from error
        self._sdk = openai
        self._key = reveal(api_key, what="the API key")
        self._client = openai.OpenAI(
            api_key=self._key,
            base_url=base_url,
            project=project,
            timeout=timeout_seconds,
            max_retries=0,
            # Data and prompts go to the address that was given, and to none that it names.
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )
        self._today, self._vendor, self._deployment = today, vendor_of(base_url), deployment
        self.local = is_loopback(base_url)
        self.target = f"openai:{base_url.rstrip('/')}" + (f":{project}" if project else "")
        # A request may be at work for as long as a server allows, after our end of it was closed.
        self.remembers_seconds = timeout_seconds + 60 if remembers_seconds is None else remembers_seconds
        self._uploaded: dict[str, str] = {}

    # Before anything is sent

    def validate(self, spec: TuneSpec) -> None:
        if spec.method not in _METHODS:
            raise InvalidInput(f"method {spec.method!r} is not in this protocol: use one of {', '.join(_METHODS)}")
        if spec.training.format != "openai":
            raise InvalidInput(f"the data is in {spec.training.format!r} format: write it for 'openai'")
        if self.target.startswith(f"openai:{OPENAI}") and self._today() > LAST_NEW_JOBS:
            raise ModelGone(
                f"OpenAI takes no new fine-tuning jobs since {LAST_NEW_JOBS}: use a base_url of Azure or of Bedrock's "
                "compatible endpoint, another provider, or a better prompt"
            )
        if spec.grader is not None:
            grader_params(spec.grader, vendor=self._vendor)
        named = self._vendor != "bedrock"
        check_sent(spec, tuple(field for field in SENT[self.name, spec.method] if named or field != "suffix"))

    def check_serving(self, spec: TuneSpec) -> None:
        """At Azure a tuned model answers only as a deployment, which its owner makes."""
        if self._vendor == "azure" and self._deployment is None:
            raise InvalidInput(
                f"a tune of {spec.base_model!r} at Azure answers nobody until it is deployed, which is not done here: "
                "it could be neither judged nor registered: use `stepforge finetune launch` and `watch`, deploy it "
                "(docs/finetune-openai.md), give the deployment's name as deployment in [provider], then `stepforge "
                "finetune register`"
            )

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        return jobs.estimate(spec, price, hours=hours, charged_by=self._vendor)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        """A file of the same name and size is used again: its name is the digest of its bytes."""
        files = [spec.training] + ([spec.validation] if spec.validation else [])
        ids = [self._upload(folder, file.filename, file.sha256) for file in files]
        return Prepared(training=ids[0], validation=ids[1] if len(ids) > 1 else None)

    def _upload(self, folder: Path, filename: str, sha256: str) -> str:
        if sha256 in self._uploaded:
            return self._uploaded[sha256]
        data = checked_bytes(folder / filename, sha256)
        for found in self._all("files.list", self._client.files.list, purpose="fine-tune"):
            if found.filename == filename and found.bytes == len(data):
                self._uploaded[sha256] = str(found.id)
                return str(found.id)
        with self._calling("files", about_content=True):
            made = self._client.files.create(file=(filename, data), purpose="fine-tune")
        if not isinstance(made.id, str):
            raise unreadable(self.name, "files", made.model_dump())
        self._uploaded[sha256] = made.id
        return made.id

    # The job

    def find(self, key: str, prepared: Prepared) -> Job | None:
        """By metadata; and, where a server keeps none, by the end of the name that the model was to have."""
        listed = list(self._all("jobs.list", self._client.fine_tuning.jobs.list, metadata={METADATA_KEY: key}))
        found = [
            job
            for job in listed
            # A server may ignore the filter: nothing is taken that does not carry the key itself.
            if (job.metadata or {}).get(METADATA_KEY) == key or _suffix(job).endswith(key[-12:])
        ]
        if self._vendor == "bedrock" and not found:
            self._hold_nameless(key, [job for job in listed if job.training_file == prepared.training])
        if len({job.id for job in found}) > 1:
            ids = ", ".join(sorted(job.id for job in found))
            raise IdentityConflict(f"launch {key} has several jobs at {self.target}: {ids}. Cancel all but the first")
        return self._job(found[0], "jobs.list") if found else None

    def _hold_nameless(self, key: str, same_data: list[Any]) -> None:
        """Bedrock gives a model no name of ours: where it keeps no metadata either, a job of this data may be ours."""
        if nameless := [job.id for job in same_data if not job.metadata]:
            raise LaunchUncertain(
                f"launch {key}: {self.target} has a job of the same data without a key, {nameless[0]}, which may be "
                "this one: look at it there. To pay for another all the same, change the data (leave a record out)"
            )

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        with self._calling("jobs.create"):
            made = self._client.fine_tuning.jobs.create(
                model=spec.base_model,
                training_file=prepared.training,
                validation_file=prepared.validation or self._sdk.omit,
                method=method_params(spec, vendor=self._vendor),
                # Some servers drop metadata: the end of the key is in the name as well. Bedrock takes no name.
                suffix=self._sdk.omit if self._vendor == "bedrock" else f"{spec.suffix}-{key[-12:]}",
                seed=self._sdk.omit if spec.hyperparameters.seed is None else spec.hyperparameters.seed,
                metadata={METADATA_KEY: key},
            )
        return self._job(made, "jobs.create").model_copy(update={"key": key})

    def status(self, job_id: str) -> Job:
        with self._calling("jobs.retrieve"):
            found = self._client.fine_tuning.jobs.retrieve(job_id)
        return self._job(found, "jobs.retrieve")

    def cancel(self, job_id: str) -> Job:
        before = self.status(job_id)
        if before.state.terminal:
            return before
        try:
            with self._calling("jobs.cancel"):
                found = self._client.fine_tuning.jobs.cancel(job_id)
        except ProviderRefused:
            after = self.status(job_id)  # it may have ended between the two calls
            if after.state.terminal:
                return after
            raise
        return self._job(found, "jobs.cancel")

    def _job(self, found: Any, call: str) -> Job:
        if not isinstance(found.id, str) or not isinstance(found.status, str):
            raise unreadable(self.name, call, found.model_dump())
        error = getattr(found, "error", None)
        words = (
            None
            if error is None or not getattr(error, "code", None)
            else without(f"{error.code}: {error.message}", [self._key])
        )
        return Job(
            provider=self.name,
            id=found.id,
            key=(found.metadata or {}).get(METADATA_KEY),
            state=normalise(found.status, _STATES),
            raw_state=found.status,
            base_model=found.model or "",
            model=found.fine_tuned_model,
            created_at=datetime.fromtimestamp(found.created_at, UTC) if found.created_at else None,
            billable_tokens=found.trained_tokens,
            error=words,
        )

    # The model

    def retrieve(self, job_id: str) -> Tuned:
        """At Azure it is called by its deployment's name."""
        model = model_of(self.status(job_id))
        return Tuned(provider=self.name, job_id=job_id, model=model, handle=self._deployment or model)

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        with self._calling("chat.completions", about_content=True):
            answer = self._client.chat.completions.create(
                model=tuned.handle,
                messages=[{"role": m.role, "content": m.content} for m in messages],  # type: ignore[misc]
                max_completion_tokens=max_tokens,
                temperature=self._sdk.omit if temperature is None else temperature,
            )
        if not answer.choices or answer.usage is None:
            raise unreadable(self.name, "chat.completions", type(answer))
        return Completion(
            text=answer.choices[0].message.content or "",
            model=answer.model,
            input_tokens=answer.usage.prompt_tokens,
            output_tokens=answer.usage.completion_tokens,
        )

    def delete(self, tuned: Tuned) -> None:
        try:
            with self._calling("models.delete"):
                self._client.models.delete(tuned.model)
        except ProviderRefused as refusal:
            if "404" not in str(refusal):
                raise

    # Webhooks

    def receive(self, body: bytes, headers: Mapping[str, str], *, secret: Key) -> Job | None:
        """The job that a webhook is about, fetched anew: the message itself only names it. None for other events.

        Raises WebhookRefused where the signature is wrong or the message is older than five minutes.
        """
        revealed = reveal(secret, what="the webhook secret")
        try:
            event = self._client.webhooks.unwrap(body, headers, secret=revealed)
        except (self._sdk.InvalidWebhookSignatureError, ValueError) as error:
            why = type(error).__name__ if not isinstance(error, self._sdk.InvalidWebhookSignatureError) else str(error)
            raise WebhookRefused(f"a webhook for {self.target} is refused: {why}") from None
        if not str(event.type).startswith("fine_tuning.job."):
            return None
        return self.status(event.data.id)  # type: ignore[union-attr]

    def _all(self, call: str, lister: Callable[..., Any], **given: Any) -> Iterator[Any]:
        """Everything that a list has, newest first. An answer that is no list is never an empty one."""
        read = 0
        with self._calling(call):
            page = lister(limit=100, **given)
            while True:
                if not isinstance(page.data, list):
                    raise unreadable(self.target, call, page.model_dump())
                yield from page.data
                read += len(page.data)
                if read >= MOST_LISTED or not page.has_next_page():
                    return
                page = page.get_next_page()

    @contextmanager
    def _calling(self, call: str, *, about_content: bool = False) -> Iterator[None]:
        """Errors of the client in our words. `from None`: the originals carry requests, and so keys and prompts."""
        try:
            with unlogged():
                yield
        except self._sdk.APIStatusError as error:
            code = str(error.code or error.type or "")
            body = error.body if isinstance(error.body, dict) else {}
            raise failure(
                self.target,
                call,
                status=error.status_code,
                code=code,
                message=str(body.get("message") or ""),
                secrets=[self._key],
                about_content=about_content,
            ) from None
        except self._sdk.APIConnectionError as error:
            raise failure(self.target, call, status=None, code=type(error.__cause__ or error).__name__) from None
        except (self._sdk.APIError, json.JSONDecodeError, TypeError, AttributeError) as error:
            # The client builds objects without looking: another shape shows where it is used.
            raise unreadable(self.target, call, type(error)) from None


def vendor_of(base_url: str) -> Vendor:
    """Who answers at an address, where that is no matter of the protocol alone.

    >>> vendor_of("https://me.openai.azure.com/openai/v1"), vendor_of("https://bedrock-mantle.us-west-2.api.aws/v1")
    ('azure', 'bedrock')
    >>> vendor_of("https://proxy.example.com/bedrock-mantle.us-west-2.api.aws")
    'openai'
    """
    host = urlsplit(base_url).hostname or ""
    if host.endswith((".azure.com", ".azure.us", ".azure.cn")):
        return "azure"
    return "bedrock" if host.startswith("bedrock") and host.endswith((".api.aws", ".amazonaws.com")) else "openai"


def method_params(spec: TuneSpec, *, vendor: Vendor = "openai") -> Any:
    """`method` of a job, as openai.types.fine_tuning.job_create_params.Method has it."""
    h = spec.hyperparameters
    given: dict[str, Any] = {
        "n_epochs": h.epochs,
        "batch_size": h.batch_size,
        "learning_rate_multiplier": h.learning_rate_multiplier,
    }
    if spec.method == "dpo":
        given["beta"] = h.beta
    kind = _METHODS[spec.method]
    inner: dict[str, Any] = {"hyperparameters": {name: value for name, value in given.items() if value is not None}}
    if spec.grader is not None:
        inner["grader"] = grader_params(spec.grader, vendor=vendor)
    return {"type": kind, kind: inner}


def grader_params(grader: Grader, *, vendor: Vendor = "openai") -> dict[str, Any]:
    """A grader of this protocol. The reference is the record's answer: `item.reference_answer` of the data.

    Bedrock's endpoint takes a Lambda function alone, and nobody else takes one. Raises InvalidInput for what is not
    taken.
    """
    if vendor == "bedrock":
        if isinstance(grader, LambdaGrader):
            return {"type": "lambda", "lambda": {"function": grader.arn}}
        raise InvalidInput(
            f"grader {grader.type!r}: Bedrock calls a function as its grader: give the ARN of "
            "stepforge-ENV-finetune-grade, which has the verifiers of all that ship, or of your own, as a grader of "
            "type 'lambda'"
        )
    output, reference = "{{sample.output_text}}", "{{item.reference_answer}}"
    if isinstance(grader, StringCheck):
        pair = {"input": output, "reference": reference}
        return {"type": "string_check", "name": "reference", "operation": grader.operation, **pair}
    if isinstance(grader, TextSimilarity):
        pair = {"input": output, "reference": reference}
        return {"type": "text_similarity", "name": "similarity", "evaluation_metric": grader.metric, **pair}
    if isinstance(grader, ScoreModel):
        asked = [{"role": "user", "content": grader.prompt, "type": "message"}]
        return {"type": "score_model", "name": "judge", "model": grader.model, "input": asked, "range": [0, 1]}
    if isinstance(grader, PythonGrader):
        return {"type": "python", "name": "verifier", "source": grader.source}
    raise InvalidInput(
        f"grader {grader.type!r} is not in this protocol: use string_check, text_similarity, score_model or python"
    )


def _suffix(job: Any) -> str:
    """The name that we gave, where the server says it."""
    return str(getattr(job, "user_provided_suffix", None) or getattr(job, "suffix", None) or "")
