"""Personal data in what goes to a provider: refused by record and kind, replaced, or sent where the plan says so."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stepforge.cli import main
from stepforge.contracts.records import Record, Step
from stepforge.economics.catalogue import Catalogue
from stepforge.errors import InvalidInput
from stepforge.finetune import Tuned, launch_key
from stepforge.finetune.client import Tunes
from stepforge.finetune.datasets import FORMATS, Pair, read_rows, row_of, write
from stepforge.finetune.evaluation import ask
from stepforge.finetune.graders import python_grader
from stepforge.finetune.people import kinds_in
from stepforge.finetune.personal import Personal, asked_sent, redacted, redacted_text
from stepforge.testing.providers import LocalOpenAI
from tests.unit.finetune.conftest import PRICE
from tests.unit.finetune.test_datasets import ANY_SIZE, make
from tests.unit.finetune.test_plan import plan

EMAIL, PHONE, CARD = "ann@example.org", "+49 30 901820", "4111 1111 1111 1111"
VALUES = (EMAIL, PHONE, CARD)
HOLDER = f"Ann, {EMAIL}, {PHONE}, pays with {CARD}."
NAMED = make(
    HOLDER,
    id="r7",
    steps=(Step(action=f"write to {EMAIL}"),),
    answer=f"call {PHONE}",
    scenario={"who": {"phone": 4930901820, EMAIL: [EMAIL.upper()]}, "seed": 4111111111111112},
)


def item(record: Record, method: str) -> Record | Pair:
    return Pair(record=record, preferred=f"{PHONE} 2", rejected=f"{PHONE} 3") if method == "dpo" else record


def holds(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return EMAIL in text.lower() or "30901820" in digits or "41111111111111111" in digits + "1"


@pytest.mark.parametrize(("provider", "method"), list(FORMATS), ids=str)
def test_in_every_format_it_is_refused_by_record_and_kind_replaced_or_kept(
    provider: Any, method: Any, tmp_path: Path
) -> None:
    whole = method == "rft" and provider != "sagemaker"
    options: dict[str, Any] = {"provider": provider, "method": method, "whole": whole, "limits": ANY_SIZE}
    with pytest.raises(InvalidInput, match=r"record 'r7' holds personal data \(email, phone, card\)") as refusal:
        write([item(NAMED, method)], tmp_path, **options)
    assert "personal" in str(refusal.value)
    assert not any(value in str(refusal.value) for value in (*VALUES, "Ann"))
    assert list(tmp_path.iterdir()) == []

    file = write([item(NAMED, method)], tmp_path, **options, personal="redact")
    sent = (tmp_path / file.filename).read_text()
    assert not holds(sent)
    assert "Ann, [email], [phone], pays with [card]." in sent
    kept = write([item(NAMED, method)], tmp_path, **options, personal="keep")
    assert HOLDER in (tmp_path / kept.filename).read_text()


def test_the_same_value_is_the_same_placeholder_wherever_and_however_it_is_written() -> None:
    record, (said,) = redacted(NAMED, f"030 901820, {EMAIL}, bob@example.org, 4111111111111111, 4111111111111112")
    assert said == "[phone], [email], [email 2], [card], 4111111111111112"
    assert (record.solution, record.answer) == ("write to [email]", "call [phone]")
    assert record.scenario == {"who": {"phone": "[phone]", "[email]": ["[email]"]}, "seed": 4111111111111112}
    assert redacted(record) == (record, ())
    assert redacted_text("bob@example.org is not [email]") == "[email 2] is not [email]"


def test_what_differs_in_an_address_alone_differs_with_placeholders() -> None:
    pair = Pair(record=make(), preferred="ask ann@example.org", rejected="ask bob@example.org")
    _, texts = row_of(pair, provider="openai", method="dpo", personal="redact")
    assert texts[-2:] == ("ask [email]", "ask [email 2]")


def test_a_search_takes_no_two_prompts_that_placeholders_make_one(tmp_path: Path) -> None:
    """It judges an answer by the record whose prompt was asked: which of the two would be chance."""
    asked = [make(f"Greet {name}@example.org", id=f"{n}", answer=name) for n, name in enumerate(("ann", "bob", "cy"))]
    options: Any = {"limits": ANY_SIZE, "method": "prompt", "provider": "anthropic"}
    with pytest.raises(InvalidInput, match=r"records '0' and '1' have the same prompt, as it is sent"):
        write(asked, tmp_path, **options, personal="redact")
    assert list(tmp_path.iterdir()) == []
    assert write(asked, tmp_path, **options, personal="keep").rows == 3


def test_a_number_that_another_had_hidden_is_replaced_in_a_system_prompt_too(tmp_path: Path) -> None:
    said = f"Offset -87654321. Ask {PHONE} or 415-555-2671."
    assert redacted_text(said) == "Offset -87654321. Ask [phone 2] or [phone]."
    records = [make(f"{n} + 1 =", id=f"r{n}") for n in range(12)]
    file = plan(personal="redact", system=said).spec(records, tmp_path).training
    assert {row["system"][0]["text"] for row in read_rows(tmp_path / file.filename)} == {redacted_text(said)}


@pytest.mark.parametrize("personal", ["refuse", "redact"])
def test_an_id_that_is_sent_and_is_an_address_is_refused_without_saying_it(personal: Personal) -> None:
    record = make(id=EMAIL)
    row_of(record, provider="openai", method="sft", personal=personal)
    with pytest.raises(InvalidInput, match="email") as refusal:
        row_of(record, provider="openai", method="rft", personal=personal)
    assert EMAIL not in str(refusal.value)
    assert ("its id" in str(refusal.value)) == (personal == "redact")


def test_a_system_prompt_and_a_grader_are_of_the_plan_and_not_of_a_record(tmp_path: Path) -> None:
    records = [make(id=f"r{n}") for n in range(10)]
    openai: dict[str, Any] = {"provider": {"type": "openai"}, "price": PRICE}
    for given in (
        {"system": HOLDER},
        {"method": "rft", "grader": {"type": "score_model", "model": "m", "prompt": HOLDER}},
    ):
        with pytest.raises(InvalidInput, match=r"the plan's .* personal data \(email, phone, card\)") as refusal:
            plan(**openai, **given).spec(records, tmp_path)
        assert not any(value in str(refusal.value) for value in VALUES)
    asked = plan(**openai, system=f"Ask {EMAIL}.", personal="redact")
    rows = list(read_rows(tmp_path / asked.spec(records, tmp_path).training.filename))
    assert {row["messages"][0]["content"] for row in rows} == {"Ask [email]."}
    assert asked.system_sent == "Ask [email]."
    assert plan(system=HOLDER, personal="keep").system_sent == HOLDER


def test_our_own_grader_holds_nobody_s_data() -> None:
    assert kinds_in(python_grader("facial").source) == ()


def test_the_setting_changes_a_launch_s_key_by_the_data_alone(tmp_path: Path) -> None:
    clean, named = [make(id=f"r{n}") for n in range(10)], [NAMED.model_copy(update={"id": f"r{n}"}) for n in range(10)]

    def key(records: list[Record], personal: str) -> str:
        return launch_key(plan(personal=personal).spec(records, tmp_path), "target")

    assert len({key(clean, personal) for personal in ("refuse", "redact", "keep")}) == 1
    assert key(named, "redact") != key(named, "keep")
    assert plan().personal == "refuse"


def test_both_sides_of_a_validation_split_are_looked_at(tmp_path: Path) -> None:
    records = [make(id=f"r{n}", group=f"g{n}") for n in range(100)]
    assert plan(validation="split").spec(records, tmp_path).validation is not None
    for place in range(0, 100, 5):
        one = [NAMED.model_copy(update={"group": r.group}) if n == place else r for n, r in enumerate(records)]
        with pytest.raises(InvalidInput, match="'r7'"):
            plan(validation="split").spec(one, tmp_path)


class Deaf:
    """A provider that nobody may ask anything."""

    def invoke(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("it was asked")


def test_held_out_prompts_are_looked_at_before_the_first_is_asked() -> None:
    tuned = Tuned(provider="openai", job_id="j", model="m", handle="h")
    records = [make(split="test_new", id="t1"), NAMED.model_copy(update={"split": "test_new"})]
    for given, system in ((records, None), (records[:1], HOLDER)):
        for personal in ("refuse", "redact"):
            with pytest.raises(InvalidInput, match="personal data") as refusal:
                next(ask(Deaf(), tuned, given, system=system, max_tokens=5, personal=personal))  # type: ignore[arg-type]
            assert not any(value in str(refusal.value) for value in VALUES)
    with pytest.raises(AssertionError, match="it was asked"):
        next(ask(Deaf(), tuned, records, system=HOLDER, max_tokens=5, personal="keep"))  # type: ignore[arg-type]
    # Of a held-out record its prompt is sent, and no answer.
    only = make(split="test_new", answer=EMAIL)
    assert asked_sent([only], "refuse") == [only]
    assert asked_sent([NAMED], "redact")[0].answer == "call [phone]"
    with pytest.raises(InvalidInput, match="'r7'"):
        asked_sent([NAMED], "refuse")


def test_what_judges_a_tune_is_looked_at_before_it_is_launched_from_python_too(tmp_path: Path) -> None:
    records = [*(make(f"{n} + 1 =", id=f"r{n}", split="rl") for n in range(12)), make(HOLDER, id="t", split="test_new")]
    with pytest.raises(InvalidInput, match="held-out record 't' holds personal data"):
        plan().spec(records, tmp_path)
    assert list(tmp_path.iterdir()) == []
    for personal in ("redact", "keep"):
        spec = plan(personal=personal).spec(records, tmp_path)
        assert (spec.training.rows, "Ann" in (tmp_path / spec.training.filename).read_text()) == (12, False)


def test_a_request_in_the_bucket_holds_nobody_s_data(tmp_path: Path) -> None:
    records = [*(make(f"{n} + 1 =", id=f"r{n}", split="rl") for n in range(12)), make(HOLDER, id="t", split="test_new")]
    tunes = Tunes(cast(Any, SimpleNamespace(name="dev")))
    given = plan(personal="redact", system=f"Ask {EMAIL}, {PHONE}.", price=PRICE)
    options: Any = {"domain": "records", "catalogue": Catalogue.load(), "today": date(2026, 11, 1)}
    request, rows, *_ = tunes._request(given, records, tmp_path, **options)
    assert request.plan.system == "Ask [email], [phone]."
    assert kinds_in(json.loads(request.model_dump_json())) == ()
    assert kinds_in(rows.decode()) == ()


# ── From the command ─────────────────────────────────────────────────────────────────────────────

PLAN = """
environment = "local"
base_model = "small"
method = "sft"
personal = "{personal}"
system = "{system}"
[provider]
type = "openai"
base_url = "{url}/v1"
[price]
kind = "training_job"
usd = 3
unit = "job"
as_of = 2026-11-01
source = "given in a test"
[budgets]
job_usd = 50
day_usd = 50
environment_usd = 50
approval_usd = 50
"""


def launched(
    folder: Path,
    server: LocalOpenAI,
    rows: list[dict[str, Any]],
    *words: str,
    personal: str = "refuse",
    system: str = "Be short.",
) -> int:
    data = [{"prompt": f"{n} + 1 =", "answer": str(n + 1), "split": "rl", "id": f"r{n}"} for n in range(12)]
    data += [{"prompt": "7", "answer": "7", "split": "test_new", "id": "t"}]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, [*data, *rows])))
    (folder / "plan.toml").write_text(PLAN.format(url=server.url, personal=personal, system=system))
    return main(["finetune", "launch", str(folder / "plan.toml"), "--data", str(folder / "records.jsonl"), *words])


HELD = {"prompt": HOLDER, "answer": "1", "split": "test_new", "id": "held"}
TRAINED = {"prompt": "Who?", "answer": EMAIL, "split": "rl", "id": "trained"}


@pytest.fixture
def shop(server: LocalOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalOpenAI:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    return server


@pytest.mark.parametrize(
    ("rows", "system", "words"),
    [
        ([TRAINED], "", "record 'trained' holds personal data (email in 1)"),
        ([HELD], "", "record 'held' holds personal data (email in 1, phone in 1, card in 1)"),
        ([HELD, TRAINED], "", "record 'held' and 1 more hold personal data (email in 2, phone in 1, card in 1)"),
        ([], f"Ask {EMAIL}", "the plan's system prompt holds personal data (email)"),
    ],
    ids=["trained on", "held out", "both", "system"],
)
def test_a_launch_refuses_before_anything_is_sent(
    rows: list[dict[str, Any]],
    system: str,
    words: str,
    shop: LocalOpenAI,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launched(tmp_path, shop, rows, system=system) == 2
    said = capsys.readouterr().err
    assert " ".join(words.split()) in " ".join(said.split())
    assert not any(value in said for value in VALUES)
    assert shop.seen == []


def test_a_launch_that_keeps_says_so_and_one_that_redacts_sends_placeholders(
    shop: LocalOpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    came: list[bytes] = []
    shop.plan = lambda request: came.append(request.body)
    assert launched(tmp_path, shop, [HELD, TRAINED], personal="keep") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert 'hold personal data (email in 2, phone in 1, card in 1): sent to openai as it is (personal = "keep")' in said
    assert EMAIL in str(came)
    came.clear()
    assert launched(tmp_path, shop, [HELD, TRAINED], personal="redact", system=f"Ask {PHONE}.") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert 'placeholders are sent in its place (personal = "redact")' in said
    bodies = str(came)
    assert "Who?" in bodies
    assert "Ask [phone]." in bodies
    assert not any(value in bodies + said for value in VALUES)


def test_an_expert_s_answer_that_is_wrong_with_placeholders_is_refused_by_name(
    shop: LocalOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verifier that reads an address out of the answer; and one whose answers are wrong either way stands aside."""
    (tmp_path / "my_rules.py").write_text("def check(record, completion):\n    return '@' in completion\n")
    monkeypatch.chdir(tmp_path)
    own = 'verifier = "my_rules:check"\nmethod = "rft"\npersonal'
    monkeypatch.setattr(f"{__name__}.PLAN", PLAN.replace('method = "sft"\npersonal', own))
    wrong = {**TRAINED, "prompt": f"Is it {EMAIL}?", "answer": "no", "id": "wrong"}
    assert launched(tmp_path, shop, [wrong, TRAINED], personal="redact") == 2
    said = capsys.readouterr().err
    assert "record 'trained': its expert's answer is accepted, and is not with placeholders" in " ".join(said.split())
    assert EMAIL not in said
    assert shop.seen == []
    # An answer that is held out is not sent, and the tuned model would be judged by it with a placeholder.
    held = {**TRAINED, "prompt": "Which one?", "split": "test_new", "id": "held"}
    assert launched(tmp_path, shop, [wrong, held], personal="redact") == 2
    assert "record 'held': its expert's answer is accepted, and is not" in " ".join(capsys.readouterr().err.split())
    assert shop.seen == []
    assert launched(tmp_path, shop, [wrong], personal="redact") == 0
