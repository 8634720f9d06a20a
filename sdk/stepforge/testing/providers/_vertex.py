"""Vertex AI's tuning as google-genai calls it, and the objects of Cloud Storage that it reads.

Follows the REST reference of `projects.locations.tuningJobs` (v1beta1), `generateContent`, and Cloud Storage's JSON API
(multipart uploads, objects). Models and endpoints follow `projects.locations.models` and `.endpoints` (v1). Not
covered: pipelines, resumable uploads. Custom jobs and optimisers of prompts: `_vertex_prompts`.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from typing import Any

from stepforge.testing.providers._distillation import refused_by_vertex
from stepforge.testing.providers._server import (
    DISCLAIMER,
    FAKE,
    Handler,
    LocalProvider,
    Phases,
    Refusal,
    Reply,
    Request,
)
from stepforge.testing.providers._vertex_prompts import Candidates, PromptOptimisers, Rewrite

Answer = Callable[[str, list[dict[str, Any]]], str]
"""From system instruction and contents to a completion."""
PHASES = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED")
_DATA = {"distillationSpec": "promptDatasetUri"}
"""Where a spec names its data by another word."""
_LABEL = re.compile(r'labels\.([\w-]+)\s*=\s*"?([\w-]+)"?')


class LocalVertex(LocalProvider):
    """Vertex AI and Cloud Storage on loopback. `filters=False` refuses filters of lists, as some services do.

    `answer` says what a model says, `candidates` what the data-driven optimiser comes to, `rewrite` what the zero-shot
    one makes of a prompt.
    """

    def __init__(
        self,
        *,
        filters: bool = True,
        answer: Answer | None = None,
        candidates: Candidates | None = None,
        rewrite: Rewrite | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.filters = filters
        self._answer = answer
        self.optimisers = PromptOptimisers(self, candidates, rewrite)
        self.objects: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.phases: dict[str, Phases] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, list[str]] = {}
        """To the models that are deployed there."""

    def routes(self) -> list[tuple[str, str, Handler]]:
        place = r"/v1(?:beta1)?/(projects/[^/]+/locations/[^/]+)"
        job = rf"{place}/tuningJobs/([^/:]+)"
        return [
            ("POST", rf"{place}/tuningJobs", self._create),
            ("GET", rf"{place}/tuningJobs", self._list),
            ("GET", job, lambda _, m: Reply(200, self._look(f"{m[1]}/tuningJobs/{m[2]}"))),
            ("POST", rf"{job}:cancel", self._cancel),
            ("POST", rf"{place}/(endpoints|publishers/google/models)/([^/:]+):generateContent", self._generate),
            ("GET", rf"{place}/models/([^/:]+)", self._model),
            ("PATCH", rf"{place}/models/([^/:]+)", self._patch_model),
            ("GET", rf"{place}/endpoints/([^/:]+)", self._endpoint),
            ("POST", rf"{place}/endpoints/([^/:]+):undeployModel", self._undeploy),
            ("DELETE", rf"{place}/(models|endpoints)/([^/]+)", self._delete),
            ("POST", r"/upload/storage/v1/b/([^/]+)/o", self._upload),
            ("GET", r"/storage/v1/b/([^/]+)/o/(.+)", self._object),
            *self.optimisers.routes(place),
        ]

    def error(self, status: int, code: str, message: str) -> Any:
        return {"error": {"code": status, "message": message, "status": code.upper()}}

    # Cloud Storage

    def _upload(self, request: Request, match: re.Match[str]) -> Reply:
        if request.query.get("uploadType") != "multipart":
            raise Refusal(400, "invalid", "the local fake takes uploadType=multipart alone")
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + request.body).get_payload()
        assert isinstance(parts, list)
        about, content = parts
        assert isinstance(about, Message)
        assert isinstance(content, Message)
        raw = about.get_payload(decode=True)
        data = content.get_payload(decode=True)
        assert isinstance(raw, bytes)
        assert isinstance(data, bytes)
        name = json.loads(raw)["name"]
        if request.query.get("ifGenerationMatch") == "0" and f"gs://{match[1]}/{name}" in self.objects:
            raise Refusal(412, "conditionNotMet", "the object is there already")
        self.objects[f"gs://{match[1]}/{name}"] = data
        return Reply(200, self._metadata(match[1], name, data))

    def _object(self, request: Request, match: re.Match[str]) -> Reply:
        data = self.objects.get(f"gs://{match[1]}/{match[2]}")
        if data is None:
            raise Refusal(404, "not_found", f"no such object: {match[1]}/{match[2]}")
        return Reply(200, data if request.query.get("alt") == "media" else self._metadata(match[1], match[2], data))

    @staticmethod
    def _metadata(bucket: str, name: str, data: bytes) -> dict[str, Any]:
        md5 = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{FAKE}",
            "name": name,
            "bucket": bucket,
            "size": str(len(data)),
            "md5Hash": md5,
            "generation": "1",
            "metageneration": "1",
        }

    # Tuning jobs

    def _create(self, request: Request, match: re.Match[str]) -> Reply:
        asked = request.json()
        specs = [key for key in asked if key.endswith("Spec") and key != "encryptionSpec"]
        if len(specs) != 1:
            raise Refusal(400, "invalid_argument", f"one tuning spec is needed, got {specs}")
        uri = asked[specs[0]].get(_DATA.get(specs[0], "trainingDatasetUri"))
        if uri not in self.objects:
            raise Refusal(400, "invalid_argument", f"the training data {uri!r} cannot be read")
        if specs[0] == "distillationSpec" and (why := refused_by_vertex(asked, self.objects[uri])):
            raise Refusal(400, "invalid_argument", why)
        number = self.number()
        name = f"{match[1]}/tuningJobs/{FAKE}{number:06d}"
        now = datetime.now(UTC).isoformat()
        job = {**asked, "name": name, "state": PHASES[0], "createTime": now, "updateTime": now}
        self.jobs[name], self.phases[name] = job, Phases(PHASES)
        return Reply(200, job)

    def _list(self, request: Request, match: re.Match[str]) -> Reply:
        wanted = dict(_LABEL.findall(request.query.get("filter", "")))
        if wanted and not self.filters:
            raise Refusal(400, "invalid_argument", "the filter cannot be used")
        found = [
            job
            for name, job in reversed(self.jobs.items())
            if name.startswith(match[1]) and all((job.get("labels") or {}).get(k) == v for k, v in wanted.items())
        ]
        start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 100)
        page: dict[str, Any] = {"tuningJobs": found[start : start + size]}
        if start + size < len(found):
            page["nextPageToken"] = str(start + size)
        return Reply(200, page)

    def _look(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refusal(404, "not_found", f"no such tuning job: {name!r}")
        job = self.jobs[name]
        job["state"] = self.phases[name].look()
        if job["state"] == PHASES[-1] and "tunedModel" not in job:
            place, number = name.split("/tuningJobs/")[0], name[-6:]
            model, endpoint = f"{place}/models/{FAKE}{number}", f"{place}/endpoints/{FAKE}{number}"
            job["tunedModel"] = {"model": f"{model}@1", "endpoint": endpoint}
            spec = next(key for key in job if key.endswith("Spec") and key != "encryptionSpec")
            data = self.objects[job[spec][_DATA.get(spec, "trainingDatasetUri")]]
            if spec == "distillationSpec":
                about = {"trainingDatasetStats": {"tuningDatasetExampleCount": str(len(data.splitlines()))}}
                job["tuningDataStats"] = {"distillationDataStats": about}
            else:
                preference = spec.startswith("preference")
                stats = "preferenceOptimizationDataStats" if preference else "supervisedTuningDataStats"
                job["tuningDataStats"] = {stats: {"totalBillableTokenCount": str(len(data) // 4)}}
            self.models[model] = {"name": model, "versionId": "1", "labels": {}, "displayName": FAKE}
            if spec == "distillationSpec" and "@" in job["baseModel"]:
                # Of open models there are weights, and no endpoint until somebody deploys them.
                del job["tunedModel"]["endpoint"]
                uri = f"{job['outputUri']}/postprocess/node-0/checkpoints/final/model.safetensors"
                self.objects[uri] = DISCLAIMER.encode()
            else:
                self.endpoints[endpoint] = [model]
        return job

    def _cancel(self, _: Request, match: re.Match[str]) -> Reply:
        name = f"{match[1]}/tuningJobs/{match[2]}"
        if name not in self.jobs:
            raise Refusal(404, "not_found", f"no such tuning job: {name!r}")
        self.phases[name].end("JOB_STATE_CANCELLED")
        return Reply(200, {})

    # Models

    def _generate(self, request: Request, match: re.Match[str]) -> Reply:
        name = f"{match[1]}/{match[2]}/{match[3]}"
        if match[2] == "endpoints" and name not in self.endpoints:
            raise Refusal(404, "not_found", f"no such endpoint: {name!r}")
        asked = request.json()
        text = asked["contents"][-1]["parts"][-1]["text"]
        if self._answer is not None:
            system = "".join(part["text"] for part in asked.get("systemInstruction", {}).get("parts", []))
            text = self._answer(system, asked["contents"])
        content = {"role": "model", "parts": [{"text": f"{DISCLAIMER} {text}"}]}
        words = len(text.split())
        usage = {"promptTokenCount": words, "candidatesTokenCount": words + 5, "totalTokenCount": 2 * words + 5}
        candidates = [{"content": content, "finishReason": "STOP", "index": 0}]
        return Reply(200, {"candidates": candidates, "usageMetadata": usage, "modelVersion": f"{FAKE}/{match[3]}"})

    def _model(self, _: Request, match: re.Match[str]) -> Reply:
        name = f"{match[1]}/models/{match[2]}".split("@")[0]
        if name not in self.models:
            raise Refusal(404, "not_found", f"no such model: {name!r}")
        deployed = [
            {"endpoint": endpoint, "deployedModelId": FAKE}
            for endpoint, models in self.endpoints.items()
            if name in models
        ]
        return Reply(200, {**self.models[name], "deployedModels": deployed})

    def _patch_model(self, request: Request, match: re.Match[str]) -> Reply:
        reply = self._model(request, match)
        if request.query.get("updateMask") != "labels":
            raise Refusal(400, "invalid_argument", "the local fake changes labels alone")
        self.models[f"{match[1]}/models/{match[2]}".split("@")[0]]["labels"] = request.json()["labels"]
        return reply

    def _endpoint(self, _: Request, match: re.Match[str]) -> Reply:
        name = f"{match[1]}/endpoints/{match[2]}"
        if name not in self.endpoints:
            raise Refusal(404, "not_found", f"no such endpoint: {name!r}")
        deployed = [{"id": model.rpartition("/")[2], "model": model} for model in self.endpoints[name]]
        return Reply(200, {"name": name, "displayName": FAKE, "deployedModels": deployed})

    def _undeploy(self, request: Request, match: re.Match[str]) -> Reply:
        self._endpoint(request, match)
        name, wanted = f"{match[1]}/endpoints/{match[2]}", request.json()["deployedModelId"]
        self.endpoints[name] = [model for model in self.endpoints[name] if not model.endswith(f"/{wanted}")]
        answer = {"@type": "type.googleapis.com/google.cloud.aiplatform.v1.UndeployModelResponse"}
        return Reply(200, {"name": f"{match[1]}/operations/{FAKE}", "done": True, "response": answer})

    def _delete(self, _: Request, match: re.Match[str]) -> Reply:
        name = f"{match[1]}/{match[2]}/{match[3]}".split("@")[0]
        table: dict[str, Any] = self.models if match[2] == "models" else self.endpoints
        if name not in table:
            raise Refusal(404, "not_found", f"no such resource: {name!r}")
        if self.endpoints.get(name):
            raise Refusal(400, "failed_precondition", f"{name!r} has deployed models: undeploy them first")
        del table[name]
        return Reply(200, {"name": f"{match[1]}/operations/{FAKE}", "done": True, "response": {}})
