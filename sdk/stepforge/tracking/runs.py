"""A run's metrics from its artifacts into MLflow: how they get there from AWS, where training jobs have no network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stepforge.errors import EnvironmentUnavailable
from stepforge.pipelines import Run
from stepforge.report.reading import read_run
from stepforge.tracking.mlflow_run import MlflowRun, Row
from stepforge.watchdog import Retries, watchdog


def track_run(run: Run, uri: str) -> dict[str, int]:
    """Send the metrics of each finished stage; stage to the number of points that were new.

    Raises IntegrityError for an artifact that was altered, InvalidInput where MLflow is not installed,
    EnvironmentUnavailable where its store refuses or does not answer.
    """
    sent: dict[str, int] = {}
    report = read_run(run)
    settings = {job.stage: job.settings for job in report.jobs}
    for stage in report.stages:
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, curve in stage.curves.items():
            for step, value in curve:
                rows[int(step)][name] = value
        tracked = MlflowRun(
            uri,
            experiment=f"stepforge/{report.domain}",
            name=f"{stage.report.name}-{stage.report.spec_sha256[:12]}",
            spec_sha256=stage.report.spec_sha256,
            parameters=settings.get(stage.stage),
        )
        sent[stage.stage] = send(tracked, [{"step": step, **values} for step, values in sorted(rows.items())])
    return sent


def _may_pass(error: Exception) -> bool:
    """Whether MLflow may take the same metrics the next time: not where it has refused them."""
    status = getattr(error.__cause__, "get_http_status_code", None)
    return isinstance(error, EnvironmentUnavailable) and (status is None or status() >= 500 or status() == 429)


# What was sent by an attempt that failed is not sent again: `MlflowRun` asks what has arrived.
@watchdog("mlflow", budget_seconds=120, retries=Retries(attempts=3, first_pause_seconds=0.3, when=_may_pass))
def send(tracked: MlflowRun, rows: Sequence[Row]) -> int:
    """Send the rows of one stage and end its run; the number of points that the last attempt sent.

    Raises EnvironmentUnavailable where the store refuses, or has not answered in three attempts.
    """
    with _store(tracked.uri):
        count = tracked.log(rows)
        tracked.end()
        return count


@contextmanager
def _store(uri: str) -> Iterator[None]:
    """MLflow's own errors in words. Told by their module: MLflow is imported where it is needed alone."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("mlflow"):
            raise
        raise EnvironmentUnavailable(
            f"MLflow at {uri} did not take the metrics: {' '.join(str(error).split())[:300]}. Run it again when it "
            "does: what has arrived is not sent twice"
        ) from error
