"""A paid tune through the state machine, from the verdict to the Model Registry, against a local server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepforge.cli import main
from stepforge.contracts.decisions import Question
from stepforge.contracts.registry import ExternalLineage
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.experience import Experience
from stepforge.economics.files import read_question
from stepforge.economics.grounds import Grounds
from stepforge.finetune.entries import Stage
from stepforge.finetune.plan import Plan
from stepforge.finetune.request import Output
from stepforge.testing.providers import LocalBedrock, LocalProvider, LocalVertex
from tests.unit.finetune.distilling import NOVA, TEACHERS, distillation_price

from .conftest import SECRET, Bench, record, until

JOBS = "/v1/fine_tuning/jobs"


def test_a_tune_is_launched_once_watched_evaluated_and_registered(bench: Bench) -> None:
    start = bench.submit(bench.plan())
    ended = bench.run(start)
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    output = Output.model_validate_json(ended["output"])
    assert (output.local_fake, output.registered.adopted, bench.server.calls("POST", JOBS)) == (True, False, 1)
    entry = bench.ledger.entry(output.key)
    assert (entry.stage, entry.job_id) == (Stage.SUCCEEDED, next(iter(bench.server.jobs)))
    package = bench.deployed.package(output.registered.package_arn)
    lineage = ExternalLineage.of(package["CustomerMetadataProperties"])
    assert lineage is not None
    assert (lineage.external_provider, lineage.external_base, lineage.external_key) == ("openai", "small", output.key)
    assert "sk-planted" not in json.dumps(package, default=str)
    again = Output.model_validate_json(bench.run(start)["output"])
    assert (again.registered.adopted, again.registered.package_arn) == (True, output.registered.package_arn)
    assert bench.server.calls("POST", JOBS) == 1


def test_faults_at_every_call_change_nothing_of_the_outcome(bench: Bench) -> None:
    bench.server.fail("lost", path=JOBS)
    bench.server.fail("throttled", method="GET", path=JOBS, times=2)
    ended = bench.run(bench.submit(bench.plan(), domain="records"))
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    assert len(bench.server.jobs) == 1


def test_what_is_dear_waits_for_a_person_and_goes_on_with_the_name(bench: Bench) -> None:
    arn = bench.begin(bench.submit(bench.plan(approval=1)))
    entry = until(lambda: [e for e in bench.ledger.entries() if e.stage == Stage.NEEDS_APPROVAL])[-1]
    waiting = until(lambda: bench.ledger.waiting(entry.key))
    assert bench.server.calls("POST", JOBS) == 0
    bench.ledger.approve(entry.key, by="Ada", budgets=bench.plan().budgets)
    bench.deployed.aws.client("stepfunctions").send_task_success(taskToken=waiting.token, output="{}")
    assert bench.deployed.ended(arn)["status"] == "SUCCEEDED"
    assert bench.ledger.entry(entry.key).approved_by == "Ada"


def test_what_a_person_refuses_is_given_up_and_its_money_free(bench: Bench) -> None:
    before = bench.ledger.spent("local")
    arn = bench.begin(bench.submit(bench.plan(approval=1)))
    entry = until(lambda: [e for e in bench.ledger.entries() if e.stage == Stage.NEEDS_APPROVAL])[-1]
    waiting = until(lambda: bench.ledger.waiting(entry.key))
    states = bench.deployed.aws.client("stepfunctions")
    states.send_task_failure(taskToken=waiting.token, error="NotApproved", cause="Ada says: too dear")
    ended = bench.deployed.ended(arn)
    assert (ended["error"], ended["cause"]) == ("NotApproved", "Ada says: too dear")
    assert (bench.ledger.entry(entry.key).stage, bench.ledger.spent("local")) == (Stage.REFUSED, before)


def test_a_launch_that_is_stopped_is_cancelled_at_the_provider(bench: Bench) -> None:
    arn = bench.begin(bench.submit(bench.plan()))
    job = until(lambda: next(iter(bench.server.jobs), None))
    bench.server.phases[job].looks = 10_000
    key = until(lambda: [e.key for e in bench.ledger.entries() if e.job_id == job and e.target in known(bench)])[0]
    bench.deployed.aws.client("stepfunctions").stop_execution(executionArn=arn, error="StoppedByUser", cause="a test")
    until(lambda: bench.ledger.entry(key).stage == Stage.CANCELLED)
    assert bench.server.calls("POST", f"{JOBS}/{job}/cancel") == 1
    assert bench.deployed.ended(arn)["status"] == "ABORTED"


def known(bench: Bench) -> list[str]:
    """Servers of other tests gave out the same numbers."""
    return [f"openai:{bench.server.url}/v1"]


def test_a_cancelled_job_ends_its_execution_as_stopped(bench: Bench) -> None:
    arn = bench.begin(bench.submit(bench.plan()))
    job = until(lambda: next(iter(bench.server.jobs), None))
    bench.server.phases[job].end("cancelled")
    ended = bench.deployed.ended(arn)
    assert (ended["error"], "was cancelled" in ended["cause"]) == ("Stopped", True)


def test_what_nobody_can_judge_is_not_paid_for(bench: Bench) -> None:
    ended = bench.run(bench.submit(bench.plan(), domain="castles"))
    assert (ended["error"], "unknown domain 'castles'" in ended["cause"]) == ("UnknownName", True)
    assert bench.server.seen == []


def test_held_out_prompts_with_personal_data_are_refused_before_anything_is_paid(bench: Bench) -> None:
    """Of a request that no command made, and that says nothing of what becomes of them."""
    asked = record(9, "test_new").model_copy(update={"prompt": "Who is ann@example.org?"})
    ended = bench.run(bench.submit(bench.plan(), asked=[asked]))
    assert (ended["error"], "'test_new-9' holds personal data (email)" in ended["cause"]) == ("InvalidInput", True)
    assert "ann@" not in ended["cause"]
    assert bench.server.seen == []


def test_what_does_not_pay_is_not_launched(bench: Bench) -> None:
    question = {
        "name": "a loss",
        "today": "2026-11-22",
        "horizon_months": 3,
        "requests_month": {"mean": 10},
        "quality_usd": {"mean": 0.01},
        "base_request_usd": 0.001,
        "base_scores": [1.0, 0.0, 1.0, 1.0],
        "arms": [{"name": "tune", "method": "sft", "fixed": {"training_usd": 900}, "request_usd": 0.01}],
    }
    ended = bench.run(bench.submit(bench.plan(), question=Question.model_validate(question), arm="tune"))
    assert ended["error"] == "DoesNotPay"
    assert "tune" in ended["cause"]
    assert bench.server.seen == []


def given_to_decide(folder: Path, bench: Bench) -> list[str]:
    """A question whose tune is a row of one's own, and pays by one's own outcomes and an advisor's word alone."""
    tune = {"name": "tune", "method": "sft", "model": "openai/small", "job": {"tokens": 1_000_000, "epochs": 2}}
    prompt = {"name": "prompt", "method": "prompt", "fixed": {"people_usd": 200}, "request_usd": 0.002}
    question = {
        "name": "what to tune",
        "today": "2026-11-22",
        "horizon_months": 12,
        "requests_month": {"mean": 100_000},
        "quality_usd": {"mean": 0.02},
        "base_request_usd": 0.002,
        "base_scores": [1, 0] * 20,
        "arms": [{**tune, "request_usd": 0.002, "fixed": {"people_usd": 300}}, prompt],
    }
    start = {"mean": 0.05, "sd": 0.02, "weight": 20, "source": "our own tunes of last year"}
    advice = [{"name": "speed", "weight_usd": 3_000, "scores": {"tune": 0.9, "prompt": 0.2}}]
    own = (
        'version = 1\n[[models]]\nid = "openai/small"\nprovider = "openai"\ntunable = ["sft"]\nas_of = 2026-11-20\n'
        'source = "our own contract"\nprices = [{ kind = "training_tokens", usd = 1, unit = "1M tokens", '
        'as_of = 2026-11-20, source = "our own contract" }]\n'
    )
    files = {
        "question.json": json.dumps(question),
        "own.toml": own,
        "outcomes.json": json.dumps({"starts": {"sft": start, "prompt": start}}),
        "advice.json": json.dumps({"question": "what to tune", "criteria": advice}),
        "data.jsonl": "\n".join(
            [
                *(json.dumps({"prompt": f"chosen {n}", "answer": str(n), "split": "rl"}) for n in range(12)),
                *(json.dumps({"prompt": f"{n}", "answer": f"{n}", "split": "test_new"}) for n in range(3)),
            ]
        ),
        "plan.toml": (
            'environment = "local"\nbase_model = "small"\nmethod = "sft"\n[provider]\ntype = "openai"\n'
            f'base_url = "{bench.server.url}/v1"\napi_key_secret = "{SECRET}"\n[budgets]\njob_usd = 50\n'
            "day_usd = 10_000\nenvironment_usd = 10_000\napproval_usd = 100\n"
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return ["--catalogue", "own.toml", "--experience", "outcomes.json", "--criteria", "advice.json"]


def test_a_question_chooses_its_arm_by_the_command_and_the_machine_and_the_tune_answers(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stepforge.client.connect", lambda *_, **__: bench.connection)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    options = given_to_decide(tmp_path, bench)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Any:
        capsys.readouterr()
        code = main([*words, "--json"])
        said = capsys.readouterr()
        assert code == 0, said.err + said.out
        return json.loads(said.out)

    told = call("finetune", "decide", "question.json", *options)
    assert (told["action"], told["arm"]) == ("launch", "tune")
    begun = ["finetune", "start", "plan.toml", "--data", "data.jsonl", "--question", "question.json", "--arm"]
    tuned = call(*begun, "tune", *options)
    assert (tuned["local_fake"], bench.server.calls("POST", JOBS)) == (True, 1)
    assert bench.ledger.entry(tuned["key"]).stage == Stage.SUCCEEDED
    asked = call("predict", "7", "--domain", f"records/{tuned['registered']['version']}")
    assert "nothing was trained" in asked["answers"][0]["completion"].lower()
    # Without the advisor the verdict is another, and the command says so before the machine has to.
    assert call("finetune", "decide", "question.json", *options[:4])["arm"] == "prompt"
    assert main([*begun, "tune", *options[:4]]) == 12


def test_what_the_question_does_not_choose_is_not_launched_and_nothing_is_charged(bench: Bench, tmp_path: Path) -> None:
    given_to_decide(tmp_path, bench)
    asked = read_question(tmp_path / "question.json")
    catalogue = Catalogue.load(tmp_path / "own.toml")
    experience = Experience.read(tmp_path / "outcomes.json")
    grounds = Grounds.of(asked, catalogue=catalogue, experience=experience)
    assert (verdict := grounds.verdict(asked)).arm == "prompt"
    before = (bench.ledger.spent("local"), len(bench.ledger.entries()))
    ended = bench.run(bench.submit(bench.plan(), question=asked, arm="tune", grounds=grounds))
    # Of the request alone: a row that does not ship is known, and the sentence is the command's.
    assert (ended["error"], verdict.sentence in ended["cause"]) == ("DoesNotPay", True)
    assert (bench.ledger.spent("local"), len(bench.ledger.entries())) == before
    assert bench.server.seen == []


ROLE = "arn:aws:iam::000000000000:role/tuning"


def settings_of(server: LocalProvider) -> dict[str, Any]:
    if isinstance(server, LocalVertex):
        place = {"project": "demo", "location": "us-central1", "folder_uri": "gs://bucket/tunes"}
        return {"type": "vertex", **place, "base_url": server.url}
    return {"type": "bedrock", "role_arn": ROLE, "folder_uri": "s3://bucket/tunes", "endpoint_url": server.url}


DISTILLED = {
    "method": "distillation",
    "base_model": NOVA,
    "teacher": {"model": TEACHERS[NOVA], "max_response_tokens": 200},
    "price": distillation_price(TEACHERS[NOVA]).model_dump(mode="json"),
}


@pytest.mark.parametrize(
    ("kind", "given"),
    [(LocalVertex, {"base_model": "small"}), (LocalBedrock, DISTILLED)],
    ids=["vertex", "bedrock, distilled"],
)
def test_the_same_machine_tunes_at_other_clouds(kind: type[LocalProvider], given: dict[str, Any], bench: Bench) -> None:
    with kind(delay_seconds=0.02) as server:
        # 100 rows are the fewest that Bedrock distils.
        ended = bench.run(bench.submit(bench.plan(provider=settings_of(server), **given), count=100))
        assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
        output = Output.model_validate_json(ended["output"])
        assert (output.local_fake, len(server.jobs)) == (True, 1)  # type: ignore[attr-defined]
        assert bench.ledger.entry(output.key).method == given.get("method", "sft")
        if isinstance(server, LocalVertex):
            (model,) = server.models.values()
            assert model["labels"]["stepforge-key"] == output.key
            assert model["labels"]["stepforge-version"] == str(output.registered.version)
        # The champion gate compared it with a model of another cloud, or found none yet.
        assert output.comparison.reasons


GROUP = "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/demo"
HUB = "arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/small-model/1.0.0"


def at_sagemaker(bench: Bench, server: LocalBedrock, **given: Any) -> Plan:
    settings = {**settings_of(server), "type": "sagemaker", "group_arn": GROUP, "instance_type": "ml.g5.2xlarge"}
    return bench.plan(provider={**settings, **given}, base_model=HUB)


def test_a_model_that_sagemaker_customized_is_evaluated_on_an_endpoint_that_is_gone_afterwards(bench: Bench) -> None:
    with LocalBedrock(delay_seconds=0.02) as server:
        assert isinstance(server, LocalBedrock)
        ended = bench.run(bench.submit(at_sagemaker(bench, server)))
        assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
        output = Output.model_validate_json(ended["output"])
        trial = f"{output.key}-trial"
        kinds = ("Model", "EndpointConfig", "Endpoint")
        deleted = [f"Delete{kind} {trial}" for kind in reversed(kinds)]
        assert server.endpoints.log == [*(f"Create{kind} {trial}" for kind in kinds), *deleted]
        assert server.calls("POST", f"/endpoints/{trial}/invocations") == 8
        lineage = ExternalLineage.of(
            bench.deployed.package(output.registered.package_arn)["CustomerMetadataProperties"]
        )
        assert lineage is not None
        assert (lineage.external_provider, lineage.external_handle) == ("sagemaker", output.key)
        # Approved, it is deployed, and stays so.
        promoted = bench.deployed.approve(output.registered.package_arn)
        assert promoted["status"] == "SUCCEEDED", (promoted.get("error"), promoted.get("cause"))
        assert list(server.endpoints.made["Endpoint"]) == [output.key]


def test_an_evaluation_that_fails_leaves_no_endpoint_behind(bench: Bench) -> None:
    with LocalBedrock(delay_seconds=0.02) as server:
        assert isinstance(server, LocalBedrock)
        server.fail("echo", path="/endpoints/.*")
        ended = bench.run(bench.submit(at_sagemaker(bench, server)))
        assert ended["error"] == "ProviderRefused"
        assert [list(found) for found in server.endpoints.made.values()] == [[], [], []]


def test_what_has_no_instance_to_be_deployed_on_is_not_paid_for(bench: Bench) -> None:
    with LocalBedrock(delay_seconds=0.02) as server:
        assert isinstance(server, LocalBedrock)
        ended = bench.run(bench.submit(at_sagemaker(bench, server, instance_type=None)))
        assert (ended["error"], "instance_type" in ended["cause"]) == ("InvalidInput", True)
        assert server.jobs == {}
