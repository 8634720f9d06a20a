"""A launch is charged once, whatever fails on the way."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import (
    IntegrityError,
    InvalidInput,
    LaunchUncertain,
    ModelGone,
    OverBudget,
    ProviderRefused,
    ProviderUnavailable,
    Throttled,
)
from stepforge.finetune import Job, Prepared, Provider, TokenRange, TuneSpec, launch_key
from stepforge.finetune.entries import Stage
from stepforge.finetune.launching import Launch, launch
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.openai import OpenAIProvider
from stepforge.testing.providers import Fault, LocalBedrock, LocalOpenAI, LocalVertex
from tests.unit.finetune.conftest import BUDGETS, PRICE, Clock
from tests.unit.finetune.distilling import distillation_case

JOBS = "/v1/fine_tuning/jobs"
LOST: tuple[Fault, ...] = ("lost", "late", "error_after", "dropped", "error", "wrong_schema")


class Crash(BaseException):
    """The process ends here: no handler of ours may see it."""


def connect(server: LocalOpenAI, *, remembers_seconds: float = 120) -> OpenAIProvider:
    key = SecretStr("sk-test-0123456789")
    return OpenAIProvider(key, base_url=f"{server.url}/v1", remembers_seconds=remembers_seconds)


def sleeper(server: LocalOpenAI, clock: Clock) -> Callable[[float], None]:
    """Sleep on the clock; what the server is late with happens meanwhile."""

    def sleep(seconds: float) -> None:
        server.settle()
        clock.sleep(seconds)

    return sleep


def run(server: LocalOpenAI, spec: TuneSpec, folder: Path, ledger: Ledger, clock: Clock, **options: Any) -> Launch:
    provider = options.pop("provider", None) or connect(server)
    given = {"ledger": ledger, "budgets": BUDGETS, "price": PRICE, "sleep": sleeper(server, clock), **options}
    return launch(provider, spec, folder, **given)


def open_ledger(folder: Path, clock: Clock) -> Ledger:
    return FileLedger(folder / "spend.sqlite", clock=clock)


@dataclass
class Shop:
    """A vendor's server, what is asked of it at which price, and the path of what is charged."""

    server: Any
    provider: Provider
    spec: TuneSpec
    price: ModelPrice
    path: str

    def sent(self) -> list[tuple[str, str]]:
        """Our key and the vendor's name of every job that it has."""
        if isinstance(self.server, LocalBedrock):
            return [(job["asked"]["clientRequestToken"], job["jobArn"]) for job in self.server.jobs.values()]
        if isinstance(self.server, LocalVertex):
            return [(job["labels"]["stepforge-key"], name) for name, job in self.server.jobs.items()]
        return [(job["metadata"]["stepforge_key"], job["id"]) for job in self.server.jobs.values()]


def distilling(server: Any, folder: Path) -> Shop:
    case, price = distillation_case(server, folder)
    return Shop(server, case.provider, case.spec, price, case.create[1])


