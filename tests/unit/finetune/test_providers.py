"""The real clients of every provider, from launch to deletion, against the local servers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stepforge.errors import InvalidInput, LaunchUncertain, ModelGone, ProviderRefused, ProviderUnavailable, Throttled
from stepforge.finetune import DatasetFile, Message, Provider, State, TokenRange, TuneSpec, launch_key
from stepforge.finetune.entries import Stage
from stepforge.finetune.launching import launch
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.provider import Deployed
from stepforge.finetune.spec import (
    Grader,
    HttpGrader,
    Hyperparameters,
    LambdaGrader,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from stepforge.testing.providers import Fault, LocalBedrock, LocalOpenAI, LocalVertex
from tests.unit.finetune.conftest import BUDGETS, PRICE, Clock

ROLE = "arn:aws:iam::000000000000:role/tuning"
HUB = "arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/small-model/1.0.0"
GROUP = "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/demo"
TAGS = {"stepforge:environment": "local", "stepforge:domain": "demo"}
LAMBDA = LambdaGrader(arn="arn:aws:lambda:us-east-1:000000000000:function:grader")


@dataclass
class Case:
    provider: Provider
    server: Any
    spec: TuneSpec
    folder: Path
    create: tuple[str, str]
    """Method and path of the request that is charged."""


def openai_case(server: LocalOpenAI, folder: Path) -> Case:
    from stepforge.finetune.openai import OpenAIProvider

    provider = OpenAIProvider(SecretStr("sk-test"), base_url=f"{server.url}/v1")
    spec = make_spec(folder, "openai", "openai", "gpt-4.1-mini")
    return Case(provider, server, spec, folder, ("POST", "/v1/fine_tuning/jobs"))


def vertex_case(server: LocalVertex, folder: Path) -> Case:
    from google.oauth2.credentials import Credentials

    from stepforge.finetune.vertex import VertexProvider

    provider = VertexProvider(
        project="demo",
        location="us-central1",
        folder_uri="gs://bucket/tunes",
        credentials=Credentials(token="ya29.test"),
        base_url=server.url,
        kms_key="projects/demo/locations/us-central1/keyRings/r/cryptoKeys/k",
    )
    spec = make_spec(folder, "vertex", "vertex", "gemini-2.5-flash")
    return Case(provider, server, spec, folder, ("POST", "/v1beta1/projects/demo/locations/us-central1/tuningJobs"))


@cache
def aws_session() -> Any:
    """One for all: a session reads the service models, megabytes of JSON, only once."""
    import boto3

    return boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="test", region_name="us-east-1")


def bedrock_case(server: LocalBedrock, folder: Path) -> Case:
    from stepforge.finetune.bedrock import BedrockProvider

    provider = BedrockProvider(
        aws_session(), role_arn=ROLE, folder_uri="s3://bucket/tunes", endpoint_url=server.url, sleep=lambda _: None
    )
    spec = make_spec(folder, "bedrock", "bedrock", "amazon.nova-micro-v1:0")
    return Case(provider, server, spec, folder, ("POST", "/model-customization-jobs"))


def sagemaker_case(server: LocalBedrock, folder: Path, *, sleep: Callable[[float], object] = lambda _: None) -> Case:
    from stepforge.finetune.sagemaker import SageMakerProvider

    provider = SageMakerProvider(
        aws_session(),
        role_arn=ROLE,
        folder_uri="s3://bucket/tunes",
        group_arn=GROUP,
        instance_type="ml.g5.2xlarge",
        endpoint_url=server.url,
        sleep=sleep,
    )
    return Case(provider, server, make_spec(folder, "sagemaker", "sagemaker", HUB), folder, ("POST", "/"))


CASES = {
    "openai": (LocalOpenAI, openai_case),
    "vertex": (LocalVertex, vertex_case),
    "bedrock": (LocalBedrock, bedrock_case),
    "sagemaker": (LocalBedrock, sagemaker_case),
}


def make_spec(folder: Path, provider: Any, format_: Any, model: str) -> TuneSpec:
    from hashlib import sha256

    line = json.dumps({"messages": [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]})
    data = f"{line}\n".encode() * 20
    digest = sha256(data).hexdigest()
    (folder / f"{digest}.jsonl").write_bytes(data)
    tokens = TokenRange(low=1000, high=2000, method="a test")
    file = DatasetFile(format=format_, method="sft", sha256=digest, bytes=len(data), rows=20, tokens=tokens)
    return TuneSpec(provider=provider, environment="local", base_model=model, method="sft", training=file)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    make_server, make_case = CASES[request.param]
    with make_server(delay_seconds=0.02) as server:
        yield make_case(server, tmp_path)


def start(case: Case, clock: Clock) -> Any:
    ledger = FileLedger(case.folder / "spend.sqlite", clock=clock)

    def sleep(seconds: float) -> None:
        case.server.settle()
        clock.sleep(seconds)

    return launch(case.provider, case.spec, case.folder, ledger=ledger, budgets=BUDGETS, price=PRICE, sleep=sleep)


def created(case: Case) -> int:
    """How many jobs the server has."""
    return len(case.server.jobs)


def test_every_provider_goes_from_launch_to_deletion(case: Case, clock: Clock) -> None:
    assert isinstance(case.provider, Provider)
    done = start(case, clock)
    assert (done.stage, created(case)) == (Stage.LAUNCHED, 1)
    job = done.job
    assert job.local_fake
    with pytest.raises(ProviderRefused, match="until it has succeeded"):
        case.provider.retrieve(job.id)
    for _ in range(6):
        job = case.provider.status(job.id)
    assert (job.state, job.key) == (State.SUCCEEDED, launch_key(case.spec, case.provider.target))
    tuned = case.provider.retrieve(job.id)
    assert "localfake" in tuned.model
    if isinstance(case.provider, Deployed):
        with pytest.raises(ProviderRefused, match="registry approve"):
            case.provider.invoke(tuned, [Message(role="user", content="hi")], max_tokens=9)
        tuned = case.provider.deploy(job.id, trial=False, tags=TAGS)
    asked = [Message(role="system", content="Be short."), Message(role="user", content="1 + 1 =")]
    answer = case.provider.invoke(tuned, asked, max_tokens=9)
    assert answer.text.startswith("[local fake")
    assert answer.input_tokens > 0
    assert answer.output_tokens > 0
    case.provider.delete(tuned)
    case.provider.delete(tuned)
    with pytest.raises(ProviderRefused):
        case.provider.invoke(tuned, [Message(role="user", content="hi")], max_tokens=9)


def test_an_endpoint_that_is_removed_while_it_is_made_is_not_made_again(tmp_path: Path, clock: Clock) -> None:
    with LocalBedrock(delay_seconds=0.02) as server:
        assert isinstance(server, LocalBedrock)
        case = sagemaker_case(server, tmp_path, sleep=lambda _: server.endpoints.made["Endpoint"].clear())
        assert isinstance(case.provider, Deployed)
        job = start(case, clock).job
        for _ in range(6):
            case.provider.status(job.id)
        with pytest.raises(ProviderRefused, match="removed while it was being made"):
            case.provider.deploy(job.id, trial=True, tags=TAGS)
        assert server.endpoints.made["Endpoint"] == {}


def test_a_customized_model_is_served_as_the_hub_says_and_a_trial_never_touches_what_serves(
    tmp_path: Path, clock: Clock
) -> None:
    with LocalBedrock(delay_seconds=0.02) as server:
        assert isinstance(server, LocalBedrock)
        case = sagemaker_case(server, tmp_path)
        assert isinstance(case.provider, Deployed)
        job = start(case, clock).job
        for _ in range(6):
            case.provider.status(job.id)
        live, trial = (case.provider.deploy(job.id, trial=trial, tags=TAGS) for trial in (False, True))
        assert trial.handle == f"{live.handle}-trial"
        # The same again changes nothing; neither does a second removal.
        assert case.provider.deploy(job.id, trial=True, tags=TAGS) == trial
        for _ in range(2):
            case.provider.undeploy(job.id, trial=True)
        made = server.endpoints.made
        assert [list(made[kind]) for kind in made] == [[live.handle]] * 3
        for kind in made:
            tags = {tag["Key"]: tag["Value"] for tag in made[kind][live.handle]["Tags"]}
            assert tags == {**TAGS, "stepforge:key": live.handle}, kind
        container = made["Model"][live.handle]["PrimaryContainer"]
        assert container["Image"].endswith("localfake-lmi:1")
        assert container["Environment"] == {"OPTION_ROLLING_BATCH": "vllm"}
        source = container["ModelDataSource"]["S3DataSource"]
        assert source["S3Uri"] == "s3://bucket/tunes/output/checkpoints/hf_merged/"
        (variant,) = made["EndpointConfig"][live.handle]["ProductionVariants"]
        assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.g5.2xlarge", 1)
        # One that fails is removed, since it is charged for, and its reason is told.
        server.endpoints.phases[live.handle]._ended = "Failed"
        with pytest.raises(ProviderRefused, match="failed and was removed"):
            case.provider.deploy(job.id, trial=False, tags=TAGS)
        assert [list(made[kind]) for kind in made] == [[]] * 3


def test_what_could_not_be_deployed_is_refused_before_it_is_paid_for(tmp_path: Path) -> None:
    from stepforge.finetune.sagemaker import SageMakerProvider

    given = {"role_arn": ROLE, "folder_uri": "s3://bucket/tunes", "group_arn": GROUP}
    spec = make_spec(tmp_path, "sagemaker", "sagemaker", HUB)
    with pytest.raises(InvalidInput, match="instance_type"):
        SageMakerProvider(aws_session(), **given).check_serving(spec)
    nova = spec.model_copy(update={"base_model": HUB.replace("small-model", "nova-micro")})
    with pytest.raises(InvalidInput, match="bedrock"):
        SageMakerProvider(aws_session(), **given, instance_type="ml.g5.2xlarge").check_serving(nova)


@pytest.mark.parametrize("fault", ["lost", "late", "error_after", "error", "dropped", "wrong_schema", "throttled"])
def test_every_provider_is_charged_once_whatever_the_answer_was(case: Case, fault: Fault, clock: Clock) -> None:
    if case.provider.name == "sagemaker":
        # One path for all of its calls: let the look before the launch through.
        orders = iter([None, fault])
        case.server.plan = lambda r: next(orders, None) if (r.method, r.path) == ("POST", "/") else None
    else:
        case.server.fail(fault, method=case.create[0], path=case.create[1])
    done = start(case, clock)
    case.server.settle()
    assert (done.stage, created(case)) == (Stage.LAUNCHED, 1)


def test_a_state_that_nobody_knows_is_no_end_and_keeps_its_words(case: Case, clock: Clock) -> None:
    done = start(case, clock)
    case.server.plan = lambda _: "unknown_state"
    job = case.provider.status(done.job.id)
    assert (job.state, job.state.terminal) == (State.UNKNOWN, False)
    assert job.raw_state.lower().replace("_", "").endswith("review")


def test_cancelling_stops_the_charge_and_leaves_what_has_ended(case: Case, clock: Clock) -> None:
    done = start(case, clock)
    assert case.provider.cancel(done.job.id).state == State.CANCELLED
    assert case.provider.cancel(done.job.id).state == State.CANCELLED
    again = start(case, clock)
    assert (again.stage, created(case)) == (Stage.LAUNCHED, 1)


def test_an_answer_of_another_shape_is_no_empty_list(case: Case, clock: Clock) -> None:
    prepared = case.provider.prepare(case.spec, case.folder)
    case.server.plan = lambda _: "wrong_schema"
    with pytest.raises(ProviderUnavailable, match="shape"):
        case.provider.find("sf-none", prepared)


@pytest.mark.parametrize(
    ("fault", "kind"), [("error", ProviderUnavailable), ("dropped", ProviderUnavailable), ("throttled", Throttled)]
)
def test_failures_have_one_language(case: Case, fault: Fault, kind: type[Exception]) -> None:
    case.server.plan = lambda _: fault
    with pytest.raises(kind):
        case.provider.status("sf-none" if case.provider.name in ("bedrock", "sagemaker") else "projects/p/tuningJobs/1")
    # Who repeats is the launcher or the machine, and nobody below them.
    assert len(case.server.seen) == 1


def test_no_client_uploads_or_launches_twice_by_itself(case: Case) -> None:
    def fails(call: Callable[[], object]) -> None:
        case.server.seen.clear()
        case.server.plan = lambda _: "error"
        with pytest.raises(ProviderUnavailable):
            call()
        case.server.plan = None
        assert len(set(case.server.seen)) == len(case.server.seen)

    fails(lambda: case.provider.prepare(case.spec, case.folder))
    prepared = case.provider.prepare(case.spec, case.folder)
    fails(lambda: case.provider.launch(case.spec, prepared, key="sf-none"))


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    with LocalBedrock() as server, socket.create_connection(server._server.server_address, timeout=5) as connection:  # type: ignore[arg-type]
        connection.sendall(b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hi")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


# ── What is sent ─────────────────────────────────────────────────────────────────────────────────


def test_vertex_gets_the_key_as_a_label_and_encrypts(tmp_path: Path, clock: Clock) -> None:
    with LocalVertex() as server:
        assert isinstance(server, LocalVertex)
        case = vertex_case(server, tmp_path)
        start(case, clock)
        (job,) = server.jobs.values()
    assert job["labels"] == {"stepforge-key": launch_key(case.spec, case.provider.target)}
    # The client writes the field's name as protobuf has it; the service takes either.
    assert [key.rpartition("/")[2] for key in job["encryptionSpec"].values()] == ["k"]
    assert job["supervisedTuningSpec"]["hyperParameters"]["epochCount"] == 2


def test_vertex_reads_the_whole_list_where_filters_are_refused(tmp_path: Path, clock: Clock) -> None:
    with LocalVertex(filters=False) as server:
        assert isinstance(server, LocalVertex)
        case = vertex_case(server, tmp_path)
        server.fail("lost", path=case.create[1])
        start(case, clock)
        assert len(server.jobs) == 1


def with_grader(case: Case, grader: Grader) -> TuneSpec:
    format_ = {"bedrock": "openai"}.get(case.provider.name, case.provider.name)
    training = case.spec.training.model_copy(update={"method": "rft", "format": format_})
    values = {"method": "rft", "grader": grader.model_dump(), "training": training.model_dump()}
    return TuneSpec.model_validate({**case.spec.model_dump(), **values})


GRADE = "def grade(sample, item):\n    return float(sample['output_text'] == item['reference_answer'])\n"
OFFERED = {
    "openai": (
        StringCheck(),
        TextSimilarity(),
        PythonGrader(source=GRADE),
        ScoreModel(model="gpt-4.1", prompt="{{sample.output_text}} or {{item.reference_answer}}"),
    ),
    "vertex": (
        StringCheck(),
        PythonGrader(source=GRADE),
        HttpGrader(uri="https://example.run.app"),
        ScoreModel(model="gemini-2.5-pro", prompt="{{sample.output_text}} or {{item.reference_answer}}"),
    ),
    "bedrock": (LAMBDA,),
    "sagemaker": (LAMBDA,),
}
ALL = (StringCheck(), TextSimilarity(), PythonGrader(source=GRADE), LAMBDA, HttpGrader(uri="https://example.run.app"))


def test_a_grader_is_sent_in_the_provider_s_words_or_refused_with_what_there_is(case: Case, clock: Clock) -> None:
    for grader in OFFERED[case.provider.name]:
        spec = with_grader(case, grader)
        case.spec = spec
        done = start(case, clock)
        assert done.stage == Stage.LAUNCHED, grader
    offered = {grader.type for grader in OFFERED[case.provider.name]}
    for grader in ALL:
        if grader.type not in offered:
            with pytest.raises(InvalidInput, match="grader"):
                case.provider.validate(with_grader(case, grader))


def test_a_python_grader_runs_where_vertex_calls_it() -> None:
    from stepforge.finetune.vertex_rewards import reward_config

    code = reward_config(PythonGrader(source=GRADE))["code_execution_reward_scorer"]["python_code_snippet"]
    names: dict[str, Any] = {}
    exec(code, names)  # as the provider's sandbox does
    row = {"contents": [], "references": {"reference_answer": "2"}}
    assert [names["evaluate"](row, {"parts": [{"text": text}]}) for text in ("2", "3")] == [1.0, 0.0]


def test_claude_on_bedrock_is_refused_with_the_day_it_ended(tmp_path: Path) -> None:
    with LocalBedrock() as server:
        assert isinstance(server, LocalBedrock)
        case = bedrock_case(server, tmp_path)
        claude = case.spec.model_copy(update={"base_model": "anthropic.claude-3-haiku-20240307-v1:0"})
        with pytest.raises(ModelGone, match="2026-09-10"):
            case.provider.validate(claude)
        assert server.seen == []


def test_openai_itself_takes_no_jobs_after_its_last_day_and_others_do(tmp_path: Path) -> None:
    from datetime import date

    from stepforge.finetune.openai import OPENAI, OpenAIProvider

    spec = make_spec(tmp_path, "openai", "openai", "gpt-4.1-mini").model_copy(update={"environment": "dev"})
    for url, day, refused in (
        (OPENAI, date(2027, 1, 6), False),
        (OPENAI, date(2027, 1, 7), True),
        ("https://example.openai.azure.com/openai/v1", date(2027, 1, 7), False),
    ):
        provider = OpenAIProvider(SecretStr("sk-test"), base_url=url, today=lambda day=day: day)  # type: ignore[misc]
        if refused:
            with pytest.raises(ModelGone, match="2027-01-06"):
                provider.validate(spec)
        else:
            provider.validate(spec)


def test_hyperparameters_are_sent_as_each_provider_names_them(case: Case, clock: Clock) -> None:
    case.spec = case.spec.model_copy(update={"hyperparameters": Hyperparameters(epochs=4, batch_size=32)})
    start(case, clock)
    (job,) = case.server.jobs.values()
    sent = json.dumps(job, default=str)
    words = {
        "openai": '"n_epochs": 4, "batch_size": 32',
        "vertex": '"epochCount": 4',
        "bedrock": '"epochCount": "4", "batchSize": "32"',
        "sagemaker": '"max_epochs": "4", "global_batch_size": "32"',
    }
    assert words[case.provider.name] in sent


AZURE = "https://me.openai.azure.com/openai/v1"


def test_a_tune_at_azure_is_refused_before_it_is_paid_for_and_registered_by_its_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    from stepforge.finetune.openai import OpenAIProvider
    from stepforge.finetune.settings import OpenAISettings

    spec = make_spec(tmp_path, "openai", "openai", "gpt-4.1-mini")
    with pytest.raises(InvalidInput, match=r"`stepforge finetune launch`.*deployment.*register"):
        OpenAIProvider(SecretStr("sk-test"), base_url=AZURE).check_serving(spec)
    with pytest.raises(InvalidInput, match="state machine does not"):
        OpenAISettings(type="openai", base_url=AZURE, deployment="mine").check_machine(None)
    OpenAISettings(type="openai").check_machine(None)
    with LocalOpenAI() as server:
        assert isinstance(server, LocalOpenAI)
        case = openai_case(server, tmp_path)
        case.provider.check_serving(spec)  # type: ignore[attr-defined]
        done = start(case, clock)
        while not case.provider.status(done.job.id).state.terminal:
            pass
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        settings = OpenAISettings(type="openai", base_url=f"{server.url}/v1", deployment="mine")
        tuned = settings.provider().retrieve(done.job.id)
        assert (tuned.handle, tuned.model.startswith("ft:")) == ("mine", True)
        asked = [Message(role="user", content="1 + 1 =")]
        assert settings.provider().invoke(tuned, asked, max_tokens=9).model == "mine"
        OpenAIProvider(SecretStr("sk-test"), base_url=AZURE, deployment="mine").check_serving(spec)


def test_bedrock_s_endpoint_of_this_protocol_is_given_a_function_as_the_grader_and_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    from stepforge.finetune.openai import OpenAIProvider

    at_bedrock = OpenAIProvider(SecretStr("sk-test"), base_url="https://bedrock-mantle.us-west-2.api.aws/v1")
    with LocalOpenAI() as server:
        assert isinstance(server, LocalOpenAI)
        case = openai_case(server, tmp_path)
        at_bedrock.validate(with_grader(case, LAMBDA))
        for grader in ALL:
            if grader != LAMBDA:
                with pytest.raises(InvalidInput, match="'lambda'"):
                    at_bedrock.validate(with_grader(case, grader))
        monkeypatch.setattr(case.provider, "_vendor", "bedrock")
        case.spec = with_grader(case, LAMBDA)
        server.fail("lost", path="/v1/fine_tuning/jobs")
        done = start(case, clock)
        (job,) = server.jobs.values()
        assert job["method"]["reinforcement"]["grader"] == {"type": "lambda", "lambda": {"function": LAMBDA.arn}}
        assert (job["user_provided_suffix"], job["metadata"], done.job.id) == (
            None,
            {"stepforge_key": done.key},
            job["id"],
        )


def test_a_lost_answer_of_bedrock_s_endpoint_is_never_paid_twice_where_it_keeps_no_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with LocalOpenAI(metadata=False) as server:
        assert isinstance(server, LocalOpenAI)
        case = openai_case(server, tmp_path)
        monkeypatch.setattr(case.provider, "_vendor", "bedrock")
        case.spec = with_grader(case, LAMBDA)
        server.fail("lost", path="/v1/fine_tuning/jobs")
        for _ in range(2):
            with pytest.raises(LaunchUncertain, match="may be this one"):
                start(case, clock)
            clock.sleep(10_000)  # another has the turn for so long
        assert len(server.jobs) == 1
