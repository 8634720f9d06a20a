"""`run evaluate` and `run dataset` on the local AWS: planned, started once, followed, stopped, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from stepforge.artifacts import read_manifest
from stepforge.cli import _job_runs, _stop
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import package_group
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.registry import TrainOutput
from stepforge.datasets import prepare_parts
from stepforge.errors import InvalidInput, OverBudget, UnknownName
from stepforge.following import pace
from stepforge.following.pace import Pace
from stepforge.recipes import load_recipe
from tests.functional.local_aws.helpers import wait

from .conftest import Deployed, deaf
from .fake_image import FOREVER

DOMAIN = "commanded"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LOCAL_PACE", Pace(describe_seconds=0.1, logs_seconds=0.05, give_up_seconds=60))


@pytest.fixture
def cli(client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_job_runs, "Client", lambda _: client)
    return client


@pytest.fixture(scope="module")
def two(deployed: Deployed, client: Any) -> Iterator[list[str]]:
    """Two versions from the same data, of which the first is the champion of a domain of its own, by its approval."""
    group = package_group(DOMAIN, "local")
    outputs = []
    for rate in (0.1, 0.2):
        plain = deployed.pipeline(seed=70, rate=rate, stages=1).model_dump()
        plain |= {"domain": DOMAIN, "dataset": {**plain["dataset"], "domain": DOMAIN}, "group": group}
        ended = deployed.train(PipelineSpec.model_validate(plain))
        outputs.append(TrainOutput.model_validate_json(ended["output"]))
    with deaf(deployed):
        client.registry.approve(outputs[0].package_arn)
        yield [f"{DOMAIN}/{output.version}" for output in outputs]
        # Otherwise the sweep would promote it.
        client.registry.reject(outputs[0].package_arn)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(f'domain = "{DOMAIN}"\nstages = [{{type = "sft"}}]\n[dataset]\ncorpus = 30\nshard_rows = 20\n')
    return path


def evaluate(client: Any, capsys: pytest.CaptureFixture[str], model: str, **more: Any) -> Any:
    given: dict[str, Any] = {"on": None, "overrides": [], "compare": True, "resources": {}, "max_usd": None}
    _job_runs.evaluate(client, model, **{**given, "dry_run": False, "wait": True, "as_json": True, **more})
    return json.loads(capsys.readouterr().out)


def dataset(capsys: pytest.CaptureFixture[str], **more: Any) -> Any:
    given: dict[str, Any] = {"domain": None, "parts": 2, "data": [], "verifier": None, "overrides": []}
    flags = {"resources": {}, "max_usd": None, "dry_run": False, "wait": True, "as_json": True}
    _job_runs.dataset("local", **{**given, **flags, **more})
    return json.loads(capsys.readouterr().out)


def counts(deployed: Deployed) -> tuple[int, int, int]:
    return (len(deployed.jobs()), *(len(deployed.executions(machine)) for machine in ("evaluate", "dataset")))  # type: ignore[return-value]


def test_a_version_is_scored_on_its_own_held_out_data_without_another_job(
    deployed: Deployed, cli: Any, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = deployed.jobs()
    champion = evaluate(cli, capsys, two[0])
    assert (champion["model"], champion["data"]) == (two[0], f"the held-out data of {two[0]}")
    assert champion["comparison"]["reasons"] == ["the champion is this very model"]
    scores = {(row["split"], row["decoding"]): (row["accepted"], row["low"], row["high"]) for row in champion["scores"]}
    assert scores["test_new", "greedy"] == (0.5, 0.4, 0.6)
    # Of the champion's own data its evaluation is known.
    other = evaluate(cli, capsys, two[1])
    assert (other["champion_run"], len(other["comparison"]["paired"])) == (None, 6)
    assert evaluate(cli, capsys, two[1], compare=False)["comparison"] is None
    assert deployed.jobs() == before


def test_a_plan_of_an_evaluation_changes_nothing_and_names_both_jobs(
    deployed: Deployed, cli: Any, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = counts(deployed)
    plan = evaluate(cli, capsys, two[1], overrides=["evaluation.samples=9"], dry_run=True)
    assert [(job["stage"], job["action"]) for job in plan["jobs"]] == [("evaluate", "create"), ("champion", "create")]
    assert plan["usd"]["low"] > 0
    with pytest.raises(OverBudget):
        evaluate(cli, capsys, two[1], overrides=["evaluation.samples=9"], max_usd=1e-9)
    assert counts(deployed) == before


def test_a_dataset_is_planned_made_in_parts_adopted_and_models_are_compared_on_it(
    deployed: Deployed, cli: Any, two: list[str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = counts(deployed)
    plan = dataset(capsys, recipe=recipe, dry_run=True)
    stages = ["part 1", "part 2", "gate"]
    assert [job["stage"] for job in plan["jobs"]] == stages
    assert [job["action"] for job in plan["jobs"]] == ["create", "create", "later"]
    assert counts(deployed) == before

    with prepare_parts(load_recipe(DOMAIN, path=recipe), parts=2) as inputs:
        run = cli.datasets.start(cli.datasets.bind(inputs))
    told = [(event.stage, event.kind) for event in run.follow() if event.kind in ("stage", "done")]
    assert sorted(told[:4]) == [(f"part {n}/2", kind) for n in (1, 2) for kind in ("done", "stage")]
    assert told[4:] == [("gate", "stage"), ("gate", "done")]

    jobs = deployed.jobs()
    made = dataset(capsys, recipe=recipe)
    assert (made["run"], made["result"]["counts"]["test_new"]) == (run.name, 2)
    ref = ArtifactRef.model_validate(made["result"]["dataset"])
    manifest = read_manifest(deployed.aws.client("s3"), ref.uri, expected_sha256=ref.sha256)
    assert [entry.path for entry in manifest.files] == [f"records/test_new-{n:05d}.jsonl" for n in range(2)]
    planned = dataset(capsys, recipe=recipe, dry_run=True)["jobs"]
    assert ({job["action"] for job in planned}, planned[-1]["job"]) == ({"adopt"}, made["result"]["gate"]["name"])
    _job_runs.watch(cli, made["run"], as_json=True)
    assert json.loads(capsys.readouterr().out) == made
    assert deployed.jobs() == jobs

    # The champion was not asked these records yet.
    found = evaluate(cli, capsys, two[1], on=made["run"])
    new = {name.rpartition("-")[0] for name in deployed.jobs() - jobs}
    assert new == {found["run"].removesuffix("-r0"), found["champion_run"].removesuffix("-r0")}
    assert (found["data"], found["comparison"]["better"]) == (made["run"], False)
    assert len(found["comparison"]["paired"]) == 6


def test_a_dataset_that_is_stopped_leaves_no_job_behind(
    deployed: Deployed, cli: Any, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dataset(capsys, recipe=recipe, overrides=[f"dataset.seed={FOREVER}"], wait=False)["run"]
    sagemaker = deployed.aws.client("sagemaker")
    found = cli.datasets.get(run)
    wait(lambda: [job.attempt.status for job in found.jobs()], lambda s: s == ["InProgress"] * 2)
    _stop.stop(cli, run, as_json=True)
    stopped = json.loads(capsys.readouterr().out)
    assert (stopped["stopped"], stopped["status"].partition(" ")[0]) == (True, "ABORTED")
    ends = [job.attempt.name for job in found.jobs()]
    wait(
        lambda: [sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] for name in ends],
        lambda statuses: set(statuses) == {"Stopped"},
    )
    with pytest.raises(typer.Exit) as ended:
        _job_runs.watch(cli, run, as_json=True)
    assert ended.value.exit_code == 7
    assert json.loads(capsys.readouterr().out)["run"] == run


def test_what_cannot_be_evaluated_is_refused_before_anything_starts(
    deployed: Deployed, cli: Any, two: list[str], tmp_path: Path
) -> None:
    before = counts(deployed)
    ask = cli.evaluations.ask
    (gate,) = [name for name in sorted(deployed.jobs()) if name.startswith("gate-")][:1]
    data = cli.evaluations.data(two[0]).artifact
    for model, more, kind, said in [
        (f"{DOMAIN}/99", {}, UnknownName, f"unknown model '{DOMAIN}/99'"),
        (two[0], {"on": "dataset-000000000000-r0"}, UnknownName, "unknown run of dataset"),
        (two[0], {"on": "train-000000000000-r0"}, UnknownName, "unknown run"),
        (gate, {}, InvalidInput, "makes no model"),
        (data.uri, {}, InvalidInput, "makes no model"),
        (two[0], {"on": f"s3://{deployed.bucket}/nowhere/"}, InvalidInput, "does not exist"),
        (str(tmp_path / "none"), {}, InvalidInput, "is not a directory"),
        (two[0], {"overrides": {"evaluation.sample": "3"}}, InvalidInput, "did you mean 'samples'"),
        (two[0], {"overrides": {"stages.srl.steps": "3"}}, InvalidInput, "evaluation, resources"),
        (two[0], {"instance_type": "ml.g5.none"}, UnknownName, "ml.g5.none"),
    ]:
        with pytest.raises(kind, match=said):
            ask(model, **more)
    assert counts(deployed) == before


def test_a_training_job_and_its_address_name_the_same_model(client: Any, two: list[str]) -> None:
    job = client.registry.get(two[1]).metadata["training_job_arn"].rpartition("/")[2]
    by_version, by_job = client.evaluations.ask(two[1]), client.evaluations.ask(job)
    by_address = client.evaluations.ask(by_version.spec.model.uri)
    assert by_version.spec.identity == by_job.spec.identity == by_address.spec.identity
    run = next(run for run in client.pipelines.overview() if run.domain == DOMAIN and run.status == "SUCCEEDED")
    assert client.evaluations.ask(run.name).held.domain == DOMAIN
