"""Vertex's data-driven optimiser: one custom job, whose candidates our own verifier judges on records it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from pydantic import ValidationError

from stepforge.economics.catalogue import Catalogue
from stepforge.errors import InvalidInput, ModelGone, ProviderRefused, ProviderUnavailable, StepforgeError
from stepforge.finetune import Message, State
from stepforge.finetune.folders import GcsFolder
from stepforge.finetune.launching import check, launch
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.metering import Meter, TokenPrices
from stepforge.finetune.plan import Plan
from stepforge.finetune.settings import VertexSettings
from stepforge.finetune.vertex import VertexProvider
from stepforge.finetune.vertex_calls import storage_of
from stepforge.finetune.vertex_prompts import GeminiModel, VertexPrompts
from stepforge.finetune.watching import follow
from stepforge.testing.providers import LocalVertex
from stepforge.testing.providers._server import Refusal
from tests.unit.finetune.conftest import Clock
from tests.unit.finetune.test_anthropic import records

JOBS = "/v1/projects/demo/locations/us-central1/customJobs"
MODEL = "gemini-3.5-flash"
GENERATE = f"/v1beta1/projects/demo/locations/us-central1/publishers/google/models/{MODEL}:generateContent"


def answer(system: str, contents: list[dict[str, Any]]) -> str:
    """A model that adds only where its prompt says so."""
    number = int(str(contents[-1]["parts"][-1]["text"]).split()[0])
    return f"\n{number + 1}" if "ADD" in system else "no idea"


def candidates(config: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """By Google's metric the best is one that our verifier does not like."""
    return [(config["system_instruction"], 0.1), ("ADD the numbers.", 0.5), ("Be polite.", 0.9), ("Sing.", 0.2)]


@pytest.fixture
def server() -> Iterator[LocalVertex]:
    with LocalVertex(answer=answer, candidates=candidates, delay_seconds=0.02) as running:
        assert isinstance(running, LocalVertex)
        yield running


def plan(
    server: LocalVertex | None = None, *, base_model: str = MODEL, location: str = "us-central1", **given: Any
) -> Plan:
    rates = {"job_usd": 3, "scoring_usd": 1, "input_usd": 1, "output_usd": 5, "as_of": "2026-11-01"}
    account = {"service_account": "runner@demo.iam.gserviceaccount.com", "source": "given in a test"}
    settings = {"type": "vertex", "project": "demo", "location": location, "folder_uri": "gs://bucket/tunes"}
    prompts = {**rates, **account, **given}
    budgets = {"job_usd": 5, "day_usd": 50, "environment_usd": 50, "approval_usd": 5}
    about = {"environment": "local", "base_model": base_model, "method": "prompt", "system": "Be kind."}
    url = {"base_url": server.url} if server else {}
    return Plan.model_validate({**about, "budgets": budgets, "provider": {**settings, **url, "prompts": prompts}})


def provider(server: LocalVertex, **given: Any) -> VertexPrompts:
    found = plan(server, **given).provider.provider()
    assert isinstance(found, VertexPrompts)
    return found


def start(server: LocalVertex, folder: Path, clock: Clock, **given: Any) -> tuple[Any, FileLedger]:
    asked = plan(server, **given)
    terms = asked.terms(Catalogue.load(), date(2026, 11, 22))
    ledger = FileLedger(folder / "spend.sqlite", clock=clock)

    def sleep(seconds: float) -> None:
        server.settle()
        clock.sleep(seconds)

    options = {"ledger": ledger, "budgets": asked.budgets, "price": terms.price, "sleep": sleep}
    return launch(asked.provider.provider(), asked.spec(records(12), folder), folder, **options), ledger


def objects(server: LocalVertex, end: str) -> list[str]:
    return [uri for uri in server.objects if uri.endswith(end)]


