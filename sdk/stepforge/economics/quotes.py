"""Fill what a question leaves to the catalogue: prices of training, requests and hosting, shutdown dates. Pure."""

from __future__ import annotations

import math
from decimal import Decimal

from stepforge.contracts.decisions import Arm, FixedCosts, Method, Question, TrainingPlan
from stepforge.economics.bills import (
    HOURS_OF_MONTH,
    Bill,
    by_hours,
    by_instances,
    by_tokens,
    hosting,
    requests,
    storage,
)
from stepforge.economics.catalogue import (
    TRAINING,
    Catalogue,
    ModelPrice,
    TeacherPrices,
    teacher_row,
    warnings_of,
)
from stepforge.economics.tokens import TokenCount
from stepforge.errors import InvalidInput, UnknownPrice


def quoted(question: Question, catalogue: Catalogue) -> tuple[Question, tuple[str, ...]]:
    """The question with every price and date known, and warnings about those that came from the catalogue.

    Raises UnknownPrice for a price that neither has, UnknownName for a model that the catalogue does not know.
    """
    arms = tuple(_priced(arm, catalogue) for arm in question.arms)
    models = {arm.model for arm in question.arms if arm.model is not None}
    models |= {
        row
        for arm in question.arms
        if arm.model and arm.teacher and (row := teacher_row(arm.model, arm.teacher)) in catalogue.rows
    }
    return question.model_copy(update={"arms": arms}), warnings_of(catalogue, sorted(models), question.today)


def _priced(arm: Arm, catalogue: Catalogue) -> Arm:
    update: dict[str, object] = {}
    if arm.model is not None and arm.shuts_down is None:
        update["shuts_down"] = catalogue.row(arm.model).shuts_down
    if arm.fixed.training_usd is None:
        update["fixed"] = FixedCosts.model_validate(
            {**arm.fixed.model_dump(), "training_usd": _training(arm, catalogue)}
        )
    if arm.request_usd is None:
        update["request_usd"] = _request(arm, catalogue)
    if arm.month_usd is None and arm.model is not None and arm.method != "prompt":
        update["month_usd"] = float(_month(arm.model, catalogue).usd)
    return arm.model_copy(update=update)


def _training(arm: Arm, catalogue: Catalogue) -> float:
    if arm.job is None:
        if arm.method == "prompt":
            return 0.0
        raise UnknownPrice(
            f"arm {arm.name!r} says neither what its training costs nor how much is trained: give fixed.training_usd, "
            f"or a job (tokens and epochs, or hours) with a model of the catalogue"
        )
    if arm.model is None:
        raise InvalidInput(
            f"arm {arm.name!r} has a job and no model whose price it could have: give model, or training_usd"
        )
    bill, tokens = Bill(()), _exactly(arm.job.tokens)
    if arm.method == "distillation":
        bill += _teacher(arm, arm.job, arm.model, catalogue)
    if arm.job.tokens:
        bill += by_tokens(tokens, arm.job.epochs, catalogue.price(arm.model, "training_tokens", method=arm.method))
    if arm.job.hours:
        price, hours = catalogue.price(arm.model, "training_hours", method=arm.method), Decimal(str(arm.job.hours))
        provider = catalogue.row(arm.model).provider
        if provider in ("sagemaker", "own"):
            bill += by_instances(math.ceil(hours * 3600), 1, price.usd)
        else:
            bill += by_hours(provider, hours, price)
    return float(bill.usd)


def _month(model: str, catalogue: Catalogue) -> Bill:
    """A tuned model that stands by, asked or not. Most providers charge nothing for that, and have no such price."""
    kinds = {price.kind for price in catalogue.row(model).prices}
    bill = Bill(())
    if "hosting" in kinds:
        bill += hosting(Decimal(HOURS_OF_MONTH), catalogue.price(model, "hosting").usd)
    if "storage" in kinds:
        bill += storage(Decimal(1), catalogue.price(model, "storage").usd)
    return bill


def _exactly(tokens: int) -> TokenCount:
    return TokenCount(tokens, tokens, tokens, "given")


def _teacher(arm: Arm, job: TrainingPlan, student: str, catalogue: Catalogue) -> Bill:
    if not job.teacher_prompt_tokens or not job.teacher_response_tokens:
        raise UnknownPrice(
            f"arm {arm.name!r} is a distillation and does not say how much its teacher reads and answers: give "
            "job.teacher_prompt_tokens and job.teacher_response_tokens, or fixed.training_usd"
        )
    if arm.teacher is None:
        raise UnknownPrice(f"arm {arm.name!r} is a distillation: give teacher, whose prices its responses have")
    row = teacher_row(student, arm.teacher)
    asked, said = _exactly(job.teacher_prompt_tokens), _exactly(job.teacher_response_tokens)
    return requests(asked, said, catalogue.price(row, "input"), catalogue.price(row, "output"))


def training_price(catalogue: Catalogue, model: str, method: Method, *, teacher: str | None = None) -> ModelPrice:
    """What a tune of this model by this method is charged by: tokens, hours or a flat price; with what a distillation's
    teacher is charged by. Raises UnknownPrice, and InvalidInput for a teacher that is not known to be one."""
    kinds = {price.kind for price in catalogue.row(model).prices if price.method in (None, method)}
    price = catalogue.price(model, next((kind for kind in TRAINING if kind in kinds), TRAINING[0]), method=method)
    if method != "distillation":
        return price
    return price.model_copy(update={"teacher": teacher_prices(catalogue, model, teacher)})


def teacher_prices(catalogue: Catalogue, student: str, teacher: str | None) -> TeacherPrices:
    """The prices of inference of a student's teacher. Raises UnknownPrice, and InvalidInput for a pair that nobody
    knows."""
    catalogue.pair(student, teacher)
    assert teacher is not None
    row = teacher_row(student, teacher)
    return TeacherPrices(model=teacher, input=catalogue.price(row, "input"), output=catalogue.price(row, "output"))


def _request(arm: Arm, catalogue: Catalogue) -> float:
    if arm.traffic is None or arm.model is None:
        raise UnknownPrice(
            f"arm {arm.name!r} does not say what a request costs: give request_usd, or traffic (prompt_tokens, "
            f"completion_tokens) with a model of the catalogue"
        )
    traffic, prompt = arm.traffic, arm.method == "prompt"
    cached = traffic.prompt_tokens * traffic.cached_share
    each = [
        (catalogue.price(arm.model, "input" if prompt else "tuned_input"), traffic.prompt_tokens - cached),
        (catalogue.price(arm.model, "output" if prompt else "tuned_output"), traffic.completion_tokens),
    ]
    if cached:
        each.append((catalogue.price(arm.model, "cached_input"), cached))
    return traffic.price_share * sum(float(price.usd_each) * tokens for price, tokens in each)
