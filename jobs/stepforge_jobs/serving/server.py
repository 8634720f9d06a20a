"""HTTP under SageMaker's hosting contract: GET /ping and POST /invocations, JSON in and out. GET /metrics beside it.

A request and its answer are `contracts.serving.InvokeRequest` and `InvokeResponse`. Requests are read in parallel; the
model generates for one of them at a time.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stepforge import logs
from stepforge.contracts.base import first_problem
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.records import Provenance, Record
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.serving import Exported, InvokeRequest, InvokeResponse
from stepforge.errors import InvalidInput, UnknownName, UserError
from stepforge_jobs.domains import Askable, Domain, Exportable, domain_names, load_domain
from stepforge_jobs.domains.judging import HereJudge
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.serving.counts import CONTENT_TYPE, Counts
from stepforge_jobs.training.models import Policy, from_directory, use_threads

MOST_BYTES = 1 << 20
PATHS = ("/ping", "/metrics", "/invocations")
THERE_ARE = "there are GET /ping, GET /metrics and POST /invocations"
_ID = re.compile(r"[\w.:=/+-]{1,128}")
logger = logging.getLogger(__name__)


class Model:
    """Verified weights that answer one request at a time, and the domain whose rules judge what they say."""

    def __init__(self, policy: Policy, *, sha256: str, domain: Domain | None = None) -> None:
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
        return cls(policy, sha256=manifest.sha256, domain=domain_of_model(manifest))

    def answer(self, request: InvokeRequest) -> InvokeResponse:
        """A completion of each prompt, up to the end of the text: judged where the domain reads prompts, exported
        where a format was asked for.

        Raises UserError for prompts and words that the domain or the model does not know, and for formats that the
        domain does not have.
        """
        exporter = None if request.export is None else self._exporter(request.export)
        prompts = [asked.prompt for asked in request.records]
        records = [_record(self._domain, prompt) for prompt in prompts]
        codec = self._policy.codec
        asker = self._policy.asker
        contexts = asker.prompts(prompts)
        with self._lock:
            tokens = sample(
                self._policy,
                contexts,
                max_new_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
                stops={codec.eos},
            )
        completions = tuple(codec.decode(completion) for completion in tokens)
        answers = [asker.answer(completion) or "" for completion in tokens]
        verdicts: tuple[Verdict, ...] = ()
        readings: tuple[str, ...] = ()
        if isinstance(self._domain, Askable):
            verdicts = tuple(verdicts_of(HereJudge(self._domain), asker, records, tokens))
            read = zip(records, answers, strict=True)
            readings = tuple(self._domain.describe(record, completion) for record, completion in read)
        exports: tuple[Exported, ...] = ()
        if exporter is not None and request.export is not None:
            exports = _exports(exporter, records, answers, verdicts, format=request.export)
        return InvokeResponse(
            model_sha256=self.sha256, completions=completions, exports=exports, verdicts=verdicts, readings=readings
        )

    def _exporter(self, format: str) -> Exportable:
        if not isinstance(self._domain, Exportable):
            raise InvalidInput("this model's domain exports nothing: leave 'export' out")
        if format not in self._domain.export_formats:
            raise UnknownName("export format", format, self._domain.export_formats)
        return self._domain


def domain_of_model(manifest: Manifest) -> Domain | None:
    """The domain that a model was trained for; None where it is not installed, or the user's own verifier judged it."""
    name = manifest.metadata.get("domain", "")
    if manifest.metadata.get("verifier") is not None or name not in domain_names():
        return None
    return load_domain(name)


def _record(domain: Domain | None, prompt: str) -> Record:
    """The record that a prompt stands for. Raises InvalidInput where the domain reads prompts and this is none."""
    scenario: dict[str, Any] = {}
    if isinstance(domain, Askable):
        try:
            scenario = domain.scenario(prompt)
        except ValueError as error:
            raise InvalidInput(str(error)) from error
    name = domain.name if domain is not None else "served"
    return Record(
        id="request",
        domain=name,
        source="user",
        split="rl",
        group="request",
        prompt=prompt,
        scenario=scenario,
        verifier=f"{name}@served",
        provenance=Provenance(generator="request"),
    )