def test_a_prompt_is_searched_scored_by_our_verifier_asked_and_deleted(
    server: LocalVertex, tmp_path: Path, clock: Clock
) -> None:
    done, ledger = start(server, tmp_path, clock)
    assert (done.job.local_fake, len(server.optimisers.jobs)) == (True, 1)
    with pytest.raises(ProviderRefused, match="until it has succeeded"):
        provider(server).retrieve(done.job.id)
    entry = list(follow(provider(server), ledger, done.key, sleep=lambda _: None))[-1]
    assert (entry.stage, entry.cost_usd) == ("succeeded", Decimal(4))
    # 12 records: 8 samples for Google, 4 that it never saw for each of the seed and three others.
    (samples,) = objects(server, "samples.jsonl")
    rows = [json.loads(line) for line in server.objects[samples].splitlines()]
    assert rows[0] == {"question": "0 plus one", "target": "1"}
    assert (len(rows), server.calls("POST", GENERATE)) == (8, 16)
    (result,) = objects(server, "result.json")
    found = json.loads(server.objects[result])
    assert (found["prompt"], found["seed_score"], found["score"]) == ("ADD the numbers.", 0.0, 1.0)
    assert found["calls"] == 16
    tuned = provider(server).retrieve(done.job.id)
    assert tuned.local_fake
    asked = [Message(role="system", content="Be kind."), Message(role="user", content="41 plus one")]
    assert provider(server).invoke(tuned, asked, max_tokens=9).text.endswith("\n42")
    again, _ = start(server, tmp_path, clock)
    assert (again.entry.job_id, len(server.optimisers.jobs)) == (done.entry.job_id, 1)
    provider(server).delete(tuned)
    with pytest.raises(ProviderRefused, match="deleted"):
        provider(server).invoke(tuned, asked, max_tokens=9)


@pytest.mark.parametrize("fault", ["lost", "late", "error_after", "error", "throttled", "wrong_schema"])
def test_the_optimiser_is_paid_once_whatever_the_answer_was(
    server: LocalVertex, tmp_path: Path, clock: Clock, fault: Any
) -> None:
    server.fail(fault, path=JOBS)
    done, _ = start(server, tmp_path, clock)
    server.settle()
    (job,) = server.optimisers.jobs.values()
    assert job["labels"] == {"stepforge-key": done.key}
    assert done.entry.job_id == job["name"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [400, 403])
def test_scoring_that_is_refused_ends_where_nothing_can_be_mended(tmp_path: Path, clock: Clock, status: int) -> None:
    def refusing(system: str, contents: list[dict[str, Any]]) -> str:
        raise Refusal(status, "INVALID_ARGUMENT", "PLANTED")

    with LocalVertex(answer=refusing, candidates=candidates) as server:
        assert isinstance(server, LocalVertex)
        done, ledger = start(server, tmp_path, clock)
        looks = follow(provider(server), ledger, done.key, sleep=lambda _: None)
        if status == 403:
            with pytest.raises(ProviderRefused, match="403"):
                list(looks)
            assert ledger.entry(done.key).stage == "launched"
            return
        entry = list(looks)[-1]
        assert (entry.stage, "status 400" in (entry.note or "")) == ("failed", True)
        assert "PLANTED" not in (entry.note or "")


