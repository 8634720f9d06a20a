"""Paid tunes in `stepforge costs`: each once, the bill beside the estimate."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from stepforge.economics.tunes import tune_costs
from stepforge.finetune.entries import Entry


def entry(key: str, **given: Any) -> Entry:
    about = {"environment": "dev", "provider": "openai", "target": "t", "base_model": "b", "method": "sft"}
    rest = {"stage": "succeeded", "estimate_usd": 11, "job_id": "j", "reserved_at": datetime(2026, 11, 20, tzinfo=UTC)}
    return Entry.model_validate({"key": key, **about, **rest, **given})


def test_each_launch_costs_once_by_its_bill_where_there_is_one() -> None:
    shared = [entry("a"), entry("b", actual_usd="9.5"), entry("c", stage="needs approval", job_id=None)]
    here = [entry("a", actual_usd="8.25"), entry("d", environment="prod"), entry("e", stage="launched")]
    found = tune_costs(shared, here, environment="dev")
    assert sorted(e.key for e in found.entries) == ["a", "b", "e"]
    assert (found.billed_usd, found.unbilled_usd) == (Decimal("17.75"), Decimal(11))


def test_a_local_fake_is_listed_and_costs_nothing_and_days_are_held() -> None:
    found = tune_costs([entry("a", job_id="localfake-1")], environment="dev")
    assert (len(found.entries), found.unbilled_usd) == (1, 0)
    assert tune_costs([entry("a")], environment="dev", since=date(2026, 11, 21)).entries == ()
    assert len(tune_costs([entry("a")], environment="dev", since=date(2026, 11, 20)).entries) == 1
