"""What every spend ledger promises, wherever its entries are kept. Imported by tests that give `books`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import IdentityConflict, InvalidInput, LaunchUncertain, OverBudget, UnknownName
from stepforge.finetune import DatasetFile, Job, State, TokenRange, TuneSpec
from stepforge.finetune.entries import Budgets, Entry, Stage
from stepforge.finetune.job import Estimate
from stepforge.finetune.ledger import Ledger

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
TOKENS = TokenRange(low=1, high=2, method="a test")
PRICE = ModelPrice(kind="training_job", usd=Decimal(10), unit="job", as_of=date(2026, 11, 1), source="given in a test")
FILE = DatasetFile(format="openai", method="sft", sha256="0" * 64, bytes=1, rows=1, tokens=TOKENS)
SPEC = TuneSpec(provider="openai", environment="dev", base_model="small", method="sft", training=FILE)
BUDGETS = Budgets(job_usd=Decimal(20), day_usd=Decimal(30), environment_usd=Decimal(50), approval_usd=Decimal(15))


class Now:
    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> float:
        return self.at


Books = tuple[Callable[[], Ledger], Now]
"""Opens the same books again, as another process would; and the clock that they go by."""


def reserve(ledger: Ledger, key: str, usd: str = "10", budgets: Budgets = BUDGETS) -> Entry:
    estimate = Estimate(low_usd=Decimal(1), high_usd=Decimal(usd), tokens=TOKENS, price=PRICE)
    return ledger.reserve(key, SPEC, "openai:there", estimate, budgets)


def job(state: State = State.RUNNING, number: int = 1) -> Job:
    return Job(provider="openai", id=f"job-{number}", state=state, raw_state=state.value, model="tuned")


def test_an_entry_is_there_for_whoever_opens_the_books(books: Books) -> None:
    open_, _ = books
    entry = reserve(open_(), "sf-a")
    assert open_().entry("sf-a") == entry
    assert (entry.stage, entry.estimate_usd, entry.reserved_at) == (
        Stage.RESERVED,
        Decimal(10),
        datetime.fromtimestamp(NOON, UTC),
    )
    with pytest.raises(UnknownName, match="sf-a"):
        open_().entry("sf-b")


def test_money_is_set_aside_once_and_given_back(books: Books) -> None:
    open_, _ = books
    ledger = open_()
    for _ in range(3):
        reserve(ledger, "sf-a")
    assert (ledger.spent("dev"), ledger.spent("dev", day="2026-11-22"), ledger.spent("prod")) == (10, 10, 0)
    ledger.withdraw("sf-a", "changed my mind")
    assert (ledger.spent("dev"), ledger.entry("sf-a").note) == (0, "changed my mind")
    reserve(ledger, "sf-a")
    assert ledger.spent("dev") == 10


def test_a_day_s_budget_ends_with_the_day_and_an_environment_s_does_not(books: Books) -> None:
    open_, now = books
    ledger = open_()
    for key in ("sf-1", "sf-2", "sf-3"):
        reserve(ledger, key)
    with pytest.raises(OverBudget, match=r"budget of the day 2026-11-22 in 'dev' is 30\.00 USD"):
        reserve(ledger, "sf-4")
    now.at += 86_400
    for key in ("sf-4", "sf-5"):
        reserve(ledger, key)
    with pytest.raises(OverBudget, match="environment 'dev' is 50"):
        reserve(ledger, "sf-6")
    assert [entry.key for entry in ledger.entries("dev")] == ["sf-1", "sf-2", "sf-3", "sf-4", "sf-5"]
    assert (ledger.entries("prod"), ledger.spent("dev", day="2026-11-23")) == ((), 20)


def test_what_waits_for_a_person_holds_no_money_until_the_person_agrees(books: Books) -> None:
    open_, now = books
    ledger = open_()
    assert reserve(ledger, "sf-a", "16").stage == Stage.NEEDS_APPROVAL
    assert ledger.spent("dev") == 0
    with pytest.raises(InvalidInput, match="name"):
        ledger.approve("sf-a", by=" ", budgets=BUDGETS)
    now.at += 86_400
    assert ledger.approve("sf-a", by="Ada", budgets=BUDGETS).approved_by == "Ada"
    assert (ledger.spent("dev", day="2026-11-22"), ledger.spent("dev", day="2026-11-23")) == (0, 16)
    assert ledger.approve("sf-a", by="Bob", budgets=BUDGETS).approved_by == "Ada"


def test_who_agreed_to_an_amount_did_not_agree_to_a_higher_one(books: Books) -> None:
    open_, _ = books
    ledger = open_()
    assert reserve(ledger, "sf-a", "16").stage == Stage.NEEDS_APPROVAL
    ledger.approve("sf-a", by="Ada", budgets=BUDGETS)
    assert reserve(ledger, "sf-a", "12").approved_by == "Ada"  # what is cheaper was agreed to
    asked = reserve(ledger, "sf-a", "18")
    assert (asked.stage, asked.approved_by, asked.estimate_usd, ledger.spent("dev")) == ("needs approval", None, 18, 0)
    with pytest.raises(OverBudget, match="budget of the job is 20"):
        reserve(ledger, "sf-a", "21")
    # Claimed and not yet sent: who claimed it finds that the turn is gone.
    reserve(ledger, "sf-b", "5")
    ledger.claim("sf-b", "one", 60)
    assert (reserve(ledger, "sf-b", "10").stage, ledger.spent("dev")) == (Stage.RESERVED, 10)
    with pytest.raises(LaunchUncertain):
        ledger.sending("sf-b", "one", 60)
    # A threshold that is lower now asks a person now.
    lower = BUDGETS.model_copy(update={"approval_usd": Decimal(9)})
    assert reserve(ledger, "sf-b", "10", lower).stage == Stage.NEEDS_APPROVAL


def test_what_may_have_been_sent_is_not_set_aside_anew(books: Books) -> None:
    open_, _ = books
    ledger = open_()
    reserve(ledger, "sf-a", "5")
    ledger.claim("sf-a", "one", 60)
    ledger.sending("sf-a", "one", 60)
    assert reserve(ledger, "sf-a", "18").stage == Stage.SENDING
    ledger.record("sf-a", job())
    assert (reserve(ledger, "sf-a", "18").stage, ledger.spent("dev")) == (Stage.LAUNCHED, 5)


def test_what_was_claimed_and_never_sent_can_be_given_up(books: Books) -> None:
    """Its process died before its last line: the money would else be promised for ever."""
    open_, _ = books
    ledger = open_()
    reserve(ledger, "sf-a")
    ledger.claim("sf-a", "one", 60)
    assert (ledger.withdraw("sf-a", "the process died").stage, ledger.spent("dev")) == (Stage.REFUSED, 0)
    with pytest.raises(LaunchUncertain):
        ledger.sending("sf-a", "one", 60)


def test_an_answer_that_comes_late_does_not_undo_the_end(books: Books) -> None:
    open_, _ = books
    ledger = open_()
    reserve(ledger, "sf-a")
    ledger.claim("sf-a", "one", 60)
    ledger.record("sf-a", job(State.SUCCEEDED), actual_usd=Decimal(3))
    assert ledger.record("sf-a", job(State.RUNNING)).stage == Stage.SUCCEEDED


def test_one_at_a_time_sends_and_whoever_follows_reconciles(books: Books) -> None:
    open_, now = books
    first, second = open_(), open_()
    reserve(first, "sf-a")
    assert first.claim("sf-a", "one", 60) == "claimed"
    assert second.claim("sf-a", "two", 60) == "busy"
    with pytest.raises(LaunchUncertain):
        second.sending("sf-a", "two", 60)
    first.sending("sf-a", "one", 60)
    now.at += 61
    assert second.claim("sf-a", "two", 60) == "reconcile"
    with pytest.raises(LaunchUncertain, match="taken over"):
        first.not_sent("sf-a", "one", "late")
    with pytest.raises(LaunchUncertain):
        first.withdraw("sf-a", "late")
    second.not_sent("sf-a", "two", "it was busy")
    assert second.claim("sf-a", "two", 60) == "claimed"
    second.refused("sf-a", "two", "no such model")
    assert (first.entry("sf-a").note, first.spent("dev")) == ("no such model", 0)
    assert first.claim("sf-a", "one", 60) == "done"


def test_a_job_is_recorded_booked_and_never_changed_for_another(books: Books) -> None:
    open_, _ = books
    ledger = open_()
    for key in ("sf-a", "sf-b"):
        reserve(ledger, key)
        ledger.claim(key, "one", 60)
    ledger.record("sf-a", job())
    ledger.record("sf-a", job())
    assert ledger.claim("sf-a", "one", 60) == "done"
    done = ledger.record("sf-a", job(State.SUCCEEDED), actual_usd=Decimal("3.21"))
    assert (done.stage, done.model, ledger.spent("dev")) == (Stage.SUCCEEDED, "tuned", Decimal("13.21"))
    with pytest.raises(IdentityConflict, match="job-2"):
        ledger.record("sf-a", job(number=2))
    assert [line.detail for line in ledger.lines("sf-a")] == [
        "1 to 10 USD",
        "claimed",
        "job-1 running",
        "job-1 succeeded",
    ]
    assert {line.at for line in ledger.lines("sf-a")} == {datetime.fromtimestamp(NOON, UTC)}


def test_many_at_once_never_exceed_a_budget_and_claim_once(books: Books) -> None:
    open_, _ = books
    answers: Counter[str] = Counter()
    lock = threading.Lock()

    def one(number: int) -> None:
        ledger = open_()
        try:
            reserve(ledger, f"sf-{number}", "5")
            said = "reserved"
        except OverBudget:
            said = "over"
        turn = ledger.claim("sf-shared", f"owner {number}", 60)
        with lock:
            answers[said] += 1
            answers[turn] += 1

    reserve(open_(), "sf-shared", "5")
    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 5 USD are taken already, and the day has 30.
    assert answers == {"reserved": 5, "over": 3, "claimed": 1, "busy": 7}
    assert open_().spent("dev") == 30