@pytest.mark.usefixtures("quick")
def test_scoring_goes_on_where_it_stopped_and_pays_for_no_answer_twice(
    server: LocalVertex, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, _ = start(server, tmp_path, clock)

    class Ticking(Clock):
        """Each look at the time takes a second."""

        def __call__(self) -> float:
            self.now += 1
            return self.now

    ticking = Ticking()

    def hurried() -> VertexPrompts:
        found = provider(server)
        monkeypatch.setattr(found, "_look_seconds", 20)
        monkeypatch.setattr(found, "_clock", ticking)
        return found

    server.fail("lost", path=GENERATE, times=2)
    looks, lost = 0, 0
    while True:
        looks += 1
        assert looks < 60
        try:
            if (job := hurried().status(done.job.id)).state.terminal:
                break
        except ProviderUnavailable:
            lost += 1
    assert (job.state, lost) == (State.SUCCEEDED, 2)
    assert looks > 4
    assert server.calls("POST", GENERATE) == 16 + 2


def test_the_job_s_configuration_is_what_the_guide_asks_for(server: LocalVertex, tmp_path: Path, clock: Clock) -> None:
    start(
        server,
        tmp_path,
        clock,
        steps=20,
        data_limit=5,
        qps=4,
        metric="custom_metric",
        metric_function="f",
        metric_name="m",
    )
    (uri,) = objects(server, "config.json")
    config = json.loads(server.objects[uri])
    assert config["system_instruction"] == "Be kind."
    assert (config["eval_metric"], config["custom_metric_name"]) == ("custom_metric", "m")
    assert config["custom_metric_cloud_function_name"] == "f"
    limits = [config[name] for name in ("num_steps", "data_limit", "target_model_qps", "eval_qps")]
    assert limits == [20, 5, 4, 4]
    (job,) = server.optimisers.jobs.values()
    (pool,) = job["jobSpec"]["workerPoolSpecs"]
    assert pool["containerSpec"]["args"] == [f"--config={uri}"]
    assert job["jobSpec"]["scheduling"]["timeout"] == "21600s"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("claude-sonnet-4-5@20250929", "anthropic"),
        ("gemini-3-pro-preview", "global"),
        ("gemini-2.0-flash-exp", "global"),
        ("gemma-3n-e4b-it", "generally available"),
        ("projects/p/locations/l/endpoints/1", "generally available"),
    ],
)
def test_a_model_that_the_optimiser_does_not_serve_is_refused_with_what_to_do(
    server: LocalVertex, tmp_path: Path, clock: Clock, model: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        start(server, tmp_path, clock, base_model=model)
    assert server.seen == []


def test_what_cannot_work_is_refused_before_it_is_paid_for(server: LocalVertex, tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(InvalidInput, match="'global'"):
        start(server, tmp_path, clock, location="global")
    with pytest.raises(InvalidInput, match="no fewer than 8"):
        plan(server).spec(records(7), tmp_path)
    old = plan(server, base_model="gemini-2.5-flash")
    terms, spec = old.terms(Catalogue.load(), date(2026, 11, 22)), old.spec(records(12), tmp_path)
    with pytest.raises(ModelGone, match="2026-10-16"):
        check(old.provider.provider(), spec, shutdown=terms.shutdown, needed_until=date(2026, 12, 1))
    assert server.seen == []
    for wrong, words in (
        ({"job_usd": 0}, "greater than 0"),
        ({"metric": "custom_metric"}, "metric_function"),
        ({"service_account": "me@example.com"}, "pattern"),
        ({"steps": 9}, "10"),
        ({"image": "docker.io/somebody/else:latest"}, "pattern"),
    ):
        with pytest.raises(ValidationError, match=words):
            plan(server, **wrong)
    whole = plan(server).model_dump(mode="json")
    del whole["provider"]["prompts"]["job_usd"]
    with pytest.raises(ValidationError, match="give job_usd"):
        Plan.model_validate(whole)
    half = plan(server).model_dump(mode="json")
    for other in ({**half, "method": "sft"}, {**half, "provider": {**half["provider"], "prompts": None}}):
        with pytest.raises(ValidationError, match="belong together"):
            Plan.model_validate(other)
    settings = plan(server, verifier="my_rules:check").provider
    assert isinstance(settings, VertexSettings)
    with pytest.raises(InvalidInput, match="verifiers of users"):
        settings.check_machine(None)


@pytest.mark.usefixtures("quick")
def test_money_ends_the_scoring_and_what_was_scored_is_kept(server: LocalVertex, tmp_path: Path, clock: Clock) -> None:
    # A call costs 0.0026 USD at most, and some 0.00005 as it turns out.
    done, _ = start(server, tmp_path, clock, scoring_usd="0.0030", max_tokens=512)
    for _ in range(4):
        job = provider(server).status(done.job.id)
    assert job.state == State.SUCCEEDED
    found = json.loads(server.objects[objects(server, "result.json")[0]])
    assert found["stopped_by_budget"]
    assert job.raw_state.endswith(
        f"(data-driven: {found['seed_score']:.2f} to {found['score']:.2f}, "
        f"{found['candidates']} tried beside it; the budget was used up)"
    )
    assert Decimal(found["spent_usd"]) <= Decimal("0.0030")
    assert found["score"] >= found["seed_score"]


@pytest.mark.parametrize(("fault", "charged"), [("lost", True), ("error", True), ("throttled", False), ("echo", False)])
def test_a_call_is_booked_where_it_may_have_been_charged(server: LocalVertex, fault: Any, charged: bool) -> None:
    vertex = VertexProvider(
        project="demo",
        location="us-central1",
        folder_uri="gs://bucket/tunes",
        credentials=Credentials(token="t"),
        base_url=server.url,
    )
    prices = TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5))
    model = GeminiModel(vertex, MODEL, Meter(prices, budget_usd=Decimal(1)))
    asked = [Message(role="user", content="1 plus one")]
    server.fail(fault, path=GENERATE)
    with pytest.raises(StepforgeError):
        model.ask(asked, max_tokens=100)
    assert model.meter.spent_usd == (prices.output_usd * 100 + 10 + 32) / 1_000_000 * charged
    before = model.meter.spent_usd
    found = model.ask(asked, max_tokens=100)
    paid = (prices.output_usd * found.output_tokens + found.input_tokens) / 1_000_000
    assert model.meter.spent_usd - before == paid


