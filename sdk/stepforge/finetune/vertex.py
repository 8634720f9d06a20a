"""Tuning of Gemini and distillation of open models on Vertex AI, through google-genai; data goes to Cloud Storage.

Needs the extra `vertex`. Models and endpoints of Vertex's own registry: `vertex_registry`. Not covered: images, and
deploying what was distilled from an open model: its weights come to Cloud Storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import IdentityConflict, InvalidInput, MissingExtra, ProviderRefused
from stepforge.finetune import job as jobs
from stepforge.finetune.datasets import format_of, is_gemini
from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, Tuned, normalise
from stepforge.finetune.keys import failure, is_loopback, unreadable
from stepforge.finetune.sent import OPEN_STUDENT, check_sent
from stepforge.finetune.spec import ProviderName, TuneSpec
from stepforge.finetune.uploads import checked_bytes
from stepforge.finetune.vertex_calls import JOB_STATES, LABEL, SCOPE, calling, labelled, root_of, session_of, storage_of
from stepforge.finetune.vertex_registry import VertexRegistry
from stepforge.finetune.vertex_rewards import reward_config

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_METHODS = {
    "sft": "SUPERVISED_FINE_TUNING",
    "dpo": "PREFERENCE_TUNING",
    "rft": "REINFORCEMENT_TUNING",
    "distillation": "DISTILLATION",
}
WEIGHTS = "postprocess/node-0/checkpoints/final"
"""Below a job's output: the last checkpoint of an open model."""
_ADAPTERS = {1: "ONE", 2: "TWO", 4: "FOUR", 8: "EIGHT", 16: "SIXTEEN", 32: "THIRTY_TWO"}


