"""The secrets client, on a Secrets Manager in memory that can be slow, down, or rotate."""

from __future__ import annotations

import contextlib
import copy
import doctest
import importlib
import json
import logging
import pickle
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stepforge.errors import InvalidInput, SecretUnavailable
from stepforge.exposure import refuse_secrets, secret_in
from stepforge.secrets import BUDGET_SECONDS, Secret, Secrets
from stepforge.testing import FakeClock, FakeSecretsManager
from stepforge.watchdog import flush_events

PLANTED = "planted-value-7f3a"
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:provider-a1b2c3"


def made(manager: FakeSecretsManager, clock: FakeClock | None = None, **settings: Any) -> Secrets:
    """Patient, where a test does not say otherwise: a machine may stall for longer than the budget as shipped."""
    usual: dict[str, Any] = {"fresh_seconds": 100, "stale_seconds": 1_000, "budget_seconds": 30}
    return Secrets(manager, clock=clock or FakeClock(), **{**usual, **settings})


# ── The value ────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_shows_itself_to_reveal_alone() -> None:
    secret = Secret(ARN, PLANTED, version="v1")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>90}",
        format(secret, ">90"),
        "%s %r" % (secret, secret),  # noqa: UP031
        "{0}".format(secret),  # noqa: UP030, UP032
        json.dumps({"key": secret}, default=str),
        repr([secret, {"key": (secret,)}]),
        repr({name: getattr(secret, name) for name in dir(secret) if name != "reveal"}),
        repr(object.__reduce_ex__(object(), 2)),
        repr(secret.__getstate__()),
        repr(copy.copy(secret)) + repr(copy.deepcopy([secret])),
    ]
    assert not any(PLANTED in text for text in shown)
    assert (secret.reveal(), secret.reveal_bytes()) == (PLANTED, PLANTED.encode())
    for dump in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError) as raised:
            dump(secret)  # type: ignore[operator]
        assert PLANTED not in str(raised.value)
    with pytest.raises(TypeError):
        vars(secret)


def test_a_traceback_with_locals_shows_no_secret() -> None:
    secrets = made(FakeSecretsManager({ARN: PLANTED}))

    def call() -> None:
        key = secrets.get(ARN)
        raise RuntimeError(f"refused {key}")

    try:
        call()
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "Secret('arn:aws" in shown
    assert PLANTED not in shown


def test_bytes_are_text_where_they_can_be() -> None:
    secrets = made(FakeSecretsManager({ARN: PLANTED.encode()}))
    assert (secrets.get(ARN).reveal(), secrets.get(ARN).reveal_bytes()) == (PLANTED, PLANTED.encode())


# ── The cache ────────────────────────────────────────────────────────────────────────────────────


def test_a_value_is_fetched_once_until_it_is_due_and_instances_are_not_due_together() -> None:
    due = []
    for _ in range(20):
        clock, manager = FakeClock(), FakeSecretsManager({ARN: PLANTED})
        secrets = made(manager, clock)
        while len(manager.asked) < 2:
            assert secrets.get(ARN).reveal() == PLANTED
            clock.advance(0.5)
        due.append(clock.monotonic())
    assert 90 <= min(due) < max(due) <= 101


def test_a_hundred_threads_cause_one_fetch() -> None:
    manager = FakeSecretsManager({ARN: PLANTED})
    manager.delay_seconds = 0.05
    secrets = made(manager, budget_seconds=30)
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda _: secrets.get(ARN).reveal(), range(100)))
    assert (found, len(manager.asked)) == ([PLANTED] * 100, 1)


def test_a_failed_fetch_fails_all_who_waited_for_it_and_the_next_call_fetches_anew() -> None:
    manager = FakeSecretsManager({ARN: PLANTED})
    manager.delay_seconds, manager.error = 0.5, "InternalServiceError"
    secrets, together = made(manager, budget_seconds=30), threading.Barrier(20)

    def get(_: int) -> str:
        together.wait()
        try:
            return secrets.get(ARN).reveal()
        except SecretUnavailable as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        found = set(pool.map(get, range(20)))
    assert len(found) == 1
    assert "InternalServiceError" in found.pop()
    assert len(manager.asked) == 1
    manager.error = None
    assert secrets.get(ARN).reveal() == PLANTED


# ── Slow, down, gone ─────────────────────────────────────────────────────────────────────────────


def test_who_has_nothing_cached_hears_within_the_budget_and_what_comes_late_fills_the_cache() -> None:
    manager = FakeSecretsManager({ARN: PLANTED})
    hang = manager.wait_for = threading.Event()
    secrets = made(manager, budget_seconds=BUDGET_SECONDS)
    started = time.monotonic()
    with pytest.raises(SecretUnavailable, match="STEPFORGE_BUDGET_SECRETS_SECONDS"):
        secrets.get(ARN)
    assert time.monotonic() - started >= 0.2
    hang.set()
    # The fetch that is under way is waited for; no second one is begun.
    found: list[str] = []
    while not found:
        with contextlib.suppress(SecretUnavailable):
            found.append(secrets.get(ARN).reveal())
    assert (found, len(manager.asked)) == ([PLANTED], 1)


