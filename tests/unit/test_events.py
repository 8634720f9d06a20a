"""One change of a package has one id, whoever writes down when it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.contracts.events import PackageStateChange, instant

MOMENTS = st.datetimes(datetime(2015, 1, 1), datetime(2200, 1, 1)).map(lambda d: d.replace(microsecond=0, tzinfo=UTC))


@given(MOMENTS)
def test_a_moment_is_the_same_in_every_notation(when: datetime) -> None:
    seconds = when.timestamp()
    elsewhere = when.astimezone(timezone(timedelta(hours=5, minutes=30)))
    notations = [
        when,
        elsewhere,
        when.replace(tzinfo=None),
        when.isoformat(),
        when.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        elsewhere.isoformat(),
        seconds,
        int(seconds),
        seconds * 1000,
        f"{seconds:.3f}",
        f"{seconds * 1000:.0f}",
    ]
    assert len({instant(notation) for notation in notations}) == 1


@given(MOMENTS, st.integers(1, 10**6))
def test_a_later_change_has_another_id(when: datetime, seconds: int) -> None:
    ids = {
        PackageStateChange(ModelPackageArn="a", ModelApprovalStatus="Approved", LastModifiedTime=moment).event_id
        for moment in (when, when + timedelta(seconds=seconds))
    }
    assert len(ids) == 2


@pytest.mark.parametrize("odd", [None, "yesterday", "", {"Seconds": 1}])
def test_an_unknown_notation_is_taken_as_it_is(odd: object) -> None:
    assert instant(odd) == str(odd)
