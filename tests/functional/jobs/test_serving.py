"""The endpoint as a process: it answers with the promoted weights, and refuses what was altered."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.functional.jobs.conftest import World
from tests.support.job_folders import copy_artifact, environment

from stepforge.contracts.manifests import read_manifest, write_manifest
from stepforge_jobs.testing import CountingDomain


def start(base: Path, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stepforge_jobs.serving", "serve"],
        env={**environment(base), "SAGEMAKER_BIND_TO_PORT": "0", **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def endpoint(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an endpoint with the base model; SIGTERM must end it with exit code 0."""
    base = tmp_path_factory.mktemp("endpoint")
    (base / "model").symlink_to(world.base, target_is_directory=True)
    process = start(base)
    assert process.stdout is not None
    listening = json.loads(process.stdout.readline() or "{}")
    assert (listening["message"], listening["service"]) == ("listening", "stepforge.serving")
    yield listening["port"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    connection.request(method, path, body=data)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_ping_answers_with_the_digest_of_the_model(world: World, endpoint: int) -> None:
    assert ask(endpoint, "GET", "/ping") == (200, {"status": "ok", "model_sha256": read_manifest(world.base).sha256})


def test_invocations_complete_each_record_and_what_the_base_knows_is_right(endpoint: int) -> None:
    domain = CountingDomain()
    records = [domain.record("test_retained", i, seed=0) for i in range(20)]
    status, answer = ask(endpoint, "POST", "/invocations", {"records": [{"prompt": r.prompt} for r in records]})
    assert status == 200
    right = [domain.verify(r, text).accepted for r, text in zip(records, answer["completions"], strict=True)]
    assert sum(right) >= 16


def test_requests_in_parallel_get_the_answers_that_they_get_alone(endpoint: int) -> None:
    bodies = [
        {"records": [{"prompt": f"n{i} up x3 :"}], "temperature": 1.0, "seed": i, "max_new_tokens": 9} for i in range(8)
    ]
    alone = [ask(endpoint, "POST", "/invocations", body) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda body: ask(endpoint, "POST", "/invocations", body), bodies)) == alone


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "Invalid JSON"),
        ({}, "field 'records'"),
        ({"records": [{"prompt": "n1 sideways :"}]}, "the word 'sideways' is not among"),
        ({"records": [{"prompt": "n1 up x1 :"}], "max_new_tokens": 0}, "field 'max_new_tokens'"),
        ({"records": [{"prompt": "n1 up x1 :"}], "top_p": 1}, "field 'top_p'"),
        ({"records": [{"prompt": "n1 up x1 :"}], "export": "arkit-json"}, "exports nothing"),
        ({"records": [{"prompt": ""}]}, "field 'records.0.prompt'"),
        ({"records": [{"prompt": "n1 " * 40}]}, "leaves no room in the model's context of 32"),
    ],
    ids=[
        "no-json",
        "no-prompt",
        "unknown-word",
        "no-tokens",
        "unknown-option",
        "no-export",
        "empty-prompt",
        "too-long",
    ],
)
def test_a_bad_request_is_answered_with_its_reason(endpoint: int, body: object, reason: str) -> None:
    status, answer = ask(endpoint, "POST", "/invocations", body)
    assert status == 400
    assert reason in answer["error"]


def test_other_paths_and_bodies_that_are_too_large_are_refused(endpoint: int) -> None:
    assert ask(endpoint, "GET", "/models")[0] == 404
    assert ask(endpoint, "POST", "/", {})[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", endpoint, timeout=30)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    assert connection.getresponse().status == 413


@pytest.mark.parametrize("damage", ["altered", "pickle", "other-digest"])
def test_an_altered_model_is_refused_with_the_reason(world: World, tmp_path: Path, damage: str) -> None:
    model = copy_artifact(world.base, tmp_path / "model")
    extra = {}
    if damage == "altered":
        data = bytearray((model / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (model / "model.safetensors").write_bytes(data)
    elif damage == "pickle":
        (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        write_manifest(model, "model")
    else:
        extra = {"STEPFORGE_MODEL_SHA256": "0" * 64}
    process = start(tmp_path, **extra)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    wanted = {
        "altered": "model.safetensors has SHA-256",
        "pickle": "only safetensors are loaded",
        "other-digest": "0" * 64,
    }
    assert errors.strip().splitlines()[-1].startswith("IntegrityError: ")
    assert wanted[damage] in errors
