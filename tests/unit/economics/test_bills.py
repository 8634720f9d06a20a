from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from stepforge.contracts.decisions import Amount, Arm, FixedCosts, Question
from stepforge.economics import bills
from stepforge.economics.catalogue import Catalogue, Kind, ModelPrice, Unit
from stepforge.economics.quotes import quoted, training_price
from stepforge.economics.tokens import Calibration, TokenCount, guessed
from stepforge.errors import InvalidInput, UnknownPrice
from tests.unit.economics import vendors

NOVA_PRO = "us.amazon.nova-pro-v1:0"
ML_G5_48XLARGE = Decimal("20.36")
"""SageMaker training, us-west-2; instance prices are given to the evaluator, not kept by it."""
EC2_G5_48XLARGE = Decimal("16.288")


def price(usd: str, kind: Kind = "training_tokens", unit: Unit = "1M tokens") -> ModelPrice:
    return ModelPrice(
        kind=kind, usd=Decimal(usd), unit=unit, as_of=date(2026, 11, 1), source="given in a test", confidence="given"
    )


def exactly(tokens: int) -> TokenCount:
    return TokenCount(tokens, tokens, tokens, "counted")


# ── What vendors document, to the cent: the estimator, and the vendors that it is held to ────────


def test_the_text_to_sql_example_on_bedrock_costs_eight_dollars() -> None:
    trained = Catalogue.load().price("bedrock/amazon.nova-micro-v1:0", "training_tokens", method="sft")
    assert bills.by_tokens(exactly(2_000 * 800), 5, trained).usd == Decimal("8.00")
    assert vendors.tokens_bill(2_000 * 800, 5, 0.001, 1_000) == 8.00


def test_a_month_of_its_22_000_requests_costs_80_cents() -> None:
    catalogue, model = Catalogue.load(), "bedrock/amazon.nova-micro-v1:0"
    month = bills.requests(
        exactly(22_000 * 800),
        exactly(22_000 * 60),
        catalogue.price(model, "tuned_input"),
        catalogue.price(model, "tuned_output"),
    )
    assert [line.usd for line in month.lines] == [Decimal("0.62"), Decimal("0.18")]
    assert month.usd == Decimal("0.80")


def test_the_text_to_sql_example_on_sagemaker_costs_81_44_and_the_vendor_used_the_rate_of_ec2() -> None:
    assert bills.by_instances(4 * 3600, 1, ML_G5_48XLARGE).usd == Decimal("81.44")
    rates = {"SageMaker training": float(ML_G5_48XLARGE), "EC2 on demand": float(EC2_G5_48XLARGE)}
    assert vendors.rate_behind(65.15, 4, rates) == ["EC2 on demand"]
    assert vendors.rate_behind(81.44, 4, rates) == ["SageMaker training"]


def test_microsofts_four_worked_examples() -> None:
    """Cost management for fine-tuning, 2026-02-11. Of RFT without a grader its formula says 200, its text 400."""
    assert bills.by_tokens(exactly(1_000_000), 2, price("2")).usd == Decimal("4.00")
    by_hour = price("100", "training_hours", "hour")
    assert bills.by_hours("azure", Decimal(4), by_hour).usd == Decimal("400.00")
    grading = bills.requests(exactly(5_000_000), exactly(4_900_000), price("1.10", "input"), price("4.40", "output"))
    assert (bills.by_hours("azure", Decimal(4), by_hour) + grading).usd == Decimal("427.06")
    answers = bills.requests(exactly(20_000_000), exactly(40_000_000), price("1.10", "input"), price("4.40", "output"))
    assert (bills.hosting(Decimal(bills.HOURS_OF_MONTH), Decimal("1.70")) + answers).usd == Decimal("1422.00")


def test_an_arm_at_azure_pays_for_its_deployment_whether_it_is_asked_or_not() -> None:
    catalogue, about = Catalogue.load(), {"name": "a", "fixed": FixedCosts(training_usd=9), "request_usd": 0.001}
    base = {"name": "q", "quality_usd": Amount(mean=1), "requests_month": Amount(mean=1_000), "base_request_usd": 0.001}
    base |= {"horizon_months": 12, "base_scores": (0.0, 1.0)}

    def month(**given: Any) -> float | None:
        asked = Question(today=date(2026, 11, 22), arms=(Arm.model_validate({**about, **given}),), **base)
        return quoted(asked, catalogue)[0].arms[0].month_usd

    azure = {"method": "rft", "model": "azure/o4-mini-2025-04-16"}
    assert month(**azure) == 720 * 1.70
    assert month(**azure, month_usd=0) == 0
    assert month(**{**azure, "method": "prompt"}) is None
    assert month(method="sft", model="openai/gpt-4.1-mini-2025-04-14") == 0
    row = catalogue.row(azure["model"])
    kept = price("12.50", "storage", "month")
    catalogue = replace(
        catalogue, rows={**catalogue.rows, row.id: row.model_copy(update={"prices": (*row.prices, kept)})}
    )
    assert month(**azure) == 720 * 1.70 + 12.50