def _exports(
    domain: Exportable,
    records: Sequence[Record],
    completions: Sequence[str],
    verdicts: Sequence[Verdict],
    *,
    format: str,
) -> tuple[Exported, ...]:
    exports = []
    for index, (record, completion) in enumerate(zip(records, completions, strict=True)):
        # What did not end is refused for that, though it could be read.
        if verdicts and not verdicts[index].accepted:
            exports.append(Exported(refusal=verdicts[index].refusal))
            continue
        try:
            exports.append(Exported(content=domain.export(record, completion, format=format)))
        except ValueError as refused:
            exports.append(Exported(refusal=str(refused)))
    return tuple(exports)


class Handler(BaseHTTPRequestHandler):
    """Bound to a model by `serve`. One line of log an invocation: status, seconds, records; never what they say."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    model: Model
    counts: Counts
    status = 0
    records = 0
    error: BaseException | None = None

    def do_GET(self) -> None:
        self._told(self._get)

    def do_POST(self) -> None:
        self._told(self._post)

    def _told(self, answer: Callable[[], None]) -> None:
        self.status, self.records, self.error, began = 0, 0, None, time.perf_counter()
        ids = ids_of(self.headers)
        self.request_id = ids["request_id"]
        with logs.context(**ids):
            try:
                answer()
            finally:
                self._tell(time.perf_counter() - began)

    def _tell(self, seconds: float) -> None:
        path = self.path if self.path in PATHS else "other"
        self.counts.add(path, self.status, seconds=seconds, records=self.records)
        known = {"method": self.command, "path": path, "status": self.status}
        fields: dict[str, Any] = {**known, "seconds": round(seconds, 4), "records": self.records}
        level = logging.INFO if self.command == "POST" or self.status >= 400 else logging.DEBUG
        if self.error is not None:
            fields["error"] = type(self.error).__name__
        if self.status >= 500 and self.error is not None:
            # Where it broke, and not the message, which may quote a prompt.
            level, fields["where"] = logging.ERROR, "".join(traceback.format_tb(self.error.__traceback__))
        logger.log(level, "request", extra=fields)

    def _get(self) -> None:
        if self.path == "/ping":
            self._answer(200, {"status": "ok", "model_sha256": self.model.sha256})
        elif self.path == "/metrics":
            self._send(200, self.counts.text().encode(), CONTENT_TYPE)
        else:
            self._answer(404, {"error": f"{self.path} does not exist; {THERE_ARE}"})

    def _post(self) -> None:
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
            self._answer(404, {"error": f"{self.path} does not exist; {THERE_ARE}"})
            return
        try:
            request = InvokeRequest.model_validate_json(body)
            self.records = len(request.records)
            answer = self.model.answer(request)
        except ValidationError as error:
            self._refuse(400, error, first_problem(error))
        except UserError as error:
            self._refuse(400, error, str(error))
        except Exception as error:  # noqa: BLE001 - the boundary of a request: the client gets the reason, the log the place
            self._refuse(500, error, f"{type(error).__name__}: {error}")
        else:
            self._answer(200, answer.model_dump(mode="json"))

    def _refuse(self, status: int, error: Exception, reason: str) -> None:
        self.error = error
        self._answer(status, {"error": reason})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body, ensure_ascii=False).encode(), "application/json")

    def _send(self, status: int, data: bytes, content_type: str) -> None:
        self.status = status
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Request-Id", self.request_id)
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Requests are told by `_tell`."""

    def log_message(self, format: str, *args: Any) -> None:
        """What could not be read as a request; the arguments quote it, so that they stay out."""
        logger.warning("no request", extra={"kind": format})


def ids_of(headers: Message) -> dict[str, str]:
    """The caller's ids: X-Request-Id, and the trace of X-Amzn-Trace-Id or, through InvokeEndpoint, CustomAttributes."""
    given = headers.get("X-Request-Id", "")
    ids = {"request_id": given if _ID.fullmatch(given) else secrets.token_hex(8)}
    header = headers.get("X-Amzn-Trace-Id") or headers.get("X-Amzn-SageMaker-Custom-Attributes") or ""
    return {**ids, "trace_id": trace} if (trace := logs.trace_of(header)) else ids


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that its client cut, for the most part."""
        error = sys.exception()
        logger.warning("a connection broke", extra={"error": type(error).__name__})


def serve(model: Model, *, host: str, port: int) -> Server:
    """A server that listens; call `serve_forever`."""
    return Server((host, port), type("ModelHandler", (Handler,), {"model": model, "counts": Counts()}))
