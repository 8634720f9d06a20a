"""The OpenAI protocol as far as fine-tuning goes: files, jobs, models, chat completions, signed webhooks.

Follows the public API reference of files, fine-tuning jobs and webhooks. Not covered: checkpoints, streaming, and
uploads in parts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from email import message_from_bytes
from email.message import Message
from typing import Any

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

PHASES = ("validating_files", "queued", "running", "succeeded")
_METADATA = re.compile(r"metadata\[(.+)\]")


class LocalOpenAI(LocalProvider):
    """OpenAI's protocol on loopback; `{url}/v1` is the base address.

    `metadata=False` behaves as servers that ignore a job's metadata and the filter for it.
    """

    def __init__(self, *, metadata: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.metadata = metadata
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.phases: dict[str, Phases] = {}
        self.models: set[str] = set()

    def routes(self) -> list[tuple[str, str, Handler]]:
        job = r"/v1/fine_tuning/jobs/([^/]+)"
        return [
            ("POST", r"/v1/files", self._upload),
            ("GET", r"/v1/files", self._list_files),
            ("GET", r"/v1/files/([^/]+)", lambda _, m: Reply(200, self._known(self.files, m[1], "file"))),
            ("POST", r"/v1/fine_tuning/jobs", self._create),
            ("GET", r"/v1/fine_tuning/jobs", self._list),
            ("GET", job, lambda _, m: Reply(200, self._look(m[1]))),
            ("POST", rf"{job}/cancel", self._cancel),
            ("GET", rf"{job}/events", self._events),
            ("DELETE", r"/v1/models/(.+)", self._delete),
            ("POST", r"/v1/chat/completions", self._chat),
        ]

    # Files

    def _upload(self, request: Request, _: re.Match[str]) -> Reply:
        parts = _multipart(request)
        name, content = parts["file"]
        number = self.number()
        found: dict[str, Any] = {
            "id": f"file-{FAKE}{number:06d}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": parts["purpose"][1].decode(),
            "status": "processed",
        }
        if not content:
            raise Refusal(400, "invalid_file", "the file is empty")
        self.files[found["id"]], self.contents[found["id"]] = found, content
        return Reply(200, found)

    def _list_files(self, request: Request, _: re.Match[str]) -> Reply:
        found = [f for f in self.files.values() if request.query.get("purpose") in (None, f["purpose"])]
        return Reply(200, _page(list(reversed(found)), request))

    # Jobs

    def _create(self, request: Request, _: re.Match[str]) -> Reply:
        asked = request.json()
        for name in ("training_file", "validation_file"):
            if asked.get(name) is not None:
                self._known(self.files, asked[name], name)
        self._check_rows(asked["training_file"], asked.get("method", {}).get("type", "supervised"))
        number = self.number()
        job: dict[str, Any] = {
            "id": f"ftjob-{FAKE}{number:06d}",
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": {},
            "model": asked["model"],
            "organization_id": f"org-{FAKE}",
            "result_files": [],
            "seed": asked.get("seed", 0),
            "status": PHASES[0],
            "trained_tokens": None,
            "training_file": asked["training_file"],
            "validation_file": asked.get("validation_file"),
            "method": asked.get("method"),
            "user_provided_suffix": asked.get("suffix"),
            "metadata": asked.get("metadata") if self.metadata else None,
        }
        self.jobs[job["id"]], self.phases[job["id"]] = job, Phases(PHASES)
        return Reply(200, job)

    def _check_rows(self, file_id: str, method: str) -> None:
        """As the real one does after a while; here at once, so that a wrong upload is never a job."""
        wanted = {"supervised": {"messages"}, "dpo": {"input", "preferred_output", "non_preferred_output"}}
        rows = [json.loads(line) for line in self.contents[file_id].splitlines()]
        if len(rows) < 10:
            raise Refusal(400, "invalid_n_examples", f"training file has {len(rows)} example(s): 10 are needed")
        for number, row in enumerate(rows, 1):
            if not wanted.get(method, {"messages"}) <= set(row):
                raise Refusal(400, "invalid_training_file", f"line {number} lacks the fields of method {method}")

    def _list(self, request: Request, _: re.Match[str]) -> Reply:
        wanted = {m[1]: value for key, value in request.query.items() if (m := _METADATA.fullmatch(key))}
        found = [
            job
            for job in reversed(self.jobs.values())
            if not self.metadata or all((job["metadata"] or {}).get(key) == value for key, value in wanted.items())
        ]
        return Reply(200, _page(found, request))

    def _look(self, job_id: str) -> dict[str, Any]:
        job, phases = self._known(self.jobs, job_id, "job"), self.phases[job_id]
        job["status"] = phases.look()
        if job["status"] == "succeeded" and job["fine_tuned_model"] is None:
            rows = self.contents[job["training_file"]]
            model = f"ft:{job['model']}:{FAKE}:{job['user_provided_suffix'] or ''}:{job_id[-6:]}"
            job["fine_tuned_model"] = model
            job["finished_at"], job["trained_tokens"] = int(time.time()), len(rows) // 4
            self.models.add(model)
        return job

    def _cancel(self, _: Request, match: re.Match[str]) -> Reply:
        job, phases = self._known(self.jobs, match[1], "job"), self.phases[match[1]]
        if phases.over:
            raise Refusal(400, "invalid_request_error", f"job {match[1]} has already ended: {phases.now}")
        phases.end("cancelled")
        job["status"], job["finished_at"], job["trained_tokens"] = "cancelled", int(time.time()), 0
        return Reply(200, job)

    def _events(self, request: Request, match: re.Match[str]) -> Reply:
        job = self._known(self.jobs, match[1], "job")
        event = {
            "id": f"ftevent-{FAKE}{match[1][-6:]}",
            "object": "fine_tuning.job.event",
            "created_at": job["created_at"],
            "level": "info",
            "message": f"{DISCLAIMER} {job['status']}",
            "type": "message",
        }
        return Reply(200, _page([event], request))

    # Models

    def _delete(self, _: Request, match: re.Match[str]) -> Reply:
        if match[1] not in self.models:
            raise Refusal(404, "model_not_found", f"the model {match[1]!r} does not exist")
        self.models.remove(match[1])
        return Reply(200, {"id": match[1], "object": "model", "deleted": True})

    def _chat(self, request: Request, _: re.Match[str]) -> Reply:
        asked = request.json()
        if asked["model"].startswith("ft:") and asked["model"] not in self.models:
            raise Refusal(404, "model_not_found", f"the model {asked['model']!r} does not exist")
        words = sum(len(str(message["content"]).split()) for message in asked["messages"])
        answer = {"role": "assistant", "content": f"{DISCLAIMER} {asked['messages'][-1]['content']}", "refusal": None}
        return Reply(
            200,
            {
                "id": f"chatcmpl-{FAKE}{self.number():06d}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked["model"],
                "choices": [{"index": 0, "message": answer, "finish_reason": "stop", "logprobs": None}],
                "usage": {"prompt_tokens": words, "completion_tokens": words + 5, "total_tokens": 2 * words + 5},
            },
        )

    # Webhooks

    def webhook(self, job_id: str, *, secret: str, at: float | None = None) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the message that a job has ended, signed as Standard Webhooks has it."""
        status = self._known(self.jobs, job_id, "job")["status"]
        stamp = int(time.time() if at is None else at)
        event = {
            "id": f"evt_{FAKE}{job_id[-6:]}",
            "object": "event",
            "created_at": stamp,
            "type": f"fine_tuning.job.{status}",
            "data": {"id": job_id},
        }
        body = json.dumps(event)
        key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
        signature = hmac.new(key, f"{event['id']}.{stamp}.{body}".encode(), hashlib.sha256).digest()
        headers = {
            "webhook-id": str(event["id"]),
            "webhook-timestamp": str(stamp),
            "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
        }
        return body.encode(), headers

    @staticmethod
    def _known(table: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
        if name not in table:
            raise Refusal(404, "not_found", f"no such {what}: {name!r}")
        return table[name]


def _page(found: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    after, limit = request.query.get("after"), int(request.query.get("limit", 20))
    ids = [item["id"] for item in found]
    start = ids.index(after) + 1 if after in ids else 0
    page = found[start : start + limit]
    return {"object": "list", "data": page, "has_more": start + limit < len(found), "stepforge_local_fake": True}


def _multipart(request: Request) -> dict[str, tuple[str, bytes]]:
    """Name of a form's field to (file name, bytes)."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    whole = message_from_bytes(head + request.body)
    found: dict[str, tuple[str, bytes]] = {}
    for part in whole.get_payload():
        assert isinstance(part, Message)
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found[name] = (part.get_filename() or "", content)
    return found
