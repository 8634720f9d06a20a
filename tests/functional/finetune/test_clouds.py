"""From the command line whole, at Vertex, Bedrock and SageMaker: decide, launch, watch, register, predict, cancel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepforge.cli import main
from stepforge.testing.providers import LocalBedrock, LocalProvider, LocalVertex
from tests.functional.machines.conftest import Deployed

ROLE = "arn:aws:iam::000000000000:role/tuning"
GROUP = "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/demo"
HUB = "arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/small-model/1.0.0"
GRADER = "arn:aws:lambda:us-east-1:000000000000:function:stepforge-local-finetune-grade"
AWS = f'role_arn = "{ROLE}"\nfolder_uri = "s3://bucket/tunes"\nendpoint_url = "{{url}}"'
PLAN = """
environment = "local"
base_model = "{model}"
method = "{method}"
{more}
[provider]
type = "{type}"
{provider}
[price]
kind = "training_job"
usd = 3
unit = "job"
as_of = 2026-11-01
source = "given in a test"
[budgets]
job_usd = 50
day_usd = 10_000
environment_usd = 10_000
approval_usd = 50
"""
QUESTION = """
name = "a walk"
today = 2026-11-23
horizon_months = 6
requests_month = { mean = 100000 }
quality_usd = { mean = 0.1 }
base_request_usd = 0.001
base_scores = [0, 1, 0, 0, 1, 0, 0, 0]
[[arms]]
name = "tune"
method = "METHOD"
fixed = { training_usd = 3 }
request_usd = 0.001
gain = { mean = 0.2, sd = 0.05 }
"""


@dataclass(frozen=True)
class Cloud:
    """What a plan says of a provider."""

    type: str
    provider: str
    model: str = "small"
    method: str = "sft"
    more: str = ""
    rows: int = 12


CLOUDS = {
    "vertex": Cloud(
        "vertex",
        'project = "demo"\nlocation = "us-central1"\nfolder_uri = "gs://bucket/tunes"\nbase_url = "{url}"',
    ),
    "bedrock": Cloud("bedrock", AWS),
    "bedrock, rft": Cloud(
        "bedrock", AWS, method="rft", more=f'grader = {{ type = "lambda", arn = "{GRADER}" }}', rows=100
    ),
    "sagemaker": Cloud("sagemaker", f'{AWS}\ngroup_arn = "{GROUP}"\ninstance_type = "ml.g5.2xlarge"', model=HUB),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, LocalProvider]]:
    with LocalVertex(delay_seconds=0.02) as vertex, LocalBedrock(delay_seconds=0.02) as aws:
        yield {"vertex": vertex, "bedrock": aws, "sagemaker": aws}


@pytest.fixture
def say(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command prints, to people and to machines."""
    connection = deployed.connection
    monkeypatch.setattr("stepforge.client.connect", lambda *_, **__: connection)
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = main([*words])
        said = capsys.readouterr()
        assert ended == code, said.err + said.out
        return said.out if "--json" in words else said.out + said.err

    return run


