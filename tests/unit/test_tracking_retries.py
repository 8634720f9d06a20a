"""Metrics that MLflow does not take at once are sent again; those that it refuses are not."""

from __future__ import annotations

import pytest

from stepforge.errors import EnvironmentUnavailable
from stepforge.tracking.runs import send


class MlflowException(Exception):
    """As MLflow's: told by its module, with the status of the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answered {status}")
        self._status = status

    def get_http_status_code(self) -> int:
        return self._status


MlflowException.__module__ = "mlflow.exceptions"


class Tracked:
    """A run whose store answers with errors first."""

    uri = "http://mlflow.example.org"

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.calls, self.ended = list(statuses), 0, False

    def log(self, rows: list[dict[str, float]]) -> int:
        self.calls += 1
        if self.statuses:
            raise MlflowException(self.statuses.pop(0))
        return len(rows)

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("statuses", [(), (503,), (500, 429)])
def test_what_may_pass_is_sent_again(statuses: tuple[int, ...]) -> None:
    tracked = Tracked(*statuses)
    assert send(tracked, [{"step": 1, "loss": 0.5}]) == 1  # type: ignore[arg-type]
    assert (tracked.calls, tracked.ended) == (len(statuses) + 1, True)


@pytest.mark.parametrize(("statuses", "calls"), [((400, 503), 1), ((503, 403, 503), 2), ((500, 500, 500, 500), 3)])
def test_what_is_refused_or_fails_thrice_is_an_error(statuses: tuple[int, ...], calls: int) -> None:
    tracked = Tracked(*statuses)
    with pytest.raises(EnvironmentUnavailable, match="what has arrived is not sent twice"):
        send(tracked, [{"step": 1}])  # type: ignore[arg-type]
    assert (tracked.calls, tracked.ended) == (calls, False)
