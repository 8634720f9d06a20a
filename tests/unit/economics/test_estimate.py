"""Estimates: from the nearest earlier attempts, with a range that says how near they were."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.contracts.economics import LedgerEntry, Price
from stepforge.contracts.jobs import Resources
from stepforge.contracts.work import SftWork, SrlWork
from stepforge.economics.costs import row_of
from stepforge.economics.estimate import Range, Wanted, estimate, total, units, work_digest

ROW = Price(
    instance_type="ml.g5.xlarge", region="us-east-1", usd_per_hour=1.44, as_of=date(2026, 9, 1), source="t",
    confidence="list",
)  # fmt: skip
END = datetime(2026, 10, 5, tzinfo=UTC)


def earlier(work: SftWork, seconds: int, *, model: str = "scratch-64x3-64", **more: Any) -> LedgerEntry:
    plain = {
        "arn": f"arn:{seconds}", "job": "sft-aaaaaaaaaaaa-a0", "type": "sft", "stage": work.name, "domain": "facial",
        "region": "us-east-1", "status": "Completed", "created": END, "ended": END, "instance_type": "ml.g5.xlarge",
        "instance_count": 1, "training_seconds": seconds, "billable_seconds": seconds,
        "work_sha256": work_digest(work), "units": units(work), "model": model,
    }  # fmt: skip
    return LedgerEntry.model_validate({**plain, **more})


def wanted(work: SftWork, **resources: Any) -> Wanted:
    return Wanted("facial", work.name, work, "scratch-64x3-64", Resources(**resources))


@pytest.mark.parametrize("seconds", [40, 600, 20_000])
def test_a_known_run_time_is_estimated_within_ten_per_cent_of_what_is_billed(seconds: int) -> None:
    work = SftWork()
    found = estimate(wanted(work), [earlier(SftWork(seed=7), seconds)], ROW)
    billed = seconds / 3600 * ROW.usd_per_hour
    assert found.source == "same work"
    assert found.usd is not None
    assert found.usd.middle == pytest.approx(billed, rel=0.1)
    assert found.usd.low <= billed <= found.usd.high


def test_the_nearest_kind_is_taken_and_a_farther_one_is_wider() -> None:
    work = SftWork()
    more, other = SftWork(steps=60), SftWork(name="base")
    far = earlier(other, 300, model="scratch-128x6-64")
    found = [
        estimate(wanted(work), history, ROW)
        for history in (
            [far, earlier(more, 300), earlier(work, 300)],
            [far, earlier(more, 300)],
            [far],
            [],
        )
    ]
    assert [one.source for one in found] == ["same work", "same stage", "same type", "guess"]
    widths = [one.seconds.high / one.seconds.low for one in found]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_more_work_takes_longer_but_its_start_does_not() -> None:
    doubled = estimate(wanted(SftWork(steps=60)), [earlier(SftWork(steps=30), 660)], ROW)
    assert doubled.seconds.middle == pytest.approx(60 + 2 * 600)


def test_attempts_that_failed_or_ran_elsewhere_say_nothing() -> None:
    work = SftWork()
    history = [earlier(work, 10, status="Failed"), earlier(work, 10, instance_type="ml.p5.48xlarge")]
    assert estimate(wanted(work), history, ROW).source == "guess"


def test_no_range_passes_the_jobs_own_limit() -> None:
    found = estimate(wanted(SftWork(steps=10**6), max_runtime_seconds=3600), [], ROW)
    assert found.seconds.high == 3600
    assert found.usd is not None
    assert found.usd.high == pytest.approx(1.44)


def test_without_a_price_there_is_no_cost_and_not_zero() -> None:
    found = estimate(wanted(SftWork()), [], None)
    assert found.usd is None
    seconds, usd = total([found, estimate(wanted(SftWork()), [], ROW)])
    assert usd is None
    assert seconds.middle == 2 * found.seconds.middle


def test_spot_is_cheaper_in_the_middle_and_not_promised() -> None:
    work = SftWork()
    history = [earlier(work, 1000, spot=True, billable_seconds=300)]
    found = estimate(wanted(work, spot=True), history, ROW)
    assert found.usd is not None
    assert found.usd.middle == pytest.approx(300 / 3600 * 1.44)
    assert found.usd.high == pytest.approx(1100 / 3600 * 1.44)


def test_several_instances_cost_as_many_times_as_much() -> None:
    one, four = (estimate(wanted(SftWork(), instance_count=n), [], ROW) for n in (1, 4))
    assert one.usd is not None
    assert four.usd == one.usd.times(4)


def test_only_the_newest_attempts_count() -> None:
    work = SftWork()
    history = [earlier(work, 5000, ended=END - timedelta(days=9))] * 5 + [earlier(work, 100)] * 20
    assert estimate(wanted(work), history, ROW).seconds.middle == 100


@given(st.lists(st.integers(10, 80_000), min_size=1, max_size=8), st.integers(1, 500))
def test_a_range_holds_its_middle_and_no_end_is_negative(times: list[int], steps: int) -> None:
    history = [earlier(SftWork(steps=30), seconds) for seconds in times]
    found = estimate(wanted(SftWork(steps=steps)), history, ROW).seconds
    assert 0 < found.low <= found.middle <= found.high


def test_what_is_no_work_at_all_differs_from_its_neighbours() -> None:
    assert work_digest(SrlWork(seed=1)) == work_digest(SrlWork(seed=2)) != work_digest(SrlWork(steps=3))
    assert Range(1, 2, 3).plus(Range(1, 1, 1)) == Range(2, 3, 4)


@pytest.mark.parametrize(("training", "billed", "saved"), [(1000, 300, 700), (1000, 0, 1000), (1000, 1000, 0)])
def test_what_spot_saved_is_told_of_a_job_that_was_billed_nothing_too(training: int, billed: int, saved: int) -> None:
    usd = billed / 3600 * 1.44
    entry = earlier(SftWork(), training, spot=True, billable_seconds=billed, usd=usd, usd_per_hour=1.44)
    assert row_of("x", [entry]).spot_saved_usd == pytest.approx(saved / 3600 * 1.44)


def test_completed_in_one_status_alone_is_no_success() -> None:
    entry = earlier(SftWork(), 10, secondary_status="Interrupted")
    assert row_of("x", [entry]).failed == 1
    assert estimate(wanted(SftWork()), [entry], ROW).source == "guess"
    assert row_of("x", [earlier(SftWork(), 10, secondary_status="Completed")]).failed == 0
