"""The ledger: every attempt that has ended is booked once, whoever saw its end."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.contracts.base import canonical_json
from stepforge.contracts.economics import LedgerEntry, Price
from stepforge.contracts.jobs import JobSpec, Resources
from stepforge.contracts.names import Keys, job_name
from stepforge.contracts.work import DatasetWork
from stepforge.economics import ledger
from stepforge.economics.estimate import Wanted, enough, estimate
from stepforge.economics.prices import Prices
from tests.fakes import FakeSageMaker

from .conftest import BUCKET, KEY_ARN

SPEC = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="c" * 64)
END = datetime(2026, 10, 5, 12, tzinfo=UTC)
ROW = Price(
    instance_type="ml.g5.xlarge",
    region="us-east-1",
    usd_per_hour=1.44,
    as_of=date(2026, 9, 1),
    source="test",
    confidence="list",
)
TABLE = Prices((ROW,))


def put_spec(s3: Any, spec: JobSpec = SPEC) -> str:
    s3.put_object(Bucket=BUCKET, Key=Keys.spec(spec.identity), Body=canonical_json(spec))
    return f"s3://{BUCKET}/{Keys.spec(spec.identity)}"


def add(sagemaker: FakeSageMaker, number: int = 0, status: str = "Completed", **more: Any) -> str:
    name = job_name(SPEC.prefix, number)
    described = {
        "HyperParameters": {"spec_uri": f"s3://{BUCKET}/{Keys.spec(SPEC.identity)}"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2},
        "CreationTime": END - timedelta(hours=1),
        "LastModifiedTime": END,
        "TrainingEndTime": END,
        "TrainingTimeInSeconds": 600,
        "BillableTimeInSeconds": 600,
    }
    sagemaker.add_job(name, SPEC.identity, status, **{**described, **more})
    return name


def book(sagemaker: FakeSageMaker, s3: Any, name: str) -> LedgerEntry | None:
    return ledger.book(sagemaker, s3, name, bucket=BUCKET, key_arn=KEY_ARN, table=TABLE)


def heal(sagemaker: FakeSageMaker, s3: Any, **more: Any) -> ledger.Healed:
    known = ledger.read(s3, bucket=BUCKET).entries
    return ledger.heal(sagemaker, s3, bucket=BUCKET, key_arn=KEY_ARN, known=known, table=TABLE, **more)


def test_an_end_is_booked_with_its_cost(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    entry = book(sagemaker, s3, add(sagemaker))
    assert entry is not None
    assert entry.usd == pytest.approx(2 * 600 / 3600 * 1.44)
    assert (entry.domain, entry.type, entry.usd_per_hour, entry.price_as_of) == ("facial", "dataset", 1.44, ROW.as_of)
    assert ledger.read(s3, bucket=BUCKET).entries == (entry,)


def test_a_second_booking_changes_nothing_even_at_another_price(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    first = book(sagemaker, s3, add(sagemaker))
    assert first is not None
    dearer = first.model_copy(update={"usd": 99.0})
    assert ledger.write(s3, dearer, bucket=BUCKET, key_arn=KEY_ARN) is False
    assert ledger.read(s3, bucket=BUCKET).entries == (first,)


def test_each_end_is_told_once_for_cloudwatch_to_count(
    s3: Any, sagemaker: FakeSageMaker, caplog: pytest.LogCaptureFixture
) -> None:
    put_spec(s3)
    name = add(sagemaker, status="Stopped", SecondaryStatus="MaxRuntimeExceeded")
    unpriced = add(sagemaker, 1, ResourceConfig={"InstanceType": "ml.g9.huge", "InstanceCount": 1})
    with caplog.at_level("INFO", logger="stepforge.economics.ledger"):
        for job in (name, name, unpriced):
            book(sagemaker, s3, job)
    first, second = (vars(record) for record in caplog.records)
    assert (first["job"], first["Type"], first["Status"]) == (name, "dataset", "MaxRuntimeExceeded")
    assert (first["jobs_ended"], first["billable_seconds"]) == (1, 600)
    assert first["cost_usd"] == pytest.approx(2 * 600 / 3600 * 1.44)
    assert first["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Environment", "Type", "Status"]]
    assert (second["Status"], "cost_usd" in second) == ("Completed", False)


@pytest.mark.parametrize("status", ["Failed", "Stopped"])
def test_what_failed_or_was_stopped_is_booked_as_well(s3: Any, sagemaker: FakeSageMaker, status: str) -> None:
    put_spec(s3)
    entry = book(sagemaker, s3, add(sagemaker, status=status))
    assert entry is not None
    assert (entry.status, round(entry.usd or 0, 2)) == (status, 0.48)


def test_a_job_that_runs_is_not_booked(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    assert book(sagemaker, s3, add(sagemaker, status="InProgress")) is None
    assert ledger.read(s3, bucket=BUCKET).entries == ()


def test_an_unknown_price_or_time_is_never_zero(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    unknown = add(sagemaker, 0, ResourceConfig={"InstanceType": "ml.g9.huge", "InstanceCount": 1})
    untimed = add(sagemaker, 1, status="Failed", BillableTimeInSeconds=None, TrainingEndTime=None)
    entries = [book(sagemaker, s3, name) for name in (unknown, untimed)]
    assert [entry and entry.usd for entry in entries] == [None, None]
    assert entries[1] is not None
    assert entries[1].ended == END


def test_a_saving_of_spot_is_one_minus_billable_over_training(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    entry = book(sagemaker, s3, add(sagemaker, EnableManagedSpotTraining=True, BillableTimeInSeconds=150))
    assert entry is not None
    assert entry.spot_saving == 0.75
    assert entry.usd == pytest.approx(2 * 150 / 3600 * 1.44)


def test_healing_books_what_nobody_saw_and_names_what_runs(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    names = [add(sagemaker, 0, "Stopped"), add(sagemaker, 1, "Failed"), add(sagemaker, 2, "InProgress")]
    book(sagemaker, s3, names[1])

    healed = heal(sagemaker, s3)

    assert [entry.job for entry in healed.booked] == names[:1]
    assert healed.under_way == (names[2],)
    assert [entry.job for entry in ledger.read(s3, bucket=BUCKET).entries] == names[:2]


def test_healing_again_looks_at_nothing_that_is_done(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    # Created after its spec was written, as every job is.
    later = datetime.now(UTC) + timedelta(minutes=1)
    add(sagemaker, CreationTime=later, TrainingEndTime=later, LastModifiedTime=later)
    assert len(heal(sagemaker, s3).booked) == 1
    assert heal(sagemaker, s3) == ledger.Healed()


def test_healing_since_a_day_leaves_older_specs_alone(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    add(sagemaker)
    assert heal(sagemaker, s3, since=datetime.now(UTC).date() + timedelta(days=60)).looked == 0


def test_a_job_of_another_bucket_is_not_ours_to_book(s3: Any, sagemaker: FakeSageMaker) -> None:
    elsewhere = {"spec_uri": f"s3://elsewhere/{Keys.spec(SPEC.identity)}"}
    assert book(sagemaker, s3, add(sagemaker, HyperParameters=elsewhere)) is None


def test_trying_to_book_never_stands_in_the_way(
    s3: Any, sagemaker: FakeSageMaker, caplog: pytest.LogCaptureFixture
) -> None:
    name = add(sagemaker)  # its spec is not there
    ledger.try_to_book(sagemaker, s3, name, bucket=BUCKET, key_arn=KEY_ARN)
    assert name in caplog.text


def test_entries_since_a_day_are_those_that_ended_from_then_on(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    for number in range(3):
        book(sagemaker, s3, add(sagemaker, number, "Failed", TrainingEndTime=END + timedelta(days=number)))
    found = ledger.read(s3, bucket=BUCKET, since=(END + timedelta(days=1)).date())
    assert [entry.ended.day for entry in found.entries] == [6, 7]


@given(st.integers(0, 10**6), st.integers(1, 64), st.floats(0.01, 100))
def test_cost_is_seconds_times_instances_times_price(seconds: int, count: int, price: float) -> None:
    assert ledger.cost_usd(seconds, count, price) == pytest.approx(seconds / 3600 * count * price)
    assert ledger.cost_usd(seconds * 2, count, price) == pytest.approx(2 * ledger.cost_usd(seconds, count, price))


def test_an_estimate_finds_the_same_work_behind_newer_attempts_of_other_kinds(
    s3: Any, sagemaker: FakeSageMaker
) -> None:
    put_spec(s3)
    same = book(sagemaker, s3, add(sagemaker))
    assert same is not None
    for number in range(70):
        name = f"dataset-{number:012x}-a0"
        other = same.model_copy(
            update={"job": name, "domain": "fractions", "status": "Failed", "ended": END + timedelta(days=1)}
        )
        ledger.write(s3, other, bucket=BUCKET, key_arn=KEY_ARN)
    resources = Resources(instance_type="ml.g5.xlarge", instance_count=2)
    wanted = Wanted("facial", "dataset", DatasetWork(domain="facial", seed=7), same.model, resources)
    found = ledger.newest(s3, bucket=BUCKET, enough=enough([wanted]))
    assert estimate(wanted, found.entries, ROW).source == "same work"


def test_no_more_is_read_than_an_estimate_looks_at(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    same = book(sagemaker, s3, add(sagemaker))
    assert same is not None
    for number in range(1, 130):
        ledger.write(s3, same.model_copy(update={"job": f"dataset-{number:012x}-a0"}), bucket=BUCKET, key_arn=KEY_ARN)
    resources = Resources(instance_type="ml.g5.xlarge", instance_count=2)
    wanted = Wanted("facial", "dataset", SPEC.work, same.model, resources)
    assert len(ledger.newest(s3, bucket=BUCKET, enough=enough([wanted])).entries) == 64


def test_an_entrys_day_is_that_of_utc_wherever_it_is_booked(s3: Any, sagemaker: FakeSageMaker) -> None:
    put_spec(s3)
    east = END.replace(hour=23, tzinfo=timezone(timedelta(hours=-3)))
    entry = book(sagemaker, s3, add(sagemaker, TrainingEndTime=east))
    assert entry is not None
    (key,) = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix="ledger/")["Contents"]]
    assert key == f"ledger/2026-10-06/{entry.job}.json"