def test_a_launch_is_reserved_sent_and_recorded(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    done = run(server, spec, tmp_path, ledger, clock)
    assert done.stage == Stage.LAUNCHED
    assert done.job is not None
    assert done.job.local_fake
    assert "local fake" in done.words
    assert list(server.jobs) == [done.entry.job_id]
    assert [line.detail for line in ledger.lines(done.key)] == [
        "10.00 to 11.00 USD",
        "claimed",
        "about to send",
        f"{done.entry.job_id} validating_files",
    ]
    assert ledger.spent("local") == Decimal("11")


def test_the_ledger_is_on_the_disk_before_the_call(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    seen: list[Stage] = []

    class Watched(OpenAIProvider):
        def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
            entry = FileLedger(tmp_path / "spend.sqlite").entry(key)
            assert entry.sent_at is not None
            seen.append(entry.stage)
            return super().launch(spec, prepared, key=key)

    run(server, spec, tmp_path, ledger, clock, provider=Watched(SecretStr("sk-test"), base_url=f"{server.url}/v1"))
    assert seen == [Stage.SENDING]


def test_the_same_spec_twice_is_one_job(server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock) -> None:
    ledger = open_ledger(tmp_path, clock)
    first, second = (run(server, spec, tmp_path, ledger, clock) for _ in range(2))
    assert first.entry.job_id == second.entry.job_id
    assert server.calls("POST", JOBS) == 1
    # A machine with another counter says other numbers of the same data.
    counted = spec.training.model_copy(update={"tokens": TokenRange(low=1, high=9_000_000, method="bytes/8..bytes/1")})
    other = run(server, spec.model_copy(update={"training": counted}), tmp_path, open_ledger(tmp_path, clock), clock)
    assert (other.key, server.calls("POST", JOBS)) == (first.key, 1)
    again = run(server, spec.model_copy(update={"attempt": 2}), tmp_path, ledger, clock)
    assert again.entry.job_id != first.entry.job_id


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no-metadata"])
def test_a_lost_answer_is_looked_for_before_it_is_sent_again(
    fault: Fault, metadata: bool, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    with LocalOpenAI(metadata=metadata, delay_seconds=0.02) as server:
        assert isinstance(server, LocalOpenAI)
        server.fail(fault, path=JOBS)
        done = run(server, spec, tmp_path, open_ledger(tmp_path, clock), clock)
        assert list(server.jobs) == [done.entry.job_id]
        # Waited for as long as a job may still appear, but not where the first answer already showed it.
        created_at_first = fault in ("lost", "late", "error_after", "wrong_schema")
        assert (clock.now - 1_795_000_000.0 >= 120) == (not created_at_first)


def test_a_busy_provider_is_asked_again_without_a_wait_for_lost_jobs(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    server.fail("throttled", path=JOBS, times=3)
    run(server, spec, tmp_path, open_ledger(tmp_path, clock), clock)
    assert (server.calls("POST", JOBS), len(server.jobs)) == (4, 1)
    assert len(clock.slept) == 3


def test_a_provider_that_is_always_busy_leaves_the_money_set_aside_and_nothing_sent(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    server.fail("throttled", path=JOBS, times=9)
    with pytest.raises(Throttled):
        run(server, spec, tmp_path, ledger, clock)
    entry = ledger.entry(launch_key(spec, connect(server).target))
    assert (entry.stage, entry.sent_at, ledger.spent("local")) == (Stage.RESERVED, None, Decimal(11))


def test_a_refusal_frees_the_money_and_may_be_tried_again(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    server.fail("echo", path=JOBS)
    with pytest.raises(ProviderRefused, match="400"):
        run(server, spec, tmp_path, ledger, clock)
    assert ledger.spent("local") == 0
    assert run(server, spec, tmp_path, ledger, clock).stage == Stage.LAUNCHED


def test_answers_that_never_come_are_an_uncertain_launch_that_is_found_later(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    server.fail("lost", path=JOBS)
    server.fail("error", method="GET", path=JOBS, times=50)
    with pytest.raises((LaunchUncertain, ProviderUnavailable)):
        run(server, spec, tmp_path, ledger, clock, tries=2)
    # The first look fails before anything is sent: nothing is charged, and the books say so.
    assert server.jobs == {}
    with server.lock:
        server._orders.clear()
    server.fail("lost", path=JOBS)
    clock.sleep(2_000)
    done = run(server, spec, tmp_path, ledger, clock)
    assert list(server.jobs) == [done.entry.job_id]


@pytest.mark.parametrize("where", ["before the call", "after the call", "before the books"])
def test_a_crash_is_reconciled_by_the_next_process(
    where: str, server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    class Crashing(OpenAIProvider):
        def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
            if where == "before the call":
                raise Crash
            job = super().launch(spec, prepared, key=key)
            if where == "after the call":
                raise Crash
            return job

    class Ledgers(FileLedger):
        def record(self, key: str, job: Job, *, actual_usd: Decimal | None = None) -> Any:
            raise Crash

    crashing = Crashing(SecretStr("sk-test"), base_url=f"{server.url}/v1", remembers_seconds=120)
    book = (Ledgers if where == "before the books" else FileLedger)(tmp_path / "spend.sqlite", clock=clock)
    with pytest.raises(Crash):
        run(server, spec, tmp_path, book, clock, provider=crashing)
    ledger = open_ledger(tmp_path, clock)
    # While the first may still be alive, nobody else sends.
    assert run(server, spec, tmp_path, ledger, clock).stage == Stage.SENDING
    clock.sleep(2_000)
    done = run(server, spec, tmp_path, ledger, clock)
    assert done.stage == Stage.LAUNCHED
    assert list(server.jobs) == [done.entry.job_id]


def test_a_sender_that_was_overtaken_does_not_send(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    """It slept through its lease, a laptop's lid closed say, and another process has sent meanwhile."""
    ledger = open_ledger(tmp_path, clock)

    class Sleeping(OpenAIProvider):
        def find(self, key: str, prepared: Prepared) -> Job | None:
            found = super().find(key, prepared)
            clock.sleep(2_000)
            run(server, spec, tmp_path, ledger, clock)
            return found

    sleeping = Sleeping(SecretStr("sk-test"), base_url=f"{server.url}/v1", remembers_seconds=120)
    with pytest.raises(LaunchUncertain, match="taken over"):
        run(server, spec, tmp_path, ledger, clock, provider=sleeping)
    assert len(server.jobs) == 1


def test_a_new_ledger_is_opened_by_many_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def opened(path: Path) -> int:
        together.wait(30)
        with closing(FileLedger(path)) as ledger:
            return len(ledger.entries())

    with ThreadPoolExecutor(8) as pool:
        for number in range(60):
            path = tmp_path / f"{number}.sqlite"
            assert list(pool.map(opened, [path] * 8)) == [0] * 8


def test_concurrent_launches_of_one_spec_send_it_once(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    stages: list[Stage] = []

    def one() -> None:
        stages.append(run(server, spec, tmp_path, open_ledger(tmp_path, clock), clock).stage)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(stages), server.calls("POST", JOBS), len(server.jobs)) == (8, 1, 1)


@pytest.mark.parametrize("launches", [500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_launches_with_faults_at_every_call_are_charged_once_each(
    launches: int, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    dice = random.Random(launches)
    faults: tuple[Fault, ...] = ("throttled", "error", "error_after", "dropped", "lost", "late", "wrong_schema")

    def plan(request: Any) -> Fault | None:
        # Distillations are few: their charged calls fail more often, so that each meets every fault.
        rare = request.method == "POST" and request.path.endswith(("/model-customization-jobs", "/tuningJobs"))
        return dice.choice(faults) if dice.random() < (0.6 if rare else 0.35) else None

    options = {"plan": plan, "delay_seconds": 0.001}
    with LocalOpenAI(**options) as server, LocalBedrock(**options) as bedrock, LocalVertex(**options) as vertex:
        shops = [
            Shop(server, connect(server), spec, PRICE, JOBS),  # type: ignore[arg-type]
            distilling(bedrock, tmp_path),
            distilling(vertex, tmp_path),
        ]
        ledger = open_ledger(tmp_path, clock)
        outcomes: Counter[str] = Counter()
        for number in range(1, launches + 1):
            shop = shops[0 if number % 10 else 1 + number // 10 % 2]  # of ten launches one is a distillation
            asked = shop.spec.model_copy(update={"attempt": number})
            given = {"provider": shop.provider, "price": shop.price, "tries": 3}
            for _ in range(20):  # whoever gives up comes back later, as a scheduler would
                try:
                    run(shop.server, asked, tmp_path, ledger, clock, **given)
                except (LaunchUncertain, ProviderUnavailable, Throttled) as error:
                    outcomes[type(error).__name__] += 1
                    clock.sleep(2_000)
                    continue
                break
        for shop in shops:
            shop.server.settle()
        sent = [pair for shop in shops for pair in shop.sent()]
    entries = ledger.entries("local")
    assert sorted(sent) == sorted((entry.key, entry.job_id) for entry in entries)
    # Bedrock's jobs go on with each look, and one that was looked for may have ended.
    assert {entry.stage for entry in entries} <= {Stage.LAUNCHED, Stage.SUCCEEDED}
    assert Counter(entry.method for entry in entries) == {"sft": launches * 9 // 10, "distillation": launches // 10}
    # The faults were there: each kind met the calls that are charged, and launches gave up and came back.
    met = [{s.fault for s in shop.server.seen if (s.method, s.path) == ("POST", shop.path)} for shop in shops]
    assert met[0] == met[1] | met[2] == {None, *faults}
    assert sum(outcomes.values()) > 0


# ── Money ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["job_usd", "day_usd", "environment_usd"])
def test_nothing_is_sent_over_a_budget(
    which: str, server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    budgets = BUDGETS.model_copy(update={which: Decimal("10.99")})
    with pytest.raises(OverBudget, match=r"11\.00 USD.*10\.99 USD"):
        run(server, spec, tmp_path, ledger, clock, budgets=budgets)
    assert server.seen == []
    assert ledger.entries() == ()


def test_a_day_s_budget_is_free_again_on_the_next_day_and_an_environment_s_is_not(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    budgets = BUDGETS.model_copy(update={"day_usd": Decimal(12), "environment_usd": Decimal(25)})
    specs = [spec.model_copy(update={"attempt": n}) for n in (1, 2, 3)]
    run(server, specs[0], tmp_path, ledger, clock, budgets=budgets)
    with pytest.raises(OverBudget, match="day"):
        run(server, specs[1], tmp_path, ledger, clock, budgets=budgets)
    clock.sleep(86_400)
    run(server, specs[1], tmp_path, ledger, clock, budgets=budgets)
    clock.sleep(86_400)
    with pytest.raises(OverBudget, match="environment"):
        run(server, specs[2], tmp_path, ledger, clock, budgets=budgets)


def test_what_was_spent_takes_the_place_of_what_was_promised(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    done = run(server, spec, tmp_path, ledger, clock)
    assert done.job is not None
    ledger.record(done.key, done.job, actual_usd=Decimal("3.21"))
    assert ledger.spent("local") == Decimal("3.21")


def test_above_the_threshold_a_person_approves_before_anything_is_sent(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    budgets = BUDGETS.model_copy(update={"approval_usd": Decimal("10.50")})
    waiting = run(server, spec, tmp_path, ledger, clock, budgets=budgets)
    assert (waiting.stage, server.seen, ledger.spent("local")) == (Stage.NEEDS_APPROVAL, [], 0)
    with pytest.raises(InvalidInput, match="name"):
        ledger.approve(waiting.key, by=" ", budgets=budgets)
    with pytest.raises(OverBudget):
        ledger.approve(waiting.key, by="Ada", budgets=budgets.model_copy(update={"day_usd": Decimal(1)}))
    ledger.approve(waiting.key, by="Ada", budgets=budgets)
    done = run(server, spec, tmp_path, ledger, clock, budgets=budgets)
    assert (done.stage, done.entry.approved_by, len(server.jobs)) == (Stage.LAUNCHED, "Ada", 1)


def test_what_was_not_sent_can_be_withdrawn_and_what_may_have_been_cannot(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    budgets = BUDGETS.model_copy(update={"approval_usd": Decimal(1)})
    waiting = run(server, spec, tmp_path, ledger, clock, budgets=budgets)
    assert ledger.withdraw(waiting.key, "too dear").stage == Stage.REFUSED
    approved = run(server, spec.model_copy(update={"attempt": 2}), tmp_path, ledger, clock, budgets=budgets)
    ledger.approve(approved.key, by="Ada", budgets=BUDGETS)
    ledger.claim(approved.key, "someone", 60)
    ledger.sending(approved.key, "someone", 60)
    with pytest.raises(LaunchUncertain):
        ledger.withdraw(approved.key, "too late")


# ── What cannot be mistaken ──────────────────────────────────────────────────────────────────────


def test_a_local_server_serves_the_local_environment_alone(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    ledger = open_ledger(tmp_path, clock)
    with pytest.raises(InvalidInput, match="do not go together"):
        run(server, spec.model_copy(update={"environment": "prod"}), tmp_path, ledger, clock)
    real = OpenAIProvider(SecretStr("sk-test"), base_url="https://api.example.com/v1")
    with pytest.raises(InvalidInput, match="do not go together"):
        run(server, spec, tmp_path, ledger, clock, provider=real)
    assert (server.seen, ledger.entries()) == ([], ())


def test_a_proxy_on_this_machine_that_is_no_fake_of_ours_is_noticed(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    class Real(OpenAIProvider):
        def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
            return super().launch(spec, prepared, key=key).model_copy(update={"id": "ftjob-A1b2"})

    proxy = Real(SecretStr("sk-test"), base_url=f"{server.url}/v1")
    with pytest.raises(IntegrityError, match="does not come from a local fake"):
        run(server, spec, tmp_path, open_ledger(tmp_path, clock), clock, provider=proxy)


def test_a_model_that_ends_too_soon_is_refused_with_the_date(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    from datetime import date

    given = {"shutdown": date(2027, 1, 14), "needed_until": date(2027, 6, 1)}
    with pytest.raises(ModelGone, match="2027-01-14"):
        run(server, spec, tmp_path, open_ledger(tmp_path, clock), clock, **given)
    assert server.seen == []


def test_data_that_changed_after_it_was_checked_is_not_uploaded(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / spec.training.filename).write_text("{}")
    with pytest.raises(IntegrityError, match="changed"):
        run(server, spec, tmp_path, open_ledger(tmp_path, clock), clock)
    assert server.calls("POST", "/v1/files") == 0