def test_results_that_cannot_be_read_are_a_failed_tune_and_not_an_empty_one(tmp_path: Path, clock: Clock) -> None:
    with LocalVertex(answer=answer, candidates=lambda *_: [], delay_seconds=0.02) as server:
        assert isinstance(server, LocalVertex)
        done, ledger = start(server, tmp_path, clock)
        entry = list(follow(provider(server), ledger, done.key, sleep=lambda _: None))[-1]
        assert (entry.stage, "templates.json" in entry.note) == ("failed", True)
        assert server.calls("POST", GENERATE) == 0


def test_a_search_is_cancelled_before_and_after_the_optimiser_has_ended(
    server: LocalVertex, tmp_path: Path, clock: Clock
) -> None:
    done, _ = start(server, tmp_path, clock)
    assert provider(server).cancel(done.job.id).state == State.CANCELLED
    assert server.optimisers.jobs[done.job.id]["state"] == "JOB_STATE_CANCELLED"
    with LocalVertex(answer=answer, candidates=candidates) as other:
        assert isinstance(other, LocalVertex)
        (tmp_path / "other").mkdir()
        late, _ = start(other, tmp_path / "other", clock)
        for _ in range(3):
            other.optimisers._look(late.job.id)
        assert provider(other).find(late.key, None).state == State.RUNNING  # type: ignore[arg-type,union-attr]
        assert provider(other).cancel(late.job.id).state == State.CANCELLED
        assert provider(other).status(late.job.id).state == State.CANCELLED
        assert other.calls("POST", GENERATE) == 0


def test_a_folder_in_cloud_storage_is_written_once(server: LocalVertex) -> None:
    client = storage_of("demo", Credentials(token="t"), server.url)
    folder = GcsFolder(client, "gs://bucket/tunes")
    assert folder.read("a/b.json") is None
    assert [folder.write_once("a/b.json", data) for data in (b"1", b"2")] == [True, False]
    assert folder.read("a/b.json") == b"1"
    folder.write("a/b.json", b"3")
    folder.write("c.json", b"4")
    assert (folder.read("a/b.json"), list(folder.names("a/"))) == (b"3", ["a/b.json"])
    server.plan = lambda _: "error"
    for call in (lambda: folder.read("a/b.json"), lambda: folder.write("x", b""), lambda: list(folder.names(""))):
        server.seen.clear()
        with pytest.raises(ProviderUnavailable):
            call()
        assert len(server.seen) == 1
