"""A request in the state machine is the caller's word: budgets and prices are the environment's."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.contracts.records import Provenance, Record
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import JobFailed, OverBudget
from stepforge.finetune import TuneSpec, flow
from stepforge.finetune.datasets import write
from stepforge.finetune.entries import Budgets, Stage
from stepforge.finetune.holding import fewest_tokens, held, shipped
from stepforge.finetune.job import Job, State, estimate
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.plan import Plan
from stepforge.finetune.request import Request, Start, Tools, request_bytes
from stepforge.finetune.spec import StringCheck, TokenRange
from tests.unit.finetune.conftest import NOTHING, PRICE, write_rows

MODEL = "gpt-4.1-mini-2025-04-14"
RICH = dict.fromkeys(Budgets.model_fields, Decimal(10**7))
LIMITS = Budgets(job_usd=Decimal(100), day_usd=Decimal(150), environment_usd=Decimal(150), approval_usd=Decimal(20))
RFT = {"method": "rft", "grader": StringCheck()}
PROMPTS = {"budget_usd": 1, "input_usd": "0.0001", "output_usd": 5, "as_of": "2026-11-01", "source": "s"}


class Vendor:
    """A provider that is no local fake, and is asked nothing but its estimate."""

    name, target, local, remembers_seconds = "openai", "openai:test", False, 0.0

    def validate(self, spec: TuneSpec) -> None: ...

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: Any = None) -> Any:
        return estimate(spec, price, hours=hours)

    def status(self, job_id: str) -> Job:
        return Job(provider="openai", id=job_id, state=State.SUCCEEDED, raw_state="ok", billable_tokens=2_000_000)


def flat(usd: str, kind: str = "training_job", unit: str = "job") -> ModelPrice:
    return ModelPrice.model_validate({**PRICE.model_dump(), "kind": kind, "usd": usd, "unit": unit})


@pytest.fixture
def tune(spec: TuneSpec) -> TuneSpec:
    tokens = TokenRange(low=1_000_000, high=1_000_000, method="a test")
    training = spec.training.model_copy(update={"tokens": tokens})
    return spec.model_copy(update={"environment": "dev", "base_model": MODEL, "training": training})


def plan_of(**given: Any) -> Plan:
    base = {"environment": "dev", "base_model": MODEL, "method": "sft", "provider": {"type": "openai"}}
    return Plan.model_validate({**base, "budgets": RICH, **given})


def begin(tune: TuneSpec, tmp_path: Path, price: ModelPrice, monkeypatch: pytest.MonkeyPatch, **given: Any) -> Any:
    """What `decide` makes of it, and the tools."""
    request = Request(
        plan=plan_of(**given), spec=tune, price=price, needed_until=PRICE.as_of, domain="d", heldout_sha256=NOTHING
    )
    data, sha256 = request_bytes(request)
    rows = (tmp_path / tune.training.filename).read_bytes()

    def get_object(Key: str, **_: Any) -> Any:
        body = data if Key == "r" else b"" if "/heldout/" in Key else rows
        return {"Body": SimpleNamespace(read=lambda: body)}

    s3 = SimpleNamespace(get_object=get_object)
    monkeypatch.setattr("stepforge.finetune.request.connect", lambda *_: Vendor())
    ledger = FileLedger(tmp_path / "ledger.sqlite")
    tools = Tools(ledger=ledger, s3=s3, sagemaker=None, secrets=None, bucket="b", environment="dev", limits=LIMITS)
    start = Start(request_uri="s3://bucket/r", request_sha256=sha256)
    return tools, flow.decide(tools, start, lambda _: None)


def test_a_trainer_does_not_approve_their_own_spending(
    tune: TuneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OverBudget, match=r"900,000\.00 USD, but the budget of the job is 100\.00"):
        begin(tune, tmp_path, flat("900000"), monkeypatch)
    _, decided = begin(tune, tmp_path, flat("21"), monkeypatch)
    assert decided.stage == Stage.NEEDS_APPROVAL


def test_a_price_of_one_s_own_is_never_below_the_catalogue_s(
    tune: TuneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = held(plan_of(), tune, flat("0.01"), Vendor(), LIMITS, shipped())  # type: ignore[arg-type]
    assert (known.price.kind, known.price.usd, known.why_asked) == ("training_tokens", Decimal(5), "")
    tools, decided = begin(tune, tmp_path, flat("0.01"), monkeypatch)
    assert (decided.stage, decided.estimate_usd) == (Stage.RESERVED, "10.00")
    # Nor is it booked at one's own.
    tools.ledger.claim(decided.key, "me", 60)
    tools.ledger.record(
        decided.key, Job(provider="openai", id="j", state=State.RUNNING, raw_state="on", base_model=MODEL)
    )
    flow.look(tools, decided)
    assert tools.ledger.entry(decided.key).actual_usd == Decimal(10)


def test_a_job_that_failed_says_why_in_the_ledger_and_in_no_log(
    tune: TuneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "invalid_data: line 3 is 'planted prompt', key sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD"
    failed = Job(provider="openai", id="j", state=State.FAILED, raw_state="failed", error=said)
    monkeypatch.setattr(Vendor, "status", lambda *_: failed)
    tools, decided = begin(tune, tmp_path, flat("0.01"), monkeypatch)
    tools.ledger.claim(decided.key, "me", 60)
    tools.ledger.record(decided.key, Job(provider="openai", id="j", state=State.RUNNING, raw_state="on"))
    for _ in range(2):
        with pytest.raises(JobFailed, match=r"failed: why stands in the ledger") as caught:
            flow.look(tools, decided)
        assert "planted" not in str(caught.value)
    note = tools.ledger.entry(decided.key).note
    assert ("planted prompt" in note, "sk-proj" in note) == (True, False)


@pytest.mark.parametrize("provider", ["openai", "vertex", "bedrock", "sagemaker"])
def test_an_honest_count_is_never_below_the_words_of_the_data(provider: Any, tmp_path: Path) -> None:
    record = Record(
        id="r-1", domain="records", source="user", split="rl", group="g", prompt="x", answer="1", verifier="records@1",
        provenance=Provenance(generator="user@1"),
    )  # fmt: skip
    texts = [
        "a b c",
        "1234567 89",
        "It's don't they'll I'm",
        "हिन्दी में लिखा",
        "写一个函数",
        "x=1;y=2",
        "O'Brien's naïve café",
    ]
    rows = [record.model_copy(update={"id": f"r-{n}", "prompt": texts[n % len(texts)] * (1 + n)}) for n in range(14)]
    file = write(rows, tmp_path, provider=provider, method="sft")
    words = fewest_tokens((tmp_path / file.filename).read_bytes())
    assert 0.2 * file.tokens.low < words <= file.tokens.high


def test_a_plan_that_counts_too_few_tokens_is_held_to_those_of_its_data(
    tune: TuneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path, rows=400, text="five words in one row " * 50)
    few = file.model_copy(update={"tokens": TokenRange(low=1, high=file.bytes // 11, method="a lie")})
    lying = tune.model_copy(update={"training": few})
    tools, decided = begin(lying, tmp_path, flat("0.01"), monkeypatch)
    # 400 rows of 253 words, twice, at 5 USD for a million.
    assert (decided.stage, decided.estimate_usd) == (Stage.NEEDS_APPROVAL, "1.02")
    tools.ledger.approve(decided.key, by="Ada", budgets=LIMITS)
    assert tools.ledger.reserve(
        decided.key, lying, "openai:test", estimate(lying, PRICE), LIMITS
    ).approved_by  # what it says itself is less, and was agreed to


@pytest.mark.parametrize(
    ("given", "change", "why"),
    [
        ({"catalogue_model": f"openai/{MODEL}"}, {"base_model": "dearer-model"}, "no price of 'openai/dearer-model'"),
        ({"hours": ("0.01", "0.01")}, {"base_model": "o4-mini-2025-04-16", **RFT}, "hours"),
        ({"provider": {"type": "anthropic", **PROMPTS}}, {"provider": "anthropic"}, "rates"),
        ({}, {"tokens": 1}, "bytes"),
    ],
    ids=["another row", "by the hour", "rates", "few tokens"],
)
def test_what_only_the_plan_says_is_asked_of_a_person_even_for_a_cent(
    given: dict[str, Any], change: dict[str, Any], why: str, tune: TuneSpec
) -> None:
    if "tokens" in change:
        tokens = TokenRange(low=1, high=1, method="a lie")
        change = {"training": tune.training.model_copy(update={"tokens": tokens})}
    if "method" in change:
        change = {**change, "training": tune.training.model_copy(update={"method": change["method"]})}
    found = held(plan_of(**given), tune.model_copy(update=change), flat("0.01"), Vendor(), LIMITS, shipped())  # type: ignore[arg-type]
    assert why in found.why_asked
    assert found.budgets.approval_usd < 0


def test_what_persons_agreed_to_is_held_to_the_environment_s_budgets(
    tune: TuneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = []
    for attempt in (1, 2):
        again = tune.model_copy(update={"attempt": attempt})
        tools, decided = begin(again, tmp_path, flat("90"), monkeypatch)
        flows.append(decided)
    for decided in flows:
        tools.ledger.approve(decided.key, by="Ada", budgets=Budgets.model_validate(RICH))
    with pytest.raises(OverBudget, match=r"180\.00 USD .* may spend 150\.00"):
        flow.launch_once(tools, flows[-1])


def test_on_a_person_s_own_machine_the_plan_s_word_is_theirs(tune: TuneSpec) -> None:
    found = held(plan_of(), tune, flat("1"), Vendor(), None, shipped())  # type: ignore[arg-type]
    assert (found.price, found.budgets) == (flat("1"), Budgets.model_validate(RICH))
