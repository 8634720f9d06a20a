"""What a launch in the state machine is held to. Its request is the caller's word; budgets and prices are not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

from stepforge.contracts.base import Contract
from stepforge.economics.catalogue import Catalogue, ModelPrice
from stepforge.economics.quotes import training_price
from stepforge.errors import UnknownPrice
from stepforge.finetune.entries import Budgets
from stepforge.finetune.plan import Plan
from stepforge.finetune.provider import Provider
from stepforge.finetune.spec import TokenRange, TuneSpec

MOST_BYTES_A_TOKEN = 12
"""Of a data file. What claims to have fewer tokens than that is asked of a person."""
_PIECE = re.compile(r"(?:[A-Za-z]|[^\x00-\x7f])+(?:'[A-Za-z]+)?|[0-9]{1,3}")
"""Words and groups of three digits, in which tokenizers of today never join two; spaces and signs are left out."""
_ASIDE = ("record_id", "verifier", "record", "reference_answer")
"""Fields beside what is trained on."""
_ALWAYS = Decimal(-1)
"""A threshold that every estimate is above, one of nothing as well."""


class Held(Contract):
    """The dearer of two prices, the lower of two budgets, the higher of two counts."""

    price: ModelPrice
    budgets: Budgets
    spec: TuneSpec
    """What the cost is estimated of. It is the launch's own but where that counts fewer tokens than its data have."""
    why_asked: str = ""
    """Why a person is asked whatever it costs; empty where the amount decides."""


def held(
    plan: Plan,
    spec: TuneSpec,
    asked: ModelPrice,
    provider: Provider,
    limits: Budgets | None,
    catalogue: Catalogue,
    *,
    data: Callable[[], bytes] | None = None,
) -> Held:
    """`limits` are the environment's; None: this is a person's own machine, and the plan's word is theirs.

    With `data`, the training file, its words are counted, and it is held to have no fewer tokens.

    At a local server nothing is charged, so there the price is as it was given.
    Raises InvalidInput where the catalogue's price is by the hour and the plan says no hours.
    """
    if limits is None:
        return Held(price=asked, budgets=plan.budgets, spec=spec)
    budgets = lower(plan.budgets, limits)
    if provider.local:
        return Held(price=asked, budgets=budgets, spec=spec)
    counted, doubt = _counted(spec, data)
    price, why = _dearer(plan, counted, asked, provider, catalogue)
    why = doubt or why
    if why:
        budgets = budgets.model_copy(update={"approval_usd": _ALWAYS})
    return Held(price=price, budgets=budgets, spec=counted, why_asked=why)


def fewest_tokens(data: bytes, *, method: str = "sft") -> int:
    """Tokens that a training file has at least, whichever tokenizer counts them; of English some four in five.

    >>> fewest_tokens(b'{"messages": [{"role": "user", "content": "do add 12345"}]}')
    5
    """
    aside = _ASIDE if method == "rft" else ()
    return sum(_pieces(_read(line), aside) for line in data.splitlines())


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line.decode(errors="replace")


def _pieces(found: Any, aside: tuple[str, ...]) -> int:
    if isinstance(found, str):
        return len(_PIECE.findall(found))
    if isinstance(found, dict):
        return sum(_pieces(value, aside) for name, value in found.items() if name not in aside)
    return sum(_pieces(value, aside) for value in found) if isinstance(found, list) else 0


def _counted(spec: TuneSpec, data: Callable[[], bytes] | None) -> tuple[TuneSpec, str]:
    if data is None:
        return spec, ""
    said, fewest = spec.training.tokens, fewest_tokens(data(), method=spec.method)
    if fewest <= said.high:
        return spec, ""
    tokens = TokenRange(low=fewest, high=fewest, method="words, which are no more than tokens")
    training = spec.training.model_copy(update={"tokens": tokens})
    why = f"its data have {fewest:,} tokens or more, and the plan counts {said.high:,}"
    return spec.model_copy(update={"training": training}), why


def lower(one: Budgets, other: Budgets) -> Budgets:
    """Each amount's lower.

    >>> few, many = (dict.fromkeys(Budgets.model_fields, usd) for usd in (1, 5))
    >>> lower(Budgets(**{**many, "job_usd": 9}), Budgets(**{**many, "approval_usd": 1})).model_dump(mode="json")
    {'job_usd': '5', 'day_usd': '5', 'environment_usd': '5', 'approval_usd': '1'}
    """
    return Budgets.model_validate(
        {name: min(getattr(one, name), getattr(other, name)) for name in Budgets.model_fields}
    )


@cache
def shipped() -> Catalogue:
    return Catalogue.load()


def _dearer(
    plan: Plan, spec: TuneSpec, asked: ModelPrice, provider: Provider, catalogue: Catalogue
) -> tuple[ModelPrice, str]:
    """The price to hold it to, and why a person is asked all the same."""
    if plan.search_price() is not None:
        return asked, "the rates of its search are the plan's own"
    # By what is tuned: `catalogue_model` is the plan's word, and could name a cheaper one.
    model = f"{spec.provider}/{spec.base_model}"
    try:
        teacher = None if spec.teacher is None else spec.teacher.model
        known = training_price(catalogue, model, spec.method, teacher=teacher) if model in catalogue.rows else None
    except UnknownPrice:
        known = None
    if known is None:
        return asked, f"the catalogue has no price of {model!r}"
    asked_usd, known_usd = (provider.estimate(spec, price, hours=plan.hours).high_usd for price in (asked, known))
    price = asked if asked_usd > known_usd else known
    if known.kind == "training_hours":
        return price, "how many hours it takes is the plan's word"
    if spec.teacher is not None and spec.provider == "vertex":
        return price, "how long its teacher's responses are is the plan's word"
    if spec.training.bytes > MOST_BYTES_A_TOKEN * spec.training.tokens.high:
        return price, "its data have more bytes than its tokens explain"
    return price, ""