class VertexProvider:
    """Tuning jobs of one project and location. `folder_uri` is where the data goes, `gs://bucket/prefix`."""

    name: ProviderName = "vertex"

    def __init__(
        self,
        *,
        project: str,
        location: str,
        folder_uri: str,
        credentials: Credentials | None = None,
        kms_key: str | None = None,
        base_url: str | None = None,
        timeout_seconds: float = 60,
        remembers_seconds: float | None = None,
    ) -> None:
        """`credentials` are google-auth's; without them its default search applies. Raises MissingExtra."""
        try:
            import google.auth
            import google.cloud.storage
            from google import genai
            from google.genai import errors, types
        except ImportError as error:
            raise MissingExtra(error.name or "google-genai", extra="vertex") from error
        if not folder_uri.startswith("gs://"):
            raise InvalidInput(f"folder_uri {folder_uri!r} is no address in Cloud Storage: give gs://bucket/prefix")
        self._types, self._errors = types, errors
        # Without retry options the client sends each request once.
        options = types.HttpOptions(
            base_url=base_url,
            api_version="v1beta1",
            timeout=int(timeout_seconds * 1000),
            retry_options=None,
            # Prompts go to the address that was given, and to none that it names.
            client_args={"follow_redirects": False},
        )
        self._client = genai.Client(
            vertexai=True, project=project, location=location, credentials=credentials, http_options=options
        )
        if credentials is None:
            credentials, _ = google.auth.default(scopes=[SCOPE])
        self._jobs_url = f"{root_of(location, base_url)}/v1beta1/projects/{project}/locations/{location}/tuningJobs"
        self._session = session_of(credentials)
        self.project, self.location, self.base_url = project, location, base_url
        self.folder_uri, self.kms_key, self.credentials = folder_uri.rstrip("/"), kms_key, credentials
        self._timeout = timeout_seconds
        self.storage = storage_of(project, credentials, base_url)
        self._bucket, _, self._prefix = folder_uri.removeprefix("gs://").rstrip("/").partition("/")
        self.local = is_loopback(base_url)
        self.target = f"vertex:{project}:{location}" + (f":{base_url}" if base_url else "")
        self.registry = VertexRegistry(
            location=location,
            credentials=credentials,
            base_url=base_url,
            timeout_seconds=timeout_seconds,
            target=self.target,
        )
        self.remembers_seconds = timeout_seconds + 60 if remembers_seconds is None else remembers_seconds

    def validate(self, spec: TuneSpec) -> None:
        if spec.method not in _METHODS:
            raise InvalidInput(f"method {spec.method!r} is not offered by Vertex: use one of {', '.join(_METHODS)}")
        wanted = format_of("vertex", spec.method, spec.base_model)
        if spec.training.format != wanted:
            raise InvalidInput(f"the data is in {spec.training.format!r} format: write it for {wanted!r}")
        if spec.grader is not None:
            reward_config(spec.grader)
        if spec.teacher is not None and spec.teacher.labelled:
            raise InvalidInput("Vertex's teachers are asked for every answer: leave labelled out, or use Bedrock")
        opened = spec.method == "distillation" and not is_gemini(spec.base_model)
        check_sent(spec, OPEN_STUDENT if opened else None)

    def check_serving(self, spec: TuneSpec) -> None:
        """An open model's weights answer nobody until someone deploys them, on machines by the hour."""
        if spec.method == "distillation" and not is_gemini(spec.base_model):
            raise InvalidInput(
                f"{spec.base_model!r} comes back as weights in Cloud Storage, which no endpoint serves, so it could be "
                "neither judged nor registered: use `stepforge finetune launch`, and deploy them from the Model Garden"
            )

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        return jobs.estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        uris = [self._upload(folder, f.filename, f.sha256) for f in (spec.training, spec.validation) if f is not None]
        return Prepared(training=uris[0], validation=uris[1] if len(uris) > 1 else None)

    def _upload(self, folder: Path, filename: str, sha256: str) -> str:
        data = checked_bytes(folder / filename, sha256)
        name = f"{self._prefix}/{filename}".lstrip("/")
        with self._calling("upload", about_content=True):
            blob = self.storage.bucket(self._bucket).blob(name)
            # The name is the digest of the bytes: writing it again changes nothing.
            blob.upload_from_string(data, content_type="application/jsonl", retry=None, checksum=None)
        return f"gs://{self._bucket}/{name}"

    def find(self, key: str, prepared: Prepared) -> Job | None:
        """By label."""
        del prepared
        found = labelled(
            self._session, self._jobs_url, "tuningJobs", key, target=self.target, timeout_seconds=self._timeout
        )
        if len(found) > 1:
            raise IdentityConflict(f"launch {key} has several jobs: {', '.join(found)}. Cancel all but the first")
        return self.status(found[0]) if found else None

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        t, config = self._types, self._config(spec, prepared, key)
        with self._calling("tuningJobs.create"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself experimental each time
            made = self._client.tunings.tune(
                base_model=spec.base_model,
                training_dataset=t.TuningDataset(gcs_uri=prepared.training),
                config=config,
            )
        return self._job(made, "tuningJobs.create").model_copy(update={"key": key})

    def _config(self, spec: TuneSpec, prepared: Prepared, key: str) -> Any:
        """A typed object: a dict loses fields that the client does not look for."""
        t, h = self._types, spec.hyperparameters
        config = t.CreateTuningJobConfig(
            method=t.TuningMethod(_METHODS[spec.method]),
            tuned_model_display_name=f"{spec.suffix}-{key[-12:]}",
            epoch_count=h.epochs,
            learning_rate_multiplier=h.learning_rate_multiplier,
            beta=h.beta,
            labels={LABEL: key},
        )
        if h.adapter_size is not None:
            config.adapter_size = t.AdapterSize(f"ADAPTER_SIZE_{_ADAPTERS[h.adapter_size]}")
        if h.batch_size is not None:
            config.batch_size = h.batch_size
        if h.samples_per_prompt is not None:
            config.samples_per_prompt = h.samples_per_prompt
        if prepared.validation is not None:
            config.validation_dataset = t.TuningValidationDataset(gcs_uri=prepared.validation)
        if self.kms_key is not None:
            config.encryption_spec = t.EncryptionSpec(kms_key_name=self.kms_key)
        if spec.teacher is not None:
            config.base_teacher_model = spec.teacher.model
            config.sft_loss_weight_multiplier = spec.teacher.sft_loss_weight
            if not is_gemini(spec.base_model):
                config.output_uri = f"gs://{self._bucket}/{self._prefix}".rstrip("/") + f"/output/{key}"
        if spec.grader is not None:
            config.reward_config = t.SingleReinforcementTuningRewardConfig.model_validate(reward_config(spec.grader))
        return config

    def status(self, job_id: str) -> Job:
        with self._calling("tuningJobs.get"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a state that it does not know; we keep the state
            found = self._client.tunings.get(name=job_id)
        return self._job(found, "tuningJobs.get")

    def cancel(self, job_id: str) -> Job:
        before = self.status(job_id)
        if before.state.terminal:
            return before
        with self._calling("tuningJobs.cancel"):
            self._client.tunings.cancel(name=job_id)
        return self.status(job_id)

    def _job(self, found: Any, call: str) -> Job:
        if not found.name or found.state is None:
            raise unreadable(self.target, call, dict.fromkeys(found.model_extra or {}))
        raw = str(getattr(found.state, "value", found.state))
        error = None if found.error is None else f"{found.error.code}: {found.error.message}"
        return Job(
            provider=self.name,
            id=found.name,
            key=(found.labels or {}).get(LABEL),
            state=normalise(raw, JOB_STATES),
            raw_state=raw,
            base_model=found.base_model or "",
            model=found.tuned_model.model if found.tuned_model else None,
            created_at=found.create_time,
            billable_tokens=_billable(found.tuning_data_stats),
            error=error,
        )

    def retrieve(self, job_id: str) -> Tuned:
        with self._calling("tuningJobs.get"):
            found = self._client.tunings.get(name=job_id)
        tuned = found.tuned_model
        if tuned is not None and tuned.model and not tuned.endpoint and found.output_uri:
            raise ProviderRefused(
                f"job {job_id} has made weights, which no endpoint serves: deploy them from the Model Garden (custom "
                f"weights), {found.output_uri.rstrip('/')}/{WEIGHTS}"
            )
        if tuned is None or not tuned.model or not tuned.endpoint:
            raise ProviderRefused(f"job {job_id} has no endpoint, it is {found.state}: watch it until it has succeeded")
        # The endpoint is what answers; the model's name only says what is behind it.
        return Tuned(provider=self.name, job_id=job_id, model=tuned.model, handle=tuned.endpoint)

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        t = self._types
        system = "\n".join(m.content for m in messages if m.role == "system") or None
        roles = {"user": "user", "assistant": "model"}
        contents = [
            t.Content(role=roles[m.role], parts=[t.Part(text=m.content)]) for m in messages if m.role != "system"
        ]
        config = t.GenerateContentConfig(
            system_instruction=system, max_output_tokens=max_tokens, temperature=temperature
        )
        with self._calling("generateContent", about_content=True):
            answer = self._client.models.generate_content(model=tuned.handle, contents=contents, config=config)
        usage = answer.usage_metadata
        if not answer.candidates or usage is None:
            raise unreadable(self.target, "generateContent", type(answer))
        return Completion(
            text=answer.text or "",
            model=answer.model_version or tuned.handle,
            input_tokens=usage.prompt_token_count or 0,
            # Thoughts are charged as what is said.
            output_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        )

    def label(self, tuned: Tuned, labels: Mapping[str, str]) -> None:
        """Say in Vertex's Model Registry where the model comes from."""
        self.registry.label(tuned.model, labels)

    def delete(self, tuned: Tuned) -> None:
        """The endpoint first, and what it holds before it: that is what a deployed model is charged for."""
        self.registry.empty(tuned.handle)
        for name in (tuned.handle, tuned.model):
            try:
                with self._calling("delete"):
                    self._client.models.delete(model=name)
            except ProviderRefused as refusal:
                if "404" not in str(refusal):
                    raise

    @contextmanager
    def _calling(self, call: str, *, about_content: bool = False) -> Iterator[None]:
        import httpx

        try:
            with calling(self.target, call, about_content=about_content):
                yield
        except self._errors.APIError as error:
            raise failure(
                self.target,
                call,
                status=error.code,
                code=str(error.status or ""),
                message=str(error.message or ""),
                about_content=about_content,
            ) from None
        except httpx.HTTPError as error:
            raise failure(self.target, call, status=None, code=type(error).__name__) from None


def _billable(stats: Any) -> int | None:
    """What a job says that it billed. A distillation's statistics leave out what the teacher said: they are no bill."""
    if stats is None:
        return None
    for name in ("supervised_tuning_data_stats", "preference_optimization_data_stats"):
        found = getattr(stats, name, None)
        if found is not None and found.total_billable_token_count is not None:
            return int(found.total_billable_token_count)
    return None
