"""HTTP under SageMaker's hosting contract: GET /ping and POST /invocations, JSON in and out.

A request is `{"prompt": ...}` or `{"records": [{"prompt": ...}, ...]}`, optionally with max_new_tokens, temperature and
seed. Requests are read in parallel; the model generates for one of them at a time.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stepforge.contracts.base import first_problem
from stepforge.contracts.serving import MOST_PROMPTS, Sampling
from stepforge.errors import InvalidInput
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.training.models import Policy, from_directory, use_threads

MOST_BYTES = 1 << 20


class Problem(BaseModel):
    """What a completion is asked for. Other fields of a record are let through unread."""

    model_config = ConfigDict(extra="ignore")
    prompt: Annotated[str, Field(min_length=1)]


class Invocation(Sampling):
    """Body of POST /invocations: an `InvokeRequest`, or one prompt alone."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    records: Annotated[list[Problem], Field(min_length=1, max_length=MOST_PROMPTS)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Invocation:
        if (self.prompt is None) == (self.records is None):
            raise ValueError("give either 'prompt' or 'records'")
        return self

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if self.prompt is not None else [record.prompt for record in self.records or []]


class Model:
    """Verified weights that answer one request at a time."""

    def __init__(self, policy: Policy, *, sha256: str) -> None:
        self.sha256 = sha256
        self._policy = policy
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, *, sha256: str) -> Model:
        """Load a model that was verified; `sha256` is its manifest's digest."""
        policy = from_directory(folder, step_end=None)
        use_threads(policy.parameters)
        return cls(policy, sha256=sha256)

    def complete(self, invocation: Invocation) -> list[str]:
        """A completion of each prompt, up to the end of the text. Raises InvalidInput for words it does not know."""
        codec = self._policy.codec
        prompts = codec.contexts(f"{prompt}\n" for prompt in invocation.prompts)
        with self._lock:
            completions = sample(
                self._policy,
                prompts,
                max_new_tokens=invocation.max_new_tokens,
                temperature=invocation.temperature,
                seed=invocation.seed,
                stops={codec.eos},
            )
        return [codec.decode(completion) for completion in completions]


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
            completions = self.model.complete(Invocation.model_validate_json(body))
        except ValidationError as error:
            self._answer(400, {"error": first_problem(error)})
        except InvalidInput as error:
            self._answer(400, {"error": str(error)})
        else:
            self._answer(200, {"completions": completions, "model_sha256": self.model.sha256})

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
