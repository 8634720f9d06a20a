"""Claude as a provider: a search for a prompt that goes on where it stopped, and pays for no answer twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from pydantic import SecretStr

from stepforge.contracts.records import Provenance, Record
from stepforge.economics.catalogue import Catalogue
from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from stepforge.finetune import Message, State
from stepforge.finetune.anthropic import AnthropicProvider
from stepforge.finetune.entries import Stage
from stepforge.finetune.folders import DiskFolder, Folder, S3Folder
from stepforge.finetune.launching import launch
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.metering import TokenPrices
from stepforge.finetune.plan import Plan
from stepforge.finetune.settings import AnthropicSettings
from stepforge.finetune.watching import follow
from stepforge.testing.providers import LocalAnthropic, LocalBedrock, LocalVertex
from stepforge.testing.providers._server import Refusal
from tests.unit.finetune.conftest import Clock

PRICES = TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5))


def answer(system: str, messages: list[dict[str, Any]]) -> str:
    """A model that adds only where its prompt says so, and that proposes such a prompt when asked for one."""
    text = str(messages[-1]["content"])
    if "plus one" in text and len(text) < 20:
        return f"\n{int(text.split()[0]) + 1}" if "ADD" in system else "no idea"
    return "```\nADD the numbers.\n```"


def records(count: int = 6) -> list[Record]:
    about = {"domain": "records", "source": "user", "split": "rl", "verifier": "records@1"}
    made = {"provenance": Provenance(generator="user@1"), **about}
    return [Record(id=f"r{n}", group=f"g{n}", prompt=f"{n} plus one", answer=f"{n + 1}", **made) for n in range(count)]


def plan(optimiser: dict[str, Any] | None = None, **given: Any) -> Plan:
    about = {"budget_usd": 2, "input_usd": 1, "output_usd": 5, "as_of": "2026-11-01", "source": "given in a test"}
    budgets = {"job_usd": 5, "day_usd": 50, "environment_usd": 50, "approval_usd": 5}
    settings = {"type": "anthropic", **about, **given}
    rest = {"base_model": "claude-test", "method": "prompt", "budgets": budgets, "system": "Be kind."}
    rest["optimiser"] = optimiser or {"type": "gepa", "max_metric_calls": 30}
    return Plan.model_validate({"environment": "local", "provider": settings, **rest})


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    if request.param == "disk":
        yield DiskFolder(tmp_path / "jobs")
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="bucket")
        yield S3Folder(s3, "s3://bucket/finetune/prompts")


def provider(server: LocalAnthropic, place: Folder, **given: Any) -> AnthropicProvider:
    options = {"prices": PRICES, "budget_usd": Decimal(2), **given}
    return AnthropicProvider(SecretStr("sk-test"), place, base_url=server.url, **options)


@pytest.fixture
def server() -> Iterator[LocalAnthropic]:
    with LocalAnthropic(answer=answer, delay_seconds=0.02) as running:
        assert isinstance(running, LocalAnthropic)
        yield running


def start(
    make: Callable[[], AnthropicProvider], folder: Path, clock: Clock, optimiser: dict[str, Any] | None = None
) -> tuple[Any, FileLedger]:
    asked = plan(optimiser)
    terms = asked.terms(Catalogue.load(), date(2026, 11, 22))
    ledger = FileLedger(folder / "spend.sqlite", clock=clock)
    options = {"ledger": ledger, "budgets": asked.budgets, "price": terms.price, "sleep": clock.sleep}
    return launch(make(), asked.spec(records(), folder), folder, **options), ledger


def test_a_prompt_is_searched_once_booked_asked_and_deleted(
    server: LocalAnthropic, place: Folder, tmp_path: Path, clock: Clock
) -> None:
    done, ledger = start(lambda: provider(server, place), tmp_path, clock)
    assert (done.job.state, done.job.local_fake, server.seen) == (State.RUNNING, True, [])
    assert (done.entry.method, done.job.raw_state) == ("prompt by gepa", "running (prompt by gepa)")
    with pytest.raises(ProviderRefused, match="until it has succeeded"):
        provider(server, place).retrieve(done.job.id)
    entry = list(follow(provider(server, place), ledger, done.key))[-1]
    assert (entry.method, entry.raw_state) == (
        "prompt by gepa",
        "succeeded (gepa: 0.00 to 1.00, 1 tried beside it)",
    )
    used = server.usage
    paid = (used["input_tokens"] + 5 * used["output_tokens"]) / Decimal(1_000_000)
    assert abs((entry.actual_usd or 0) - paid) <= Decimal("0.01")
    tuned = provider(server, place).retrieve(done.job.id)
    asked = [Message(role="system", content="Be kind."), Message(role="user", content="41 plus one")]
    found = provider(server, place).invoke(tuned, asked, max_tokens=9, temperature=0.0)
    assert found.text.endswith("\n42")
    again, _ = start(lambda: provider(server, place), tmp_path, clock)
    assert again.entry.job_id == done.entry.job_id
    provider(server, place).delete(tuned)
    with pytest.raises(ProviderRefused, match="deleted"):
        provider(server, place).invoke(tuned, asked, max_tokens=9)


@pytest.fixture(params=["gepa", "bedrock", "vertex", "dspy"])
def optimiser(request: pytest.FixtureRequest) -> Iterator[dict[str, Any] | None]:
    if request.param == "gepa":
        yield None
    elif request.param == "dspy":
        pytest.importorskip("dspy", reason="it needs an environment of its own (pyproject.toml)")
        yield {"type": "dspy", "breadth": 3, "depth": 2}
    elif request.param == "vertex":
        with LocalVertex(rewrite=lambda prompt: f"{prompt} ADD.", delay_seconds=0.02) as vertex:
            about = {"project": "demo", "location": "us-central1", "token_usd": 30, "as_of": "2026-11-01"}
            yield {"type": "vertex", **about, "source": "a test", "times": 3, "base_url": vertex.url}
    else:
        with LocalBedrock(rewrite=lambda prompt: f"{prompt} ADD.", delay_seconds=0.02) as bedrock:
            about = {"target_model_id": "anthropic.claude-test-v1:0", "token_usd": 30, "as_of": "2026-11-01"}
            yield {"type": "bedrock", **about, "source": "a test", "times": 3, "endpoint_url": bedrock.url}


class Ticking(Clock):
    """Each look at the time takes a second."""

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_search_in_many_looks_and_through_lost_answers_is_the_search_in_one(
    server: LocalAnthropic, tmp_path: Path, clock: Clock, optimiser: dict[str, Any] | None
) -> None:
    whole, ledger = start(lambda: provider(server, DiskFolder(tmp_path / "whole")), tmp_path, clock, optimiser)
    one = list(follow(provider(server, DiskFolder(tmp_path / "whole")), ledger, whole.key))[-1]
    calls = len(server.seen)
    server.seen.clear()

    place, ticking = DiskFolder(tmp_path / "many"), Ticking()
    look_seconds = 40 if optimiser is None else 12

    def hurried() -> AnthropicProvider:
        return provider(server, place, clock=ticking, look_seconds=look_seconds)

    many, books = start(hurried, tmp_path / "books", clock, optimiser)
    server.fail("lost", path="/v1/messages", times=2)
    looks = 0
    while not (job := _patient(hurried, many.job.id)).state.terminal:
        looks += 1
        assert looks < 100
    assert looks > 2
    assert len(server.seen) == calls + 2
    assert job.cost_usd is not None
    # The two that were lost are booked at the most that they can have cost.
    extra = job.cost_usd - (one.actual_usd or Decimal(0))
    assert Decimal("0.004") < extra < Decimal("0.02")
    folders = [
        DiskFolder(tmp_path / name).read(f"{key}/result.json")
        for name, key in (("whole", whole.key), ("many", many.key))
    ]
    prompts = [raw.split(b'"prompt":')[1].split(b",")[0] for raw in folders if raw is not None]
    assert prompts[0] == prompts[1]
    assert books.entry(many.key).job_id == job.id


def test_a_rewriting_is_asked_once_in_many_looks_and_booked_with_the_one_that_was_lost(
    server: LocalAnthropic, tmp_path: Path, clock: Clock
) -> None:
    place, ticking = DiskFolder(tmp_path / "jobs"), Ticking()

    def hurried() -> AnthropicProvider:
        return provider(server, place, clock=ticking, look_seconds=5)

    with LocalBedrock(rewrite=lambda prompt: f"{prompt} ADD.") as bedrock:
        about = {"target_model_id": "anthropic.claude-test-v1:0", "token_usd": 30, "as_of": "2026-11-01"}
        optimiser = {"type": "bedrock", **about, "source": "a test", "endpoint_url": bedrock.url}
        done, _ = start(hurried, tmp_path, clock, optimiser)
        bedrock.fail("lost", path="/optimize-prompt")
        looks = 0
        while not (job := _patient(hurried, done.job.id)).state.terminal:
            looks += 1
            assert looks < 20
        assert looks > 2
        assert bedrock.calls("POST", "/optimize-prompt") == 2
    used = server.usage
    answers = (used["input_tokens"] + 5 * used["output_tokens"]) / Decimal(1_000_000)
    # "Be kind." and "Be kind. ADD." at 2.5 bytes a token; of the lost one 8 bytes, 32 for its role, and the most.
    assert job.cost_usd == answers + Decimal(30) * (4 + 6 + 8 + 32 + 8_192) / 1_000_000
    assert job.raw_state == "succeeded (bedrock: 0.00 to 1.00, 1 tried beside it)"


def _patient(make: Callable[[], AnthropicProvider], job_id: str) -> Any:
    try:
        return make().status(job_id)
    except ProviderUnavailable:
        return make().find(job_id.removeprefix("localfake-"), None)  # type: ignore[arg-type]


def test_two_who_look_at_once_ask_no_question_twice(server: LocalAnthropic, tmp_path: Path, clock: Clock) -> None:
    import threading

    place = DiskFolder(tmp_path / "jobs")
    done, _ = start(lambda: provider(server, place), tmp_path, clock)
    threads = [threading.Thread(target=lambda: provider(server, place).status(done.job.id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while not (job := provider(server, place).status(done.job.id)).state.terminal:
        pass
    used = server.usage
    assert job.cost_usd == (used["input_tokens"] + 5 * used["output_tokens"]) / Decimal(1_000_000)


def test_a_search_is_cancelled_and_its_budget_is_the_most_that_it_costs(
    server: LocalAnthropic, tmp_path: Path, clock: Clock
) -> None:
    place = DiskFolder(tmp_path / "jobs")
    done, ledger = start(lambda: provider(server, place), tmp_path, clock)
    assert provider(server, place).cancel(done.job.id).state == State.CANCELLED
    assert provider(server, place).status(done.job.id).state == State.CANCELLED
    assert server.seen == []
    poor = provider(server, DiskFolder(tmp_path / "poor"), budget_usd=Decimal("0.0001"))
    spec = plan().spec(records(), tmp_path)
    made = poor.launch(spec, poor.prepare(spec, tmp_path), key="sf-poor")
    failed = poor.status(made.id)
    assert (failed.state, server.seen) == (State.FAILED, [])
    assert "not one prompt" in (failed.error or "")
    with pytest.raises(InvalidInput, match="'prompt'"):
        poor.validate(spec.model_copy(update={"method": "sft"}))
    assert ledger.spent("local") == 2


@pytest.mark.parametrize("status", [400, 404, 413])
def test_a_search_that_is_refused_for_good_ends_and_books_what_it_spent(
    tmp_path: Path, clock: Clock, status: int
) -> None:
    place, calls = DiskFolder(tmp_path / "jobs"), 0

    def refusing(system: str, messages: list[dict[str, Any]]) -> str:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Refusal(status, "invalid_request_error", f"cannot use PLANTED {messages}")
        return answer(system, messages)

    with LocalAnthropic(answer=refusing) as server:
        assert isinstance(server, LocalAnthropic)
        done, ledger = start(lambda: provider(server, place), tmp_path, clock)
        entry = list(follow(provider(server, place), ledger, done.key))[-1]
        assert (entry.stage, calls) == (Stage.FAILED, 2)
        assert f"status {status}" in (entry.note or "")
        assert "higher attempt" in (entry.note or "")
        assert not {"PLANTED", "plus one", "invalid_request_error"} & set((entry.note or "").split())
        # The one answer that came is paid for, and the rest of the two dollars is free again.
        assert ledger.spent("local") == entry.actual_usd == Decimal("0.00")
        job, used = provider(server, place).status(done.job.id), server.usage
        assert (job.state, calls) == (State.FAILED, 2)
        assert 0 < (used["input_tokens"] + 5 * used["output_tokens"]) / Decimal(1_000_000) == job.cost_usd


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_search_goes_on_once_the_key_was_mended(tmp_path: Path, clock: Clock, status: int) -> None:
    place, mended = DiskFolder(tmp_path / "jobs"), False

    def locked(system: str, messages: list[dict[str, Any]]) -> str:
        if not mended:
            raise Refusal(status, "authentication_error", "invalid x-api-key")
        return answer(system, messages)

    with LocalAnthropic(answer=locked) as server:
        assert isinstance(server, LocalAnthropic)
        done, ledger = start(lambda: provider(server, place), tmp_path, clock)
        for _ in range(2):
            with pytest.raises(ProviderRefused, match=str(status)):
                list(follow(provider(server, place), ledger, done.key))
        assert ledger.entry(done.key).stage == Stage.LAUNCHED
        mended = True
        assert list(follow(provider(server, place), ledger, done.key))[-1].stage == Stage.SUCCEEDED


class Improving:
    """Adds even numbers with ADD, and all with DIGITS too; `refuse` may raise for a system prompt and a text."""

    def __init__(
        self, refuse: Callable[[str, str], None], proposals: tuple[str, ...] = ("ADD", "ADD in DIGITS")
    ) -> None:
        self._refuse, self._proposals = refuse, proposals
        self.proposed = 0

    def __call__(self, system: str, messages: list[dict[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        self._refuse(system, text)
        if not (text.endswith("plus one") and len(text) < 20):
            self.proposed += 1
            return f"```\n{self._proposals[min(self.proposed, len(self._proposals)) - 1]}\n```"
        number = int(text.split()[0])
        return f"\n{number + 1}" if "DIGITS" in system or ("ADD" in system and number % 2 == 0) else "no idea"


def paid(server: LocalAnthropic) -> Decimal:
    return (server.usage["input_tokens"] + 5 * server.usage["output_tokens"]) / Decimal(1_000_000)


CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."


@pytest.mark.parametrize(
    ("status", "message", "why"),
    [
        (400, "cannot use PLANTED", "a call was refused with status 400"),
        (404, "no such model", "a call was refused with status 404"),
        (400, CREDIT, "a call was refused with status 402: the account has no credit"),
        (402, "billing", "a call was refused with status 402: the account has no credit"),
        (403, "permission", "a call was refused with status 403: check what the key may do"),
    ],
    ids=["refused", "model", "credit-as-400", "credit", "permission"],
)
def test_a_refusal_ends_a_search_with_the_better_prompt_that_was_paid_for(
    tmp_path: Path, clock: Clock, status: int, message: str, why: str
) -> None:
    refused = 0

    def refuse(system: str, text: str) -> None:
        nonlocal refused
        if "ADD" in text:  # the optimiser's second question
            refused += 1
            raise Refusal(status, "invalid_request_error", message)

    place = DiskFolder(tmp_path / "jobs")
    with LocalAnthropic(answer=Improving(refuse)) as server:
        assert isinstance(server, LocalAnthropic)
        done, ledger = start(lambda: provider(server, place), tmp_path, clock)
        entry = list(follow(provider(server, place), ledger, done.key))[-1]
        assert (entry.stage, refused) == (Stage.SUCCEEDED, 1)
        assert entry.raw_state == f"succeeded (gepa: 0.00 to 0.50, 1 tried beside it; ended early: {why})"
        assert provider(server, place).status(done.job.id).cost_usd == paid(server) > 0
        tuned = provider(server, place).retrieve(done.job.id)
        asked = [Message(role="user", content="42 plus one")]
        assert provider(server, place).invoke(tuned, asked, max_tokens=9).text.endswith("\n43")


@pytest.mark.parametrize("message", [CREDIT, "the prompt is too long"], ids=["credit", "prompt"])
def test_a_400_without_credit_is_mended_by_credit_and_any_other_is_not(
    tmp_path: Path, clock: Clock, message: str
) -> None:
    def refuse(system: str, text: str) -> None:
        raise Refusal(400, "invalid_request_error", message)

    place = DiskFolder(tmp_path / "jobs")
    with LocalAnthropic(answer=Improving(refuse)) as server:
        assert isinstance(server, LocalAnthropic)
        done, ledger = start(lambda: provider(server, place), tmp_path, clock)
        if message == CREDIT:
            with pytest.raises(ProviderRefused, match=r"messages: 402. Add credit"):
                list(follow(provider(server, place), ledger, done.key))
            assert ledger.entry(done.key).stage == Stage.LAUNCHED
        else:
            assert list(follow(provider(server, place), ledger, done.key))[-1].stage == Stage.FAILED


def test_a_prompt_that_is_refused_scores_nothing_and_the_search_goes_on_in_any_number_of_looks(
    tmp_path: Path, clock: Clock
) -> None:
    too_long: list[str] = []

    def refuse(system: str, text: str) -> None:
        if "LONG" in system:
            too_long.append(text)
            raise Refusal(413, "request_too_large", "prompt is too long")

    model = Improving(refuse, ("LONG", "ADD in DIGITS"))
    with LocalAnthropic(answer=model) as server:
        assert isinstance(server, LocalAnthropic)
        ticking, place = Ticking(), DiskFolder(tmp_path / "jobs")

        def hurried() -> AnthropicProvider:
            return provider(server, place, clock=ticking, look_seconds=12)

        done, _ = start(hurried, tmp_path, clock)
        looks = 0
        while not (job := hurried().status(done.job.id)).state.terminal:
            looks += 1
            assert looks < 100
        assert looks > 2
        assert job.raw_state == "succeeded (gepa: 0.00 to 1.00, 1 tried beside it, 1 refused)"
        # Asked once, in whatever look: the next one knows that it was refused.
        assert (len(too_long), model.proposed) == (1, 2)
        assert job.cost_usd == paid(server)


def test_refusals_of_one_prompt_after_another_end_the_search(tmp_path: Path, clock: Clock) -> None:
    asked: list[str] = []

    def refuse(system: str, text: str) -> None:
        if "LONG" in system:
            asked.append(system)
            raise Refusal(400, "invalid_request_error", "cannot be used")

    proposals = tuple(f"LONG {number}" for number in range(9))
    for given, stage, told in (
        (proposals, Stage.FAILED, "refused with status 400"),
        (("ADD", *proposals), Stage.SUCCEEDED, "5 prompts in a row were refused, the last with status 400"),
    ):
        asked.clear()
        place = DiskFolder(tmp_path / stage.value)
        with LocalAnthropic(answer=Improving(refuse, given)) as server:
            assert isinstance(server, LocalAnthropic)
            done, ledger = start(
                lambda server=server, place=place: provider(server, place),
                tmp_path / f"{stage.value}-books",
                clock,
                {"type": "gepa", "max_metric_calls": 100},
            )
            entry = list(follow(provider(server, place), ledger, done.key))[-1]
            assert entry.stage == stage
            assert told in f"{entry.note} {entry.raw_state}"
            assert asked == [f"LONG {number}" for number in range(5)]
            assert provider(server, place).status(done.job.id).cost_usd == paid(server)


def test_a_question_that_was_lost_and_then_refused_is_booked_once(tmp_path: Path, clock: Clock) -> None:
    refusing = False

    def refuse(system: str, text: str) -> None:
        if refusing and "LONG" in system:
            raise Refusal(400, "invalid_request_error", "cannot be used")

    place = DiskFolder(tmp_path / "jobs")
    with LocalAnthropic(answer=Improving(refuse, ("LONG", "ADD in DIGITS"))) as server:
        assert isinstance(server, LocalAnthropic)
        # Of the first prompt 2 answers, 2 again and 3, a proposal: the ninth call is the first of LONG.
        server.plan = lambda request: "dropped" if len(server.seen) == 8 else None
        done, _ = start(lambda: provider(server, place), tmp_path, clock)
        with pytest.raises(ProviderUnavailable):
            provider(server, place).status(done.job.id)
        refusing = True
        job = provider(server, place).status(done.job.id)
        assert (job.state, "1 refused" in job.raw_state) == (State.SUCCEEDED, True)
        # At most "LONG" and a question of 10 bytes, 32 tokens for each role, and 512 of an answer.
        assert job.cost_usd == paid(server) + Decimal(4 + 10 + 2 * 32 + 5 * 512) / 1_000_000


def test_a_search_without_its_optimiser_s_package_ends_with_the_remedy(
    server: LocalAnthropic, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = DiskFolder(tmp_path / "jobs")
    done, ledger = start(lambda: provider(server, place), tmp_path, clock)
    monkeypatch.setitem(sys.modules, "gepa", None)
    entry = list(follow(provider(server, place), ledger, done.key))[-1]
    assert (entry.stage, "stepforge[prompts]" in (entry.note or "")) == (Stage.FAILED, True)


def test_the_machine_s_plan_needs_a_bucket_and_runs_no_verifier_of_users() -> None:
    for given, words in (
        ({}, "folder_uri"),
        ({"folder_uri": "s3://bucket/finetune/prompts", "verifier": "my_rules:check"}, "verifiers of users"),
    ):
        settings = plan(**given).provider
        assert isinstance(settings, AnthropicSettings)
        with pytest.raises(InvalidInput, match=words):
            settings.check_machine(None)