def test_the_simulated_vendors_give_the_documented_examples_too() -> None:
    start = datetime(2026, 11, 1, 2, 30)
    assert vendors.tokens_bill(1_000_000, 2, 2.0, 1_000_000) == 4.00
    assert vendors.reinforcement(start, start + timedelta(hours=4), 100) == 400.00
    assert vendors.reinforcement(start, start + timedelta(hours=4), 100, grader=5 * 1.1 + 4.9 * 4.4) == 427.06
    assert vendors.training_job(start, start + timedelta(hours=4), 1, 20.36) == 81.44
    assert vendors.month_of_answers(720, 1.70, 20_000_000, 40_000_000, (1.10, 4.40)) == 1422.00


def test_hours_are_rounded_to_two_decimals_and_a_job_on_azure_stops_at_its_cap() -> None:
    by_hour = price("100", "training_hours", "hour")
    assert bills.by_hours("openai", Decimal("2.5549"), by_hour).usd == Decimal("255.00")
    assert bills.by_hours("azure", Decimal(60), by_hour).usd == Decimal(5000)
    assert bills.by_hours("openai", Decimal(60), by_hour).usd == Decimal(6000)


def test_the_ends_of_an_item_are_rounded_away_from_its_middle() -> None:
    tokens = TokenCount(1_004_000, 1_004_000, 1_004_000, "counted")
    (line,) = bills.by_tokens(tokens, 1, price("1")).lines
    assert (line.low_usd, line.usd, line.high_usd) == (Decimal("1.00"), Decimal("1.00"), Decimal("1.01"))
    # A hundredth of a tenth of an hour is charged as nothing, and is not promised to be.
    (line,) = bills.by_hours("azure", Decimal("0.001"), price("100", "training_hours", "hour")).lines
    assert (line.low_usd, line.usd, line.high_usd) == (0, 0, Decimal(1))
    assert bills.by_hours("azure", Decimal(60), price("100", "training_hours", "hour")).high_usd == Decimal(5000)


def test_a_price_of_another_unit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a price per hour was given for tokens"):
        bills.by_tokens(exactly(1), 1, price("100", "training_hours", "hour"))
    with pytest.raises(InvalidInput, match="a price per 1M tokens was given for hours"):
        bills.by_hours("openai", Decimal(1), price("1"))
    with pytest.raises(InvalidInput, match="a price per 1M tokens was given for a job"):
        bills.by_job(price("1"))
    with pytest.raises(InvalidInput, match="how 'anthropic' charges is not known"):
        bills.by_hours("anthropic", Decimal(1), price("1", "training_hours", "hour"))


def test_a_distillation_of_15_000_prompts_costs_its_teacher_and_its_training_to_the_cent() -> None:
    """Nova Pro teaches Nova Micro 15,000 prompts of 800 tokens in 60 each, two epochs: 9.60 + 2.88 + 25.80."""
    paid = training_price(Catalogue.load(), "bedrock/amazon.nova-micro-v1:0", "distillation", teacher=NOVA_PRO)
    bill = bills.distillation(exactly(15_000 * 800), exactly(15_000 * 60), 2, paid)
    assert [line.usd for line in bill.lines] == [Decimal("9.60"), Decimal("2.88"), Decimal("25.80")]
    assert bill.usd == Decimal("38.28")
    assert [line.what for line in bill.lines] == ["teacher's input", "teacher's output", "training, 2 epochs"]
    with pytest.raises(UnknownPrice, match=r"\[price\.teacher\]"):
        bills.distillation(exactly(1), exactly(1), 1, price("1"))


def test_a_simulated_vendor_charges_a_distillation_item_by_item() -> None:
    rates = vendors.Rates(0.0008, 0.0032, 0.001, per=1_000)
    word = vendors.TOKENIZERS["bedrock"]
    # 20,000 prompts of 5 tokens, answered in 1, trained on as 12 with the wrapping of messages and example.
    asked = [("a",)] * 20_000
    assert (word.message + word.text("a"), word.row(("a", "b"))) == (5, 12)
    assert vendors.distillation("bedrock", asked, ["b"] * 20_000, 3, rates) == round(0.08 + 0.06 + 0.72, 2)


def test_bedrock_may_grow_prompts_to_15_000_pairs_and_vertex_leaves_them() -> None:
    one_each = TokenCount(900, 1_000, 1_200, "counted")
    grown = bills.synthesised("bedrock", one_each, 100)
    assert (grown.low, grown.expected, grown.high) == (900, 1_000, 180_000)
    assert bills.synthesised("bedrock", one_each, 15_000) == one_each
    assert bills.synthesised("vertex", one_each, 100) == one_each
    assert (bills.epochs_of("bedrock", 3), bills.epochs_of("vertex", 3)) == ((1, 5), (3, 3))
    with pytest.raises(InvalidInput, match="how 'openai' distils is not known"):
        bills.synthesised("openai", one_each, 100)


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────


def test_a_guess_is_wide_and_says_so() -> None:
    guess = guessed(["one two three", "four"])
    assert guess.low < guess.expected < guess.high
    assert "guessed" in guess.method


def test_a_calibration_finds_the_tokens_around_each_record() -> None:
    rng = random.Random(3)
    texts = [" ".join(["word"] * rng.randint(1, 80)) for _ in range(60)]
    fit = Calibration.fit(texts, [7 + len(text.split()) for text in texts])
    estimate = fit.estimate(texts * 10)
    assert estimate.expected == pytest.approx(10 * sum(7 + len(text.split()) for text in texts), rel=1e-3)


def test_too_few_counted_records_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 counted records are too few"):
        Calibration.fit(["a"] * 3, [1] * 3)