def test_the_environment_sets_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPFORGE_BUDGET_SECRETS_SECONDS", "0.02")
    manager = FakeSecretsManager({ARN: PLANTED})
    manager.delay_seconds = 0.19
    with pytest.raises(SecretUnavailable, match=r"its budget of 0.02 s"):
        made(manager, budget_seconds=BUDGET_SECONDS).get(ARN)


@pytest.mark.parametrize(
    "fault", ["slow", "InternalServiceError", "ThrottlingException", "ExpiredTokenException", "cut"]
)
def test_a_stale_value_is_served_and_told_while_secrets_manager_fails_up_to_a_bound(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock, manager, hang = FakeClock(), FakeSecretsManager({ARN: PLANTED}), threading.Event()
    secrets = made(manager, clock, budget_seconds=0.5 if fault == "slow" else 30)
    assert not secrets.get(ARN).stale
    clock.advance(100)
    if fault == "slow":
        manager.wait_for = hang
    elif fault == "cut":
        manager.error = ConnectionResetError("cut")
    else:
        manager.error = fault
    found = [secrets.get(ARN) for _ in range(4)]
    assert [secret.stale for secret in found] == [True] * 4
    assert {secret.reveal() for secret in found} == {PLANTED}
    assert caplog.text.count("a stale value is served") == 1
    # Two failures open the breaker: the others waited for nothing.
    assert len(manager.asked) <= 3
    clock.advance(1_000)
    with pytest.raises(SecretUnavailable, match=ARN):
        secrets.get(ARN)
    manager.error = manager.wait_for = None
    hang.set()
    deadline = time.monotonic() + 10
    while True:
        clock.advance(10)
        with contextlib.suppress(SecretUnavailable):
            assert not secrets.get(ARN).stale
            break
        assert time.monotonic() < deadline
    assert flush_events(5)
    assert PLANTED not in caplog.text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ResourceNotFoundException", "Check its name, region and account"),
        ("InvalidRequestException", "not marked for deletion"),
        ("AccessDeniedException", "secretsmanager:GetSecretValue"),
    ],
)
def test_what_is_gone_or_refused_is_an_error_though_a_value_is_cached(code: str, said: str) -> None:
    clock, manager = FakeClock(), FakeSecretsManager({ARN: PLANTED})
    secrets = made(manager, clock)
    secrets.get(ARN)
    clock.advance(100)
    manager.error = code
    for _ in range(4):
        with pytest.raises(InvalidInput, match=said):
            secrets.get(ARN)
    manager.error = "ServiceUnavailable"
    with pytest.raises(SecretUnavailable):
        secrets.get(ARN)


def test_a_secret_without_a_value_is_told() -> None:
    class Empty:
        def get_secret_value(self, **_: str) -> dict[str, str]:
            return {"VersionId": "v1"}

    with pytest.raises(InvalidInput, match="neither a SecretString nor a SecretBinary"):
        Secrets(Empty()).get(ARN)


def test_an_error_that_is_none_of_aws_is_not_taken_for_an_outage() -> None:
    manager = FakeSecretsManager({ARN: PLANTED})
    manager.error = KeyError("a defect")
    with pytest.raises(KeyError):
        made(manager).get(ARN)


# ── Rotation ─────────────────────────────────────────────────────────────────────────────────────


def test_after_a_rotation_refresh_has_the_new_value() -> None:
    manager = FakeSecretsManager({ARN: "old"})
    secrets = made(manager)
    failed = secrets.get(ARN)
    manager.rotate(ARN, "new")
    assert secrets.get(ARN).reveal() == "old"
    assert secrets.refresh(failed).reveal() == "new"
    assert secrets.get(ARN).reveal() == "new"


def test_within_a_rotation_refresh_has_the_pending_value() -> None:
    manager = FakeSecretsManager({ARN: "old"})
    secrets = made(manager)
    failed = secrets.get(ARN)
    manager.begin_rotation(ARN, "new")
    found = secrets.refresh(failed)
    assert (found.reveal(), found.stages) == ("new", ("AWSPENDING",))


def test_refresh_asks_once_where_there_is_no_other_version_however_often_it_is_called() -> None:
    clock, manager = FakeClock(), FakeSecretsManager({ARN: "old"})
    secrets = made(manager, clock)
    failed = secrets.get(ARN)
    for _ in range(50):
        assert secrets.refresh(failed).version == failed.version
    assert len(manager.asked) == 3  # the first, and one for each stage
    clock.advance(5)
    manager.rotate(ARN, "new")
    assert secrets.refresh(failed).reveal() == "new"


def test_of_many_threads_that_fail_with_the_old_value_one_refreshes() -> None:
    manager = FakeSecretsManager({ARN: "old"})
    secrets = made(manager, budget_seconds=30)
    failed = secrets.get(ARN)
    manager.rotate(ARN, "new")
    manager.delay_seconds = 0.02
    with ThreadPoolExecutor(20) as pool:
        found = {secret.reveal() for secret in pool.map(lambda _: secrets.refresh(failed), range(20))}
    assert (found, len(manager.asked)) == ({"new"}, 2)


