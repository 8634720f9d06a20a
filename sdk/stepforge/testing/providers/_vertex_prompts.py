"""Vertex AI's custom jobs and prompt optimisers, for the local server.

Follows the REST reference of `projects.locations.customJobs` (v1), the guide of the data-driven optimiser (its
configuration, limits and files of results) and what google-cloud-aiplatform 2.7 sends to `tuningJobs:optimizePrompt`.
A job goes through its phases as it is looked at, and writes its results with the last. Not covered: other containers
than the optimiser's, demonstrations, several metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stepforge.testing.providers._server import DISCLAIMER, FAKE, Handler, Phases, Refusal, Reply, Request

if TYPE_CHECKING:
    from stepforge.testing.providers._vertex import LocalVertex

Config = dict[str, Any]
Rows = list[dict[str, Any]]
Candidates = Callable[[Config, Rows], list[tuple[str, float]]]
"""System instructions that the optimiser comes to, with a score each, from its configuration and sample prompts."""
Rewrite = Callable[[str], str]
IMAGES = re.compile(r"us-docker\.pkg\.dev/vertex-ai(-restricted)?/(cair/vaipo|builtin-algorithm/apd):[\w.]+")
PHASES = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED")
_REQUIRED = ("project", "system_instruction", "prompt_template", "target_model", "optimization_mode",
             "input_data_path", "output_path")  # fmt: skip
_RANGES = {"num_steps": (10, 20), "data_limit": (5, 100), "target_model_qps": (3, 1000), "eval_qps": (3, 1000)}
_METRICS = ("bleu", "exact_match", "rouge_1", "rouge_2", "rouge_l", "question_answering_correctness", "custom_metric")
_LABEL = re.compile(r'labels\.([\w-]+)\s*=\s*"?([\w-]+)"?')


def _proposals(config: Config, _: Rows) -> list[tuple[str, float]]:
    seed = config["system_instruction"]
    return [(seed, 0.25), (f"{DISCLAIMER} {seed}", 0.75)]


class PromptOptimisers:
    """State of one server: its custom jobs."""

    def __init__(self, server: LocalVertex, candidates: Candidates | None, rewrite: Rewrite | None) -> None:
        self._server = server
        self._candidates = candidates or _proposals
        self._rewrite = rewrite or (lambda prompt: f"{DISCLAIMER} {prompt}")
        self.jobs: dict[str, dict[str, Any]] = {}
        self.phases: dict[str, Phases] = {}

    def routes(self, place: str) -> list[tuple[str, str, Handler]]:
        job = rf"{place}/customJobs/([^/:]+)"
        return [
            ("POST", rf"{place}/tuningJobs:optimizePrompt", self._optimise),
            ("POST", rf"{place}/customJobs", self._create),
            ("GET", rf"{place}/customJobs", self._list),
            ("GET", job, lambda _, m: Reply(200, self._look(f"{m[1]}/customJobs/{m[2]}"))),
            ("POST", rf"{job}:cancel", self._cancel),
            ("GET", r"/storage/v1/b/([^/]+)/o", self._objects),
            ("GET", r"/download/storage/v1/b/([^/]+)/o/(.+)", self._server._object),
        ]

    def _objects(self, request: Request, match: re.Match[str]) -> Reply:
        start = f"gs://{match[1]}/"
        names = [uri.removeprefix(start) for uri in self._server.objects if uri.startswith(start)]
        found = sorted(name for name in names if name.startswith(request.query.get("prefix", "")))
        return Reply(200, {"kind": "storage#objects", "items": [{"name": name, "bucket": match[1]} for name in found]})

    # Zero-shot

    def _optimise(self, request: Request, _: re.Match[str]) -> Reply:
        asked = request.json()
        if asked.get("optimizationTarget"):
            raise Refusal(400, "invalid_argument", "the local fake knows the zero-shot optimiser alone")
        prompt = "".join(part["text"] for part in asked["content"]["parts"])
        found = {
            "optimization_type": FAKE,
            "applicable_guidelines": [],
            "original_prompt": prompt,
            "suggested_prompt": self._rewrite(prompt),
        }
        text = f"```json\n{json.dumps(found)}\n```"
        # It streams: a list of pieces.
        pieces = [text[start : start + 40] for start in range(0, len(text), 40)]
        return Reply(200, [{"content": {"role": "model", "parts": [{"text": piece}]}} for piece in pieces])

    # Custom jobs

    def _create(self, request: Request, match: re.Match[str]) -> Reply:
        asked = request.json()
        (pool,) = asked["jobSpec"]["workerPoolSpecs"]
        image = pool["containerSpec"]["imageUri"]
        if not asked.get("displayName") or IMAGES.fullmatch(image) is None:
            raise Refusal(400, "invalid_argument", f"the local fake runs no {image!r}")
        name = f"{match[1]}/customJobs/{FAKE}{self._server.number():06d}"
        now = datetime.now(UTC).isoformat()
        made = {**asked, "name": name, "state": PHASES[0], "createTime": now, "updateTime": now}
        self.jobs[name], self.phases[name] = made, Phases(PHASES)
        return Reply(200, made)

    def _list(self, request: Request, match: re.Match[str]) -> Reply:
        wanted = dict(_LABEL.findall(request.query.get("filter", "")))
        if wanted and not self._server.filters:
            raise Refusal(400, "invalid_argument", "the filter cannot be used")
        found = [
            job
            for name, job in reversed(self.jobs.items())
            if name.startswith(match[1]) and all((job.get("labels") or {}).get(k) == v for k, v in wanted.items())
        ]
        start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 100)
        page: dict[str, Any] = {"customJobs": found[start : start + size]}
        if start + size < len(found):
            page["nextPageToken"] = str(start + size)
        return Reply(200, page)

    def _look(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refusal(404, "not_found", f"no such custom job: {name!r}")
        job, before = self.jobs[name], self.jobs[name]["state"]
        job["state"] = self.phases[name].look()
        if job["state"] == PHASES[-1] != before:
            try:
                self._finish(job)
            except Refusal as refusal:
                job["state"], job["error"] = "JOB_STATE_FAILED", {"code": 3, "message": str(refusal)}
                self.phases[name] = Phases(("JOB_STATE_FAILED",))
        return job

    def _cancel(self, _: Request, match: re.Match[str]) -> Reply:
        name = f"{match[1]}/customJobs/{match[2]}"
        if name not in self.jobs:
            raise Refusal(404, "not_found", f"no such custom job: {name!r}")
        self.phases[name].end("JOB_STATE_CANCELLED")
        return Reply(200, {})

    def _finish(self, job: dict[str, Any]) -> None:
        """What the optimiser's container does: read the configuration and the samples, write the results."""
        (pool,) = job["jobSpec"]["workerPoolSpecs"]
        named = [arg.removeprefix("--config=") for arg in pool["containerSpec"]["args"] if arg.startswith("--config=")]
        config = self._checked(json.loads(self._read(named[0] if named else "none")))
        rows = [json.loads(line) for line in self._read(config["input_data_path"]).splitlines()]
        variables = set(re.findall(r"\{(\w+)\}", config["prompt_template"]))
        if not rows or not variables or any(variables - set(row) for row in rows):
            raise Refusal(400, "invalid_argument", f"the samples have not all of the template's variables {variables}")
        metric = (config.get("eval_metrics_types") or [config.get("eval_metric")])[0]
        found = self._candidates(config, rows)
        templates: list[dict[str, Any]] = [
            {"instruction": text, "metrics": {f"{metric}/mean": score}} for text, score in found
        ]
        folder = f"{config['output_path'].rstrip('/')}/{config['optimization_mode']}"
        best = max(templates, key=lambda row: row["metrics"][f"{metric}/mean"], default={})
        for file, body in (
            ("config.json", config),
            ("templates.json", templates),
            ("eval_results.json", [{"summary_results": row["metrics"], "metrics_table": "[]"} for row in templates]),
            ("optimized_results.json", best),
        ):
            self._server.objects[f"{folder}/{file}"] = json.dumps(body).encode()

    def _checked(self, config: Config) -> Config:
        if missing := [key for key in _REQUIRED if not config.get(key)]:
            raise Refusal(400, "invalid_argument", f"the configuration lacks {missing}")
        metric = (config.get("eval_metrics_types") or [config.get("eval_metric")])[0]
        if metric not in _METRICS or not str(config["target_model"]).startswith("gemini-"):
            raise Refusal(400, "invalid_argument", f"no {metric!r} for {config['target_model']!r}")
        if metric == "custom_metric" and not config.get("custom_metric_cloud_function_name"):
            raise Refusal(400, "invalid_argument", "a custom metric needs its function's name")
        for name, (least, most) in _RANGES.items():
            if name in config and not least <= config[name] <= most:
                raise Refusal(400, "invalid_argument", f"{name} is {config[name]}, but {least} to {most} are taken")
        return config

    def _read(self, uri: str) -> bytes:
        if uri not in self._server.objects:
            raise Refusal(400, "invalid_argument", f"{uri!r} cannot be read")
        return self._server.objects[uri]
