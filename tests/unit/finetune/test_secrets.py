"""No key, prompt or completion in a log or an error, through every adapter; and what a missing extra says."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import traceback
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from pydantic import SecretStr

from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable, StepforgeError
from stepforge.finetune import Message, Prepared, Tuned
from stepforge.finetune.keys import reveal
from stepforge.finetune.metering import Meter, TokenPrices
from stepforge.finetune.provider import Deployed
from stepforge.finetune.searches.vertex import VertexRewriter
from stepforge.finetune.settings import VertexSettings
from stepforge.finetune.vertex import VertexProvider
from stepforge.finetune.vertex_prompts import VertexPrompts
from stepforge.testing.providers import LocalAnthropic, LocalOpenAI, LocalProvider, LocalVertex
from stepforge.testing.providers._server import DISCLAIMER, Reply
from tests.unit.finetune import test_providers as providers
from tests.unit.finetune.conftest import Clock
from tests.unit.finetune.test_anthropic import records
from tests.unit.finetune.test_providers import CASES, start
from tests.unit.finetune.test_vertex_prompts import plan as vertex_plan

KEY, PROMPT, TOKEN = "sk-planted-key-0123456789", "planted prompt 1 + 1 =", "ya29.planted-token"
AWS_SECRET = "planted/aws/secret/key"


@cache
def planted_session() -> Any:
    import boto3

    return boto3.Session(
        aws_access_key_id="AKIAPLANTED000000", aws_secret_access_key=AWS_SECRET, region_name="us-east-1"
    )


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets of every adapter's case become ones that can be looked for."""
    import tests.unit.finetune.test_providers as providers

    monkeypatch.setattr(providers, "aws_session", planted_session)
    monkeypatch.setattr(providers, "SecretStr", lambda _: SecretStr(KEY))


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("fault", ["echo", "error", "lost", None])
def test_nothing_planted_is_logged_or_in_an_error(
    name: str,
    fault: Any,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plant(monkeypatch)
    make_server, make_case = CASES[name]
    with make_server(delay_seconds=0.02) as server:
        assert isinstance(server, LocalProvider)
        case = make_case(server, tmp_path)  # type: ignore[operator]
        monkeypatch.setattr(case.provider, "remembers_seconds", 0.0)
        said = []
        with caplog.at_level(logging.DEBUG):
            for call in (
                lambda: start(case, clock),
                lambda: case.provider.invoke(
                    Tuned(provider=name, job_id="j", model="m", handle="projects/p/locations/l/endpoints/e"),  # type: ignore[arg-type]
                    [Message(role="user", content=PROMPT)],
                    max_tokens=5,
                ),
                lambda: case.provider.status("projects/p/tuningJobs/1" if name == "vertex" else "sf-none"),
            ):
                server.plan = lambda _: fault
                try:
                    call()
                except StepforgeError as error:
                    said.append("".join(traceback.format_exception(error)))
    everything = caplog.text + "".join(said)
    assert said or fault is None
    for secret in (KEY, TOKEN, AWS_SECRET, PROMPT, "AKIAPLANTED000000"):
        assert secret not in everything, secret


@pytest.mark.parametrize("fault", ["echo", "error", "lost", None])
def test_nothing_planted_leaves_the_optimiser_s_model(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    from stepforge.finetune.claude import AnthropicModel
    from stepforge.finetune.metering import Meter, TokenPrices

    with LocalAnthropic() as server:
        meter = Meter(TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5)), budget_usd=Decimal(1))
        model = AnthropicModel(SecretStr(KEY), "claude-test", meter, base_url=server.url)
        server.plan = lambda _: fault
        said = ""
        with caplog.at_level(logging.DEBUG):
            try:
                model.ask([Message(role="user", content=PROMPT)], max_tokens=9)
            except StepforgeError as error:
                said = "".join(traceback.format_exception(error))
    assert bool(said) == (fault is not None)
    assert KEY not in caplog.text + said
    assert PROMPT not in caplog.text + said
    # An answer that was lost may have been charged; a refusal was not.
    assert (meter.spent_usd > 0) == (fault != "echo")


def optimisers(server: Any) -> tuple[VertexPrompts, VertexRewriter]:
    """Vertex's, with the planted token."""
    place = {"project": "demo", "location": "us-central1", "base_url": server.url}
    credentials = Credentials(token=TOKEN)
    meter = Meter(TokenPrices(input_usd=Decimal(1), output_usd=Decimal(1)), budget_usd=Decimal(9))
    vertex = VertexProvider(**place, credentials=credentials, folder_uri="gs://bucket/tunes")
    settings = vertex_plan(server).provider
    assert isinstance(settings, VertexSettings)
    assert settings.prompts is not None
    return VertexPrompts(vertex, settings.prompts), VertexRewriter(meter, **place, credentials=credentials)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["echo", "error", "lost", "wrong_schema", None])
