"""HTTP under SageMaker's hosting contract: GET /ping and POST /invocations, JSON in and out.

A request and its answer are `contracts.serving.InvokeRequest` and `InvokeResponse`. Requests are read in parallel; the
model generates for one of them at a time.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stepforge.contracts.base import first_problem
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.records import Provenance, Record
from stepforge.contracts.serving import Exported, InvokeRequest, InvokeResponse
from stepforge.errors import InvalidInput, UnknownName
from stepforge_jobs.domains import Exportable, domain_names, load_domain
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.training.models import Policy, from_directory, use_threads

MOST_BYTES = 1 << 20


class Model:
    """Verified weights that answer one request at a time."""

    def __init__(self, policy: Policy, *, sha256: str, domain: str = "") -> None:
        self.sha256 = sha256
        self._policy = policy
        self._domain = domain
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> Model:
        """Load a model that was verified against its manifest."""
        policy = from_directory(folder, step_end=None)
        policy.asking = manifest.metadata.get("asking", "plain")
        use_threads(policy.parameters)
        return cls(policy, sha256=manifest.sha256, domain=str(manifest.metadata.get("domain", "")))

    def answer(self, request: InvokeRequest) -> InvokeResponse:
        """A completion of each prompt, up to the end of the text, exported where a format was asked for.

        Raises InvalidInput for words that the model does not know and formats that its domain does not have.
        """
        domain = None if request.export is None else self._exportable(request.export)
        codec = self._policy.codec
        asker = self._policy.asker
        prompts = asker.prompts(record.prompt for record in request.records)
        with self._lock:
            tokens = sample(
                self._policy,
                prompts,
                max_new_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
                stops={codec.eos},
            )
        completions = tuple(codec.decode(completion) for completion in tokens)
        exports = []
        if domain is not None and request.export is not None:
            for asked, completion in zip(request.records, tokens, strict=True):
                answer = asker.answer(completion) or ""
                exports.append(_export(domain, self._domain, asked.prompt, answer, format=request.export))
        return InvokeResponse(model_sha256=self.sha256, completions=completions, exports=tuple(exports))

    def _exportable(self, format: str) -> Exportable:
        domain = load_domain(self._domain) if self._domain in domain_names() else None
        if not isinstance(domain, Exportable):
            raise InvalidInput(f"this model's domain {self._domain!r} exports nothing: leave 'export' out")
        if format not in domain.export_formats:
            raise UnknownName("export format", format, domain.export_formats)
        return domain


def _export(domain: Exportable, name: str, prompt: str, completion: str, *, format: str) -> Exported:
    record = Record(
        id="request",
        domain=name,
        source="user",
        split="rl",
        group="request",
        prompt=prompt,
        verifier=f"{name}@served",
        provenance=Provenance(generator="request"),
    )
    try:
        return Exported(content=domain.export(record, completion, format=format))
    except ValueError as refused:
        return Exported(refusal=str(refused))


class Handler(BaseHTTPRequestHandler):
    """Bound to a model by `serve`."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    model: Model

    def do_GET(self) -> None:
        if self.path == "/ping":
            self._answer(200, {"status": "ok", "model_sha256": self.model.sha256})
        else:
            self._answer(404, {"error": f"{self.path} does not exist; there are GET /ping and POST /invocations"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            # The body stays unread, so the connection cannot be used again.
            self.close_connection = True
            self._answer(
                413 if length.isdigit() else 411,
                {"error": f"a body of known length up to {MOST_BYTES} bytes is needed"},
            )
            return
        body = self.rfile.read(int(length))
        if self.path != "/invocations":
            self._answer(404, {"error": f"{self.path} does not exist; there are GET /ping and POST /invocations"})
            return
        try:
            answer = self.model.answer(InvokeRequest.model_validate_json(body))
        except ValidationError as error:
            self._answer(400, {"error": first_problem(error)})
        except InvalidInput as error:
            self._answer(400, {"error": str(error)})
        else:
            self._answer(200, answer.model_dump(mode="json"))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """One JSON line a request; prompts are never logged."""
        print(json.dumps({"event": "request", "message": format % args}), flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve(model: Model, *, host: str, port: int) -> Server:
    """A server that listens; call `serve_forever`."""
    return Server((host, port), type("ModelHandler", (Handler,), {"model": model}))
