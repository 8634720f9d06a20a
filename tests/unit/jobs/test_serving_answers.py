"""What an endpoint says of its answers: the rules' verdict, words, exports; and what it refuses to be asked."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.log_sinks import Memory

from stepforge import logs
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.records import Record
from stepforge.contracts.serving import InvokeRequest, InvokeResponse, Prompt
from stepforge.errors import InvalidInput, UnknownName
from stepforge_jobs.domains.base import Askable, Domain
from stepforge_jobs.domains.facial import DOMAIN
from stepforge_jobs.serving import server
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.models import Policy

RECORDS = [DOMAIN.record("train", index, seed=0) for index in range(8)]
Ask = Callable[..., InvokeResponse]


class Words:
    """A codec of the domain's words; the end of the text is 0. A tokenizer takes seconds to import."""

    eos = 0

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.words = ("", *vocabulary)

    def contexts(self, texts: Iterable[str]) -> list[list[int]]:
        return [[self.words.index(word) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[number] for number in ids if number)


def model_of(domain: Domain) -> server.Model:
    """A model without weights: `ask` tells it what to say."""
    policy = Policy(network=None, codec=Words(domain.vocabulary), context=64)  # type: ignore[arg-type]
    return server.Model(policy, sha256="0" * 64, domain=domain)


@pytest.fixture
def model() -> server.Model:
    return model_of(DOMAIN)


@pytest.fixture
def ask(model: server.Model, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The model's answer to a record's prompt, where it says what it is told to."""

    def answer(record: Record, text: str, *, end: bool = True, export: str | None = None) -> InvokeResponse:
        monkeypatch.setattr(server, "sample", lambda policy, *_, **__: [policy.codec.contexts([text])[0] + [0] * end])
        return model.answer(InvokeRequest(records=(Prompt(prompt=record.prompt),), export=export))

    return answer


def test_the_experts_answer_is_accepted_as_in_its_evaluation_and_told_in_words(ask: Ask) -> None:
    for record in RECORDS:
        answer = ask(record, record.solution)
        assert answer.verdicts == (DOMAIN.verify(record, record.solution),)
        assert answer.verdicts[0].accepted
        asked_for, *parts = answer.readings[0].splitlines()
        assert record.scenario["primary"].capitalize() in asked_for
        assert [part.partition(":")[0] for part in parts] == ["muscles", "blendshapes", "timing", "body"]


def test_a_refused_answer_names_every_hard_rule_that_failed(ask: Ask) -> None:
    record, other = RECORDS[0], next(r for r in RECORDS if r.scenario["primary"] != RECORDS[0].scenario["primary"])
    (verdict,) = ask(record, other.solution).verdicts
    failed = [rule.rule for rule in verdict.rules if rule.hard and rule.score < 1]
    assert failed
    assert all(f"{rule}: " in verdict.refusal for rule in failed)


def test_what_did_not_end_is_refused_and_not_exported_though_it_could_be_read(ask: Ask) -> None:
    answer = ask(RECORDS[0], RECORDS[0].solution, end=False, export="arkit-json")
    assert answer.verdicts[0].refusal == "the completion did not end"
    assert (answer.exports[0].content, answer.exports[0].refusal) == (None, "the completion did not end")


@pytest.mark.parametrize("format", DOMAIN.export_formats)
def test_an_accepted_answer_is_exported_as_the_domain_exports_its_record(ask: Ask, format: str) -> None:
    for record in RECORDS:
        exported = ask(record, record.solution, export=format).exports[0]
        assert exported.content == DOMAIN.export(record, record.solution, format=format)


def test_an_exported_face_is_json_with_weights_between_0_and_1(ask: Ask) -> None:
    record = next(record for record in RECORDS if record.stratum == "retained")
    plain = json.loads(ask(record, record.solution, export="arkit-json").exports[0].content or "{}")
    assert all(0 <= weight <= 1 for row in plain["weightMat"] for weight in row)


def test_a_refused_answer_is_not_exported_and_says_why(ask: Ask) -> None:
    exported = ask(RECORDS[0], "AU1 ;", export="arkit-json").exports[0]
    assert exported.content is None
    assert "4 steps" in exported.refusal


def test_a_prompt_that_lacks_a_word_is_refused_with_an_example(model: server.Model) -> None:
    with pytest.raises(InvalidInput, match=r"word 2 is 'level4'.*Write e.g. 'feel:fear"):
        model.answer(InvokeRequest(records=(Prompt(prompt="feel:fear level4 felt sudden arkit :"),)))


def test_a_format_that_there_is_not_is_refused_with_those_that_there_are(model: server.Model) -> None:
    with pytest.raises(UnknownName, match="did you mean 'arkit-json'"):
        model.answer(InvokeRequest(records=(Prompt(prompt=RECORDS[0].prompt),), export="arkit"))


def test_a_domain_that_reads_no_prompts_leaves_its_answers_unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = CountingDomain()
    assert not isinstance(domain, Askable)
    monkeypatch.setattr(server, "sample", lambda *_, **__: [[1, 0]])
    answer = model_of(domain).answer(InvokeRequest(records=(Prompt(prompt="n1 up x2 :"),)))
    assert (answer.completions, answer.verdicts, answer.readings) == (("n0",), (), ())


@pytest.mark.parametrize(
    ("metadata", "judged"),
    [
        ({"domain": "facial", "verifier": None}, True),
        ({"domain": "facial"}, True),
        ({"domain": "facial", "verifier": "my_rules:check"}, False),
        ({"domain": "sums", "verifier": "my_rules:check"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_the_users_own_verifier_is_not_replaced_by_the_rules_of_a_domain(metadata: dict, judged: bool) -> None:
    found = server.domain_of_model(Manifest(kind="model", files=(), metadata=metadata))
    assert (found is not None) == judged


# ── Over HTTP ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def port(model: server.Model) -> Iterator[int]:
    running = server.serve(model, host="127.0.0.1", port=0)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield running.server_port
    running.shutdown()
    running.server_close()


def eventually(look: Callable[[], list[Any]], *, least: int = 1) -> list[Any]:
    """What is logged: a line is written after the answer has gone."""
    deadline = time.monotonic() + 20
    while len(found := look()) < least:
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    return found


def post(port: int, **body: object) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/invocations", body=json.dumps({"records": [{"prompt": RECORDS[0].prompt}], **body}))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_a_format_that_there_is_not_gets_an_answer_and_no_closed_connection(port: int) -> None:
    status, said = post(port, export="glb")
    assert (status, said["error"].partition(":")[0]) == (400, "unknown export format 'glb'")


def test_a_defect_is_answered_with_its_reason(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(server, "sample", broken)
    assert post(port) == (500, {"error": "RuntimeError: it broke"})
    (record,) = eventually(lambda: caplog.records)
    assert (record.levelname, vars(record)["error"]) == ("ERROR", "RuntimeError")
    assert "in broken" in vars(record)["where"]


# ── What it logs ─────────────────────────────────────────────────────────────────────────────────

TRACE = "1-67890abc-0123456789abcdef01234567"


@pytest.fixture
def lines() -> Iterator[Memory]:
    sink = Memory()
    with logs.configure("stepforge.serving", sink=sink, level="DEBUG", queued=False):
        yield sink


def send(port: int, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    response.read()
    return response


def told(lines: Memory) -> dict[str, Any]:
    return eventually(lines.read)[-1]


def test_an_answer_leaves_a_line_with_the_ids_of_who_asked(port: int, lines: Memory) -> None:
    answered = send(port, "POST", "/invocations", "{}", X_Request_Id="call-1", X_Amzn_Trace_Id=f"Root={TRACE}")
    line = told(lines)
    assert (line["request_id"], line["trace_id"], line["service"]) == ("call-1", TRACE, "stepforge.serving")
    assert (line["path"], line["status"], line["level"], line["error"]) == (
        "/invocations", 400, "INFO", "ValidationError",
    )  # fmt: skip
    assert 0 <= line["seconds"] < 30
    assert answered.headers["X-Request-Id"] == "call-1"


def test_an_id_that_is_none_is_replaced_and_a_trace_comes_through_sagemaker_too(port: int, lines: Memory) -> None:
    answered = send(port, "GET", "/ping", X_Request_Id='a"b c', X_Amzn_SageMaker_Custom_Attributes=f"Root={TRACE}")
    line = told(lines)
    assert (line["level"], line["trace_id"]) == ("DEBUG", TRACE)
    assert re.fullmatch(r"[0-9a-f]{16}", line["request_id"])
    assert answered.headers["X-Request-Id"] == line["request_id"]


def test_neither_a_prompt_nor_a_completion_is_logged_whatever_happens(
    port: int, lines: Memory, model: server.Model, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt, answer = RECORDS[0].prompt, RECORDS[0].solution
    secret = "sesame-opens-9"

    def say(policy: Policy, *_: object, **__: object) -> list[list[int]]:
        return [policy.codec.contexts([answer])[0] + [0]]

    def broken(*_: object, **__: object) -> list[list[int]]:
        raise RuntimeError(f"cannot read {prompt} {secret}")

    def ask(text: str) -> int:
        return send(port, "POST", "/invocations", json.dumps({"records": [{"prompt": text}]})).status

    monkeypatch.setattr(server, "sample", say)
    assert ask(prompt) == 200
    assert ask(f"{prompt} {secret}") == 400
    monkeypatch.setattr(server, "sample", broken)
    assert ask(prompt) == 500
    send(port, "POST", f"/invocations?{secret}", "{}")
    send(port, "POST", "/invocations", f'{{"records": "{secret}"}}')
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(f"{secret} nonsense {secret} {secret}\r\n\r\n".encode())
        raw.recv(100)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as cut:
        cut.sendall(f"POST /invocations HTTP/1.1\r\nContent-Length: 90\r\n\r\n{secret}".encode())
    eventually(lines.read, least=7)
    said = lines.text() + "".join(capfd.readouterr())
    assert secret not in said
    assert prompt not in said
    assert answer not in said
    statuses = [line["status"] for line in lines.read() if line["message"] == "request"]
    # Each is logged after its answer went out, beside the next request.
    assert sorted(statuses[:5]) == [200, 400, 400, 404, 500]


def test_what_was_answered_is_counted_for_prometheus(port: int, lines: Memory) -> None:
    prompts = [{"prompt": "nonsense"}, {"prompt": "more"}]
    send(port, "POST", "/invocations", json.dumps({"records": prompts}))
    send(port, "GET", "/ping")
    send(port, "GET", "/unknown/path")
    eventually(lines.read, least=3)
    answered = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    answered.request("GET", "/metrics")
    response = answered.getresponse()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
    found = {
        (name, sample.labels["path"], sample.labels["status"]): sample.value
        for name, family in families.items()
        for sample in family.samples
    }
    assert found["stepforge_requests", "/invocations", "400"] == 1
    assert found["stepforge_records", "/invocations", "400"] == 2
    assert found["stepforge_requests", "/ping", "200"] == 1
    assert found["stepforge_requests", "other", "404"] == 1
    assert 0 < found["stepforge_request_seconds", "/invocations", "400"] < 30