def test_nothing_planted_leaves_vertex_s_optimisers_of_prompts(
    fault: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = [record.model_copy(update={"prompt": f"{PROMPT} {n}"}) for n, record in enumerate(records(8))]
    plan = vertex_plan().model_copy(update={"system": f"system: {PROMPT}"})
    said = []
    with LocalVertex(delay_seconds=0.02) as server:
        assert isinstance(server, LocalVertex)
        search, zero_shot = optimisers(server)
        spec = plan.spec(about, tmp_path)
        with caplog.at_level(logging.DEBUG):
            job = search.launch(spec, search.prepare(spec, tmp_path), key="sf-1")
            ended = search.status(job.id)
            for calls in range(4):
                # So many requests of each step go well, and all after them fail.
                for step in (
                    lambda: search.launch(spec, search.prepare(spec, tmp_path), key="sf-2"),
                    lambda: search.find("sf-1", Prepared(training="t")),
                    lambda: search.status(job.id),
                    lambda: search.invoke(
                        Tuned(provider="vertex", job_id=job.id, model="m@sf-1", handle="gemini-3.5-flash"),
                        [Message(role="user", content=PROMPT)],
                        max_tokens=5,
                    ),
                    lambda: zero_shot.ask([Message(role="user", content=PROMPT)], max_tokens=9),
                ):
                    turns = iter([None] * calls + [fault] * 100)
                    server.plan = lambda _: next(turns)  # noqa: B023
                    try:
                        step()
                    except StepforgeError as error:
                        said.append("".join(traceback.format_exception(error)))
    assert ended.id == job.id
    everything = caplog.text + "".join(said)
    assert bool(said) == (fault is not None)
    for secret in (TOKEN, PROMPT):
        assert secret not in everything


class Elsewhere(LocalOpenAI):
    """Answers whatever it is asked, if only it is asked."""

    def routes(self) -> Any:
        return [(method, ".*", lambda *_: Reply(200, {})) for method in ("GET", "POST")]


@pytest.mark.parametrize("status", [302, 307])
def test_neither_keys_nor_prompts_follow_to_another_address(status: int, tmp_path: Path) -> None:
    from stepforge.finetune.claude import AnthropicModel
    from stepforge.finetune.metering import Meter, TokenPrices

    prompt = [Message(role="user", content=PROMPT)]
    with Elsewhere() as there:

        class Redirecting(Elsewhere):
            def routes(self) -> Any:
                away = lambda request, _: Reply(status, {}, {"location": f"{there.url}{request.path}"})  # noqa: E731
                return [(method, ".*", away) for method in ("GET", "POST")]

        with Redirecting() as server:
            for name in CASES:
                provider = CASES[name][1](server, tmp_path).provider  # type: ignore[operator]
                tuned = Tuned(
                    provider=provider.name, job_id="j", model="m", handle="projects/p/locations/l/endpoints/e"
                )
                for call in (
                    lambda: provider.invoke(tuned, prompt, max_tokens=5),  # noqa: B023
                    lambda: provider.status("projects/p/tuningJobs/1"),  # noqa: B023
                    lambda: provider.find("sf-none", Prepared(training="t")),  # noqa: B023
                ):
                    with pytest.raises((ProviderRefused, ProviderUnavailable), match="names another address"):
                        call()
            meter = Meter(TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5)), budget_usd=Decimal(1))
            with pytest.raises((ProviderRefused, ProviderUnavailable), match="names another address"):
                AnthropicModel(SecretStr(KEY), "claude", meter, base_url=server.url).ask(prompt, max_tokens=5)
            search, zero_shot = optimisers(server)
            spec = vertex_plan().spec(records(8), tmp_path)
            for call in (
                lambda: zero_shot.ask([Message(role="user", content=PROMPT)], max_tokens=9),
                lambda: search.prepare(spec, tmp_path),
                lambda: search.status("projects/p/locations/l/customJobs/1"),
                lambda: search.find("sf-none", Prepared(training="t")),
            ):
                with pytest.raises((ProviderRefused, ProviderUnavailable), match="names another address"):
                    call()
        assert there.seen == []


