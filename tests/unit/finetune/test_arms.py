"""Arms of a question from the catalogue: each way to tune is one, or has a reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stepforge.contracts.decisions import Amount, Arm, Question
from stepforge.contracts.records import Record
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.decide import decide
from stepforge.economics.quotes import quoted
from stepforge.errors import InvalidInput, UnknownName
from stepforge.finetune.arms import PRICE_ADVICE, Asked, LeftOut, Proposal, arm_name, propose
from stepforge.finetune.datasets import Item, Pair, counted_offline, write

TODAY = date(2026, 11, 23)
NOVA, PRO = "bedrock/amazon.nova-micro-v1:0", "bedrock/amazon.nova-pro-v1:0"
PRICED = {"training_tokens": "2", "tuned_input": "0.5", "tuned_output": "1.5"}


def record(number: int, **changes: Any) -> Record:
    given: dict[str, Any] = {
        "id": f"r{number}",
        "domain": "records",
        "source": "user",
        "split": "rl",
        "group": f"g{number}",
        "prompt": f"What is {number} plus {number}? Say it in one line, please.",
        "answer": f"It is {2 * number}.",
        "verifier": "records@1",
        "provenance": {"generator": "test@1"},
    }
    return Record.model_validate({**given, **changes})


RECORDS = [record(number) for number in range(120)]
PAIRS = [Pair(record=one, preferred=f"{one.answer}", rejected="I do not know.") for one in RECORDS]


def row(model: str = "openai/gpt-x", *, prices: dict[str, str] | None = None, **fields: Any) -> str:
    lines = {"id": model, "provider": model.partition("/")[0], "tunable": ["sft"], "source": "a price page", **fields}
    text = ["[[models]]", "as_of = 2026-11-01"]
    for key, value in lines.items():
        raw = isinstance(value, list | dict) or key in ("launches_until", "shuts_down")
        text.append(f"{key} = {table(value) if isinstance(value, dict) else value if raw else repr(value)}")
    for kind, usd in (PRICED if prices is None else prices).items():
        unit = {"training_hours": "hour", "training_job": "job", "hosting": "hour"}.get(kind, "1M tokens")
        text.append(f"[[models.prices]]\nkind = '{kind}'\nusd = {usd}\nunit = '{unit}'\nas_of = 2026-11-01")
        text.append("source = 'a price page'")
    return "\n".join(text)


def table(value: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {one}" for key, one in value.items()) + " }"


@pytest.fixture
def proposed(tmp_path: Path) -> Any:
    """Of own rows: of the provider `openai` alone those that ship are all refused a year from today."""

    def run(*rows: str, items: Sequence[Item] = RECORDS, providers: Any = ("azure",), **asked: Any) -> Proposal:
        path = tmp_path / "own.toml"
        path.write_text("\n".join(["version = 1", *rows]))
        given = {"today": TODAY, "horizon_months": 12, "needed_until": date(2027, 11, 23), "methods": ("sft",)}
        return propose(items, Catalogue.load(path), Asked(**{**given, "providers": providers, **asked}))

    return run


def asking(*arms: Arm) -> Question:
    return Question(
        name="q",
        today=TODAY,
        horizon_months=12,
        requests_month=Amount(mean=1000),
        quality_usd=Amount(mean=0.1),
        base_request_usd=0.001,
        base_scores=(1, 0, 1, 0),
        arms=arms,
    )


def why(proposal: Proposal, model: str) -> LeftOut:
    (found,) = (one for one in proposal.left_out if one.model == model)
    return found


# ── The catalogue that ships ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("items", [RECORDS, PAIRS], ids=["records", "pairs"])
def test_each_way_to_tune_a_row_is_one_arm_or_has_one_reason(items: Sequence[Item]) -> None:
    catalogue = Catalogue.load()
    found = propose(items, catalogue, Asked(today=TODAY, horizon_months=12, hours=Decimal(2), base=NOVA))
    ways = [(one.arm.model, one.arm.method, one.arm.teacher) for one in found.proposed]
    ways += [(one.model, one.method, one.teacher) for one in found.left_out]
    wanted = {
        (row.id, method, teacher)
        for row in catalogue.rows.values()
        for method in row.tunable
        if method != "managed"
        for teacher in (catalogue.taught_by(row.id) if method == "distillation" else [None])
    }
    assert sorted(ways, key=str) == sorted({*wanted, (NOVA, "prompt", None)}, key=str)
    assert all(one.reason for one in found.left_out)
    tuned = {(one.arm.model, one.arm.method) for one in found.proposed}
    both = {("azure/o4-mini-2025-04-16", "rft"), (NOVA, "sft"), (NOVA, "distillation"), (NOVA, "prompt")}
    assert tuned == (both if items is RECORDS else {(NOVA, "prompt")})


def test_what_is_proposed_is_priced_from_the_catalogue_and_refused_for_nothing() -> None:
    found = propose(RECORDS, Catalogue.load(), Asked(today=TODAY, horizon_months=12, hours=Decimal(2), base=NOVA))
    question = asking(*(one.arm for one in found.proposed))
    priced, _ = quoted(question, Catalogue.load())
    for one, arm in zip(found.proposed, priced.arms, strict=True):
        assert arm.fixed.training_usd is not None
        if one.training_usd is not None:
            low, high = map(float, one.training_usd)
            assert low <= arm.fixed.training_usd <= high
            assert arm.fixed.training_usd > 0 or high <= 0.02
        assert arm.request_usd
    assert all(one.refusals == () for one in decide(question).arms)
    assert {one.method for one in priced.arms} == {"sft", "rft", "distillation", "prompt"}


def test_a_price_that_nobody_knows_is_no_arm_and_the_advice_says_how_to_give_it() -> None:
    found = why(propose(RECORDS, Catalogue.load(), Asked(TODAY, 12, methods=("sft",))), "vertex/gemini-3.5-flash")
    assert found.reason.startswith("no price is known of training_tokens or training_hours or training_job, tuned_inpu")
    assert found.advice == PRICE_ADVICE
    assert "--catalogue" in PRICE_ADVICE


def test_without_a_base_no_prompt_is_guessed_and_an_unknown_one_is_an_error() -> None:
    found = propose(RECORDS, Catalogue.load(), Asked(TODAY, 12, methods=("prompt",)))
    assert found.proposed == ()
    assert [one.name for one in found.left_out] == ["better prompt"]
    assert "--base" in found.left_out[0].reason
    with pytest.raises(UnknownName, match="gpt-9"):
        propose(RECORDS, Catalogue.load(), Asked(TODAY, 12, base="openai/gpt-9"))


def test_a_request_of_the_base_costs_what_its_rates_say() -> None:
    found = propose(RECORDS, Catalogue.load(), Asked(TODAY, 12, base=NOVA, answer_tokens=50, system="Be brief."))
    texts = [("Be brief.", one.prompt) for one in RECORDS]
    total = counted_offline(texts, "bedrock")
    mean = (total.low + total.high) / 2 / len(RECORDS)
    assert found.base_request_usd == pytest.approx(mean * 0.035e-6 + 50 * 0.14e-6, rel=0.01)
    (prompt,) = (one.arm for one in found.proposed if one.arm.method == "prompt")
    assert prompt.traffic is not None
    assert prompt.traffic.completion_tokens == 50
    assert propose(RECORDS, Catalogue.load(), Asked(TODAY, 12)).base_request_usd is None


# ── Rows of one's own ────────────────────────────────────────────────────────────────────────────

AZURE = "azure/gpt-x"


@pytest.mark.parametrize(
    ("fields", "asked", "said"),
    [
        ({}, {}, None),
        ({"shuts_down": "2027-11-24"}, {}, None),
        ({"shuts_down": "2027-11-23"}, {}, "it shuts down on 2027-11-23, and is needed until 2027-11-23"),
        ({"shuts_down": "2026-11-23"}, {}, "it shut down on 2026-11-23"),
        ({"launches_until": "2026-11-22"}, {}, "azure takes no new tunes of azure/gpt-x since 2026-11-22"),
        ({"launches_until": "2026-11-23"}, {}, None),
        (
            {"shuts_down": "2027-11-22"},
            {"needed_until": None},
            "it shuts down on 2027-11-22, within the horizon of 12 months",
        ),
        ({"shuts_down": "2027-11-22"}, {"needed_until": None, "cut": True}, None),
        ({"limits": {"examples_min": 121}}, {}, "there are 120 records, but openai takes no fewer than 121 for sft"),
        ({"limits": {"examples_min": 120}}, {}, None),
        ({"limits": {"examples_max": 119}}, {}, "is one more than the 119 rows"),
        ({"limits": {"example_tokens_max": 10}}, {}, "takes 10 in a row"),
        ({"limits": {"file_bytes_max": 500}}, {}, "the file exceeds 500 bytes"),
        ({"limits": {"epochs_max": 1}}, {}, "it takes 1 epochs at most, and 2 were asked for"),
        ({"limits": {"epochs_max": 2}}, {}, None),
        ({"prices": {"tuned_input": "1"}}, {}, "training_tokens or training_hours or training_job, tuned_output"),
        ({"prices": {**PRICED, "tuned_output": "1"}}, {}, None),
        ({"tunable": ["managed"]}, {"methods": ()}, "no launch tunes by managed at azure, there are sft, dpo, rft"),
        ({"tunable": ["distillation"]}, {"methods": ("distillation",)}, "a distillation needs a teacher"),
        ({"tunable": ["dpo"]}, {"methods": ("dpo",)}, "method 'dpo' takes pairs of completions"),
    ],
)
def test_what_cannot_be_launched_is_left_out_with_the_reason(
    proposed: Any, fields: dict[str, Any], asked: dict[str, Any], said: str | None
) -> None:
    found = proposed(row(AZURE, **fields), **asked)
    if said is None:
        assert [one.arm.model for one in found.proposed] == [AZURE]
    else:
        assert said in why(found, AZURE).reason
        assert AZURE not in [one.arm.model for one in found.proposed]


def test_the_epochs_that_bedrock_takes_hold_where_a_row_says_none(proposed: Any) -> None:
    model = "bedrock/some.model-v1:0"
    assert "5 epochs at most" in why(proposed(row(model), providers=("bedrock",), epochs=6), model).reason
    assert model in [one.arm.model for one in proposed(row(model), providers=("bedrock",), epochs=5).proposed]


def test_tokens_of_an_arm_are_the_middle_of_those_that_a_launch_would_count(proposed: Any, tmp_path: Path) -> None:
    file = write(RECORDS, tmp_path, provider="openai", method="sft", system="Be brief.")
    (one,) = proposed(row(AZURE), epochs=3, system="Be brief.", people_usd=0.0).proposed
    assert one.tokens == file.tokens
    assert one.arm.job is not None
    assert (one.arm.job.tokens, one.arm.job.epochs) == ((file.tokens.low + file.tokens.high) // 2, 3)
    assert one.training_usd is not None
    assert float(one.training_usd[1]) == pytest.approx(file.tokens.high * 3 * 2e-6, abs=0.01)


def test_held_out_records_are_neither_counted_nor_all_there_is(proposed: Any) -> None:
    held = [record(number, split="test_known") for number in range(500, 520)]
    assert proposed(row(AZURE), items=[*RECORDS, *held]) == proposed(row(AZURE))
    with pytest.raises(InvalidInput, match="all records are of held-out splits"):
        proposed(row(AZURE), items=held)


def test_a_range_widens_an_arm_by_its_share_of_what_is_paid_at_once(proposed: Any) -> None:
    dear = row(AZURE, prices={**PRICED, "training_tokens": "100000"})
    alone, shared = (proposed(dear, people_usd=usd).proposed[0].arm.fixed.relative_sd for usd in (0.0, 1500.0))
    assert alone > 0.3 > shared > 0.25
    assert proposed(dear).proposed[0].arm.fixed.relative_sd == 0.25


def test_hours_and_flat_prices_are_what_an_arm_costs(proposed: Any, tmp_path: Path) -> None:
    served = {"tuned_input": "1", "tuned_output": "2"}
    hourly = row(AZURE, prices={"training_hours": "100", **served})
    assert "charged by the hour, 100 USD: say how many with --hours" in why(proposed(hourly), AZURE).reason
    (one,) = proposed(hourly, hours=Decimal("2.5")).proposed
    assert one.training_usd == (Decimal("250.00"), Decimal("250.00"))
    (flat,) = proposed(row(AZURE, prices={"training_job": "42", **served})).proposed
    assert flat.arm.job is None
    assert flat.arm.fixed.training_usd == 42
    catalogue = Catalogue.load(tmp_path / "own.toml")
    assert quoted(asking(flat.arm), catalogue)[0].arms[0].fixed.total_usd == 42


def test_a_price_for_one_method_of_what_answers_is_left_out_as_decide_would_not_find_it(proposed: Any) -> None:
    text = row(AZURE).replace("kind = 'tuned_input'", "kind = 'tuned_input'\nmethod = 'sft'")
    assert why(proposed(text), AZURE).reason == "no price is known of tuned_input"
    hosted = row(AZURE, prices={**PRICED, "hosting": "1"}).replace(
        "kind = 'hosting'", "kind = 'hosting'\nmethod = 'dpo'"
    )
    assert why(proposed(hosted), AZURE).advice == PRICE_ADVICE


def test_answers_that_nobody_wrote_have_a_length_only_when_it_is_given(proposed: Any) -> None:
    silent = [record(number, answer=None, scenario={"number": number}) for number in range(120)]
    text = row(AZURE, tunable=["rft"])
    assert "give --answer-tokens" in why(proposed(text, items=silent, methods=("rft",)), AZURE).reason
    (one,) = proposed(text, items=silent, methods=("rft",), answer_tokens=9).proposed
    assert one.arm.traffic is not None
    assert one.arm.traffic.completion_tokens == 9


def test_a_distillation_pays_its_teacher_for_answers_as_long_as_ours() -> None:
    asked = Asked(TODAY, 12, methods=("distillation",), providers=("bedrock",), answer_tokens=100)
    (one,) = (one for one in propose(RECORDS, Catalogue.load(), asked).proposed if one.arm.model == NOVA)
    job = one.arm.job
    assert one.arm.teacher == PRO
    assert job is not None
    # From one pair a prompt to the 15,000 that Bedrock may make of them, in the middle.
    assert job.teacher_response_tokens == pytest.approx(100 * (120 + 15_000) / 2, rel=0.001)
    assert job.tokens == job.teacher_prompt_tokens + job.teacher_response_tokens
    assert job.epochs == 3


def test_a_row_that_is_tunable_by_prompt_has_its_prompt_as_an_arm(proposed: Any) -> None:
    claude = row("anthropic/claude-x", tunable=["prompt"], prices={"input": "3", "output": "15"})
    asked = {"providers": ("anthropic",), "methods": ()}
    assert [one.arm.name for one in proposed(claude, **asked).proposed] == ["better prompt of anthropic/claude-x"]
    poor = row("anthropic/claude-x", tunable=["prompt"], prices={"input": "3"})
    assert why(proposed(poor, **asked), "anthropic/claude-x").reason == "no price is known of output"


def test_a_name_fits_a_question_however_long_and_odd_an_id_is() -> None:
    long = [arm_name(f"vertex/qwen/qwen3@{'q' * 80}{end}", "distillation", PRO) for end in "ab"]
    assert len({*long}) == 2
    for name in (*long, arm_name("vertex/a@b", "sft")):
        assert Arm(name=name, method="sft").name == name