def write(folder: Path, cloud: Cloud, url: str, *, mark: str) -> tuple[str, str]:
    plan, data = folder / f"{mark}.toml", folder / f"{mark}.jsonl"
    about = {"model": cloud.model, "method": cloud.method, "more": cloud.more, "type": cloud.type}
    plan.write_text(PLAN.format(**about, provider=cloud.provider.format(url=url)))
    rows = [{"prompt": f"{mark} {n}", "answer": str(n), "split": "rl"} for n in range(cloud.rows)]
    rows += [{"prompt": f"{n}", "answer": f"{n}", "split": "test_new"} for n in range(2)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    return str(plan), str(data)


@pytest.mark.parametrize("name", list(CLOUDS))
def test_a_tune_goes_from_the_decision_to_an_answer_by_commands_that_say_what_is_a_fake(
    name: str, say: Callable[..., str], servers: dict[str, LocalProvider], tmp_path: Path
) -> None:
    cloud = CLOUDS[name]
    server: Any = servers[cloud.type]
    jobs, mark = len(server.jobs), name.replace(", ", "-")
    plan, data = write(tmp_path, cloud, server.url, mark=mark)

    def plain(*words: str, code: int = 0) -> Any:
        return json.loads(say(*words, "--json", code=code))

    def fakes(*words: str) -> str:
        said = say(*words)
        assert "local fake" in said, said
        return said

    question = tmp_path / "question.toml"
    question.write_text(QUESTION.replace("METHOD", cloud.method))
    verdict = plain("finetune", "decide", str(question))
    assert (verdict["action"], verdict["arm"]) == ("launch", "tune")

    launched = plain("finetune", "launch", plan, "--data", data)
    key = launched["key"]
    assert (launched["stage"], launched["local_fake"], len(server.jobs)) == ("launched", True, jobs + 1)
    fakes("finetune", "launch", plan, "--data", data)
    assert len(server.jobs) == jobs + 1
    fakes("finetune", "watch", plan, key)
    watched = plain("finetune", "watch", plan, key)
    assert (watched["stage"], watched["local_fake"]) == ("succeeded", True)
    fakes("finetune", "list")

    registered = plain("finetune", "register", plan, key, "--data", data)
    assert (registered["local_fake"], registered["registered"]["adopted"]) == (True, False)
    reference = f"records/{registered['registered']['version']}"
    assert reference in fakes("registry", "list", "records")
    shown = fakes("registry", "show", reference)
    assert f"external_provider: {cloud.type}" in shown
    assert f"external_key: {key}" in shown

    if cloud.type == "sagemaker":
        # It answers on an endpoint alone: the one of its evaluation has gone, and a promotion makes another.
        assert list(server.endpoints.made["Endpoint"]) == []
        refused = plain("predict", "41", "--domain", reference, code=5)
        assert "`stepforge registry approve` deploys" in refused["message"]
        fakes("registry", "approve", reference)
        assert list(server.endpoints.made["Endpoint"]) == [key]
    assert "41" in fakes("predict", "41", "--domain", reference)
    asked = plain("predict", "41", "--domain", reference)
    assert (asked["local_fake"], asked["answers"][0]["prompt"]) == (True, "41")
    assert asked["answers"][0]["completion"].endswith(" 41")

    # Another is stopped before its end.
    plan, data = write(tmp_path, cloud, server.url, mark=f"{mark}-stopped")
    running = plain("finetune", "launch", plan, "--data", data)["key"]
    assert "cancelled" in fakes("finetune", "cancel", plan, running)
    assert plain("finetune", "watch", plan, running)["stage"] == "cancelled"
    assert server.phases[next(reversed(server.jobs))].over


def test_what_may_cost_is_told_from_the_least_to_the_most_with_what_is_expected(
    say: Callable[..., str], servers: dict[str, LocalProvider], tmp_path: Path
) -> None:
    plan, data = write(tmp_path, CLOUDS["bedrock"], servers["bedrock"].url, mark="estimated")
    by_tokens = 'kind = "training_tokens"\nusd = 10_000\nunit = "1M tokens"'
    text = Path(plan).read_text().replace('kind = "training_job"\nusd = 3\nunit = "job"', by_tokens)
    Path(plan).write_text(text)
    found = json.loads(say("finetune", "launch", plan, "--data", data, "--json"))
    low, high = (float(found[end]) for end in ("low_usd", "estimate_usd"))
    assert (0 < low < high, found["expected_usd"]) == (True, None)
    told = f"{low:,.2f} to {high:,.2f} USD, which of it is not known"
    assert told in say("finetune", "launch", plan, "--data", data)

    # Another plan, whose hours are known.
    hours = 'kind = "training_hours"\nusd = 2\nunit = "hour"'
    Path(plan).write_text("hours = [1.5, 1.5]\n" + text.replace(by_tokens, hours).replace("estimated", "hours"))
    (tmp_path / "more.jsonl").write_text(Path(data).read_text().replace("estimated", "by the hour"))
    exact = json.loads(say("finetune", "launch", plan, "--data", str(tmp_path / "more.jsonl"), "--json"))
    assert [float(exact[name]) for name in ("low_usd", "expected_usd", "estimate_usd")] == [3.0, 3.0, 3.0]
    listed = say("finetune", "list")
    assert "LOW USD" in listed
    assert "EXPECTED" in listed
    (line,) = [line for line in listed.splitlines() if exact["key"] in line]
    assert line.split()[5:8] == ["3.00", "3.00", "3.00"]