def test_nobody_else_s_log_is_quieter_for_a_provider(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_server, make_case = CASES["bedrock"]
    with make_server(delay_seconds=0.02) as server:
        case = make_case(server, tmp_path)  # type: ignore[operator]
        loggers = [logging.getLogger(name) for name in ("botocore", "botocore.endpoint", "urllib3", "httpx")]
        before = [logger.level for logger in loggers]
        with caplog.at_level(logging.DEBUG):
            with pytest.raises(StepforgeError):
                case.provider.status("sf-none")
            assert caplog.text == ""
            session = providers.aws_session()
            session.client("s3", endpoint_url=server.url).put_object(Bucket="bucket", Key="k", Body=b"")
    assert "Making request" in caplog.text
    assert [logger.level for logger in loggers] == before


def test_a_key_is_a_secret_or_is_fetched() -> None:
    assert reveal(lambda: "fetched", what="the key") == "fetched"
    for wrong in ("sk-plain", SecretStr(""), SecretStr("sk-x\n"), None):
        with pytest.raises(InvalidInput) as refusal:
            reveal(wrong, what="the key")  # type: ignore[arg-type]
        assert "sk-" not in str(refusal.value)


@pytest.mark.parametrize(
    ("module", "extra", "code"),
    [
        ("openai", "openai", "from stepforge.finetune.openai import OpenAIProvider as P; P(S('k'))"),
        ("google.genai", "vertex", "from stepforge.finetune.vertex import VertexProvider as P; "
         "P(project='p', location='l', folder_uri='gs://b')"),
        ("google.cloud.aiplatform_v1", "vertex", "from stepforge.finetune.vertex_jobs import VertexJobs as P; "
         "P(project='p', location='l', credentials=None)"),
        ("anthropic", "anthropic", "from stepforge.finetune.claude import AnthropicModel as P; P(S('k'), 'm', None)"),
    ],
)  # fmt: skip
def test_a_missing_extra_names_its_install_command(module: str, extra: str, code: str) -> None:
    script = f"import sys; sys.modules[{module!r}] = None; from pydantic import SecretStr as S; {code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": "sdk"})
    assert f"pip install 'stepforge[{extra}]'" in done.stderr


def test_importing_the_package_loads_no_client() -> None:
    script = (
        "import sys, stepforge.finetune, stepforge.finetune.plan, stepforge.finetune.launching; "
        "print([m for m in ('openai', 'anthropic', 'google.genai', 'boto3', 'gepa') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": "sdk"})
    assert done.stdout.strip() == "[]", done.stderr


COMPLETION = "planted completion: the merger is on Friday"
ANSWERS = re.compile(r"/chat/completions|/responses|:generateContent|/converse|/invocations")


@pytest.mark.parametrize("name", list(CASES))
def test_a_planted_completion_is_handed_on_and_reaches_no_log_and_no_error(
    name: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_server, make_case = CASES[name]
    with make_server(delay_seconds=0.02) as server:
        case = make_case(server, tmp_path)  # type: ignore[operator]
        job = start(case, clock).entry.job_id
        for _ in range(6):
            case.provider.status(job)
        deployed = isinstance(case.provider, Deployed)
        tuned = case.provider.deploy(job, trial=True, tags={}) if deployed else case.provider.retrieve(job)
        handle, found, said = server._handle, [], []
        right: Any = lambda reply: Reply(200, json.loads(json.dumps(reply.body).replace(DISCLAIMER, COMPLETION)))  # noqa: E731
        wrong = (
            lambda reply: Reply(200, {"surprise": COMPLETION}),
            lambda reply: Reply(200, COMPLETION.encode()),
            lambda reply: Reply(400, server.error(400, COMPLETION, COMPLETION)),
            lambda reply: Reply(500, server.error(500, "server_error", COMPLETION)),
        )
        with caplog.at_level(logging.DEBUG):
            for change in (right, *wrong):

                def answered(request: Any, change: Any = change) -> Reply:
                    reply = handle(request)
                    return change(reply) if ANSWERS.search(request.path) else reply

                monkeypatch.setattr(server, "_handle", answered)
                try:
                    asked = [Message(role="user", content="1 + 1 =")]
                    found.append(case.provider.invoke(tuned, asked, max_tokens=5).text)
                except StepforgeError as error:
                    said.append("".join(traceback.format_exception(error)))
    assert (COMPLETION in found[0], len(found), len(said)) == (True, 1, len(wrong))
    assert COMPLETION not in caplog.text + "".join(said)