def test_refresh_serves_nothing_stale() -> None:
    manager = FakeSecretsManager({ARN: "old"})
    secrets = made(manager)
    failed = secrets.get(ARN)
    manager.error = "InternalServiceError"
    with pytest.raises(SecretUnavailable):
        secrets.refresh(failed)


def test_a_fetch_that_hangs_for_good_does_not_end_all_others() -> None:
    clock, manager = FakeClock(), FakeSecretsManager({ARN: PLANTED})
    hang = threading.Event()
    manager.wait_for = hang
    secrets = made(manager, clock, budget_seconds=0.5)
    with pytest.raises(SecretUnavailable):
        secrets.get(ARN)
    manager.wait_for = None
    with pytest.raises(SecretUnavailable):
        secrets.get(ARN)
    clock.advance(20)
    assert secrets.get(ARN).reveal() == PLANTED
    hang.set()


# ── What a job is given ──────────────────────────────────────────────────────────────────────────

KEYS = {
    "an AWS access key": "AKIA" + "Q7ZX2345ABCDEFGH",
    "an Anthropic key": "sk-ant-" + "api03-" + "x7Kd" * 12,
    "an OpenAI key": "sk-proj-" + "x7Kd" * 12,
    "a Google API key": "AIza" + "SyA-1234567890abcdefghijklmnopqrstu",
    "a Hugging Face token": "hf_" + "x7Kd" * 9,
    "a GitHub token": "ghp_" + "x7Kd" * 9,
    "a Slack token": "xoxb-" + "1234567890-abcdef",
    "a Stripe key": "sk_live_" + "x7Kd" * 6,
    "a signed token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.abcDEF123_-xyz",
    "a bearer token": "Authorization: Bearer " + "x7Kd" * 6,
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----\nMII",
    "a URL with a password": "postgres://ann:" + "hunter2@db:5432/x",
    "a signed URL": "https://b.s3.amazonaws.com/k?X-Amz-Signature=" + "ab12" * 16,
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_refused_under_any_name_and_never_shown(kind: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        refuse_secrets({"MODE": "fast", "SETTING": KEYS[kind]}, what="Environment variable")
    said = str(raised.value)
    assert said.startswith("Environment variable 'SETTING' holds a secret (")
    assert "'SETTING_ARN'" in said
    assert KEYS[kind] not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "x" * 40),
        ("clientSecret", "abc"),
        ("HF_TOKEN", "abcdefgh"),
        ("openai_api_key", "none-of-the-known-forms"),
        ("DB_PASSWORD", "12345678"),
        ("DB_PASSWORD", "/hunter2"),
        ("API_TOKEN", "s3://hunter2"),
    ],
)
def test_a_value_named_like_a_secret_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match="named like a secret"):
        refuse_secrets({name: value}, what="Hyperparameter")


def test_what_jobs_are_usually_given_is_let_through() -> None:
    usual = {
        "spec_uri": "s3://stepforge-dev/specs/0123.json",
        "spec_sha256": "ab" * 32,
        "OPENAI_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:openai-a1b2c3",
        "DB_PASSWORD": ARN,
        "HF_TOKEN": "/run/secrets/hf",
        "API_TOKEN": "s3://bucket/token",
        "SECRET": "yes",
        "TOKENIZERS_PARALLELISM": "false",
        "MAX_TOKENS": "512",
        "EOS_TOKEN": "</s>",
        "pad_token": "<|reserved_special_token_0|>",
        "sort_key": "created_at",
        "API_KEY": "",
        "MLFLOW_TRACKING_URI": "https://mlflow.example.org:5000/x?y=1",
        "NCCL_DEBUG": "INFO",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "IMAGE": "111122223333.dkr.ecr.eu-west-1.amazonaws.com/train@sha256:" + "0" * 64,
        "SECRET_NAME": "openai",
        "TOKEN_FILE": "/run/token",
        "SAGEMAKER_PROGRAM": "train.py",
        "task-name": "task-risk-desk-0123456789abcdefghij",
    }
    assert {name: secret_in(name, value) for name, value in usual.items() if secret_in(name, value)} == {}


def test_logging_at_debug_shows_no_fetch_and_goes_on_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    manager = FakeSecretsManager({ARN: PLANTED})
    parser = logging.getLogger("botocore.parsers")
    manager.on_answer = lambda answer: parser.debug("Response body: %s", answer)
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="botocore"):
        made(manager).get(ARN)
        parser.debug("of another call")
    assert PLANTED not in caplog.text
    assert "of another call" in caplog.text


@pytest.mark.parametrize("module", ["stepforge.secrets", "stepforge.exposure"])
def test_examples_run(module: str) -> None:
    ran = doctest.testmod(importlib.import_module(module))
    assert (ran.failed, ran.attempted > 0) == (0, True)
