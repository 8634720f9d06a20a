"""One training job as one MLflow run, in any store that a tracking URI names: sqlite:///file.db, a server, an ARN.

Each (metric, step) is recorded once, whoever sends it and however often: the run is found again by the digest of the
job's spec, and what it holds is asked for at the beginning and after every failure, because a request that failed may
have arrived. Needs the extra [tracking]; SageMaker's ARNs need the package sagemaker-mlflow too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepforge.errors import InvalidInput

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""MLflow's own name for the environment variable."""
IDENTITY = "stepforge.spec_sha256"
MOST_METRICS = 1_000
"""In one request, by MLflow's limit."""
_SETTINGS = {
    # Who calls backs off and tries again: a client that does so too would hang for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

Row = Mapping[str, float]
"""A line of metrics: `step`, perhaps `time` in seconds of the epoch, and metric to value."""


class MlflowRun:
    """Nothing is called before the first `log`. Any call raises what MLflow raises; the next one goes on from there.

    >>> MlflowRun("sqlite:///mlflow.db", experiment="facial", name="srl", spec_sha256="0" * 64).uri
    'sqlite:///mlflow.db'
    """

    def __init__(
        self, uri: str, *, experiment: str, name: str, spec_sha256: str, parameters: Mapping[str, Any] | None = None
    ) -> None:
        self.uri = uri
        self._experiment, self._name, self._identity = experiment, name, spec_sha256
        self._parameters = dict(parameters or {})
        self._client: Any = None
        self._run: str | None = None
        self._upto = 0
        """All metrics of steps up to this one are recorded."""
        self._recorded: set[tuple[str, int]] | None = None
        """Those of later steps that the store has; None where it must be asked."""

    def log(self, rows: Sequence[Row]) -> int:
        """Record rows, in the order of their steps, that are not recorded yet; the number of points that were sent."""
        run = self._open()
        if self._recorded is None:
            self._recorded = self._ask(run)
        points = [
            (name, int(row["step"]), float(value), row.get("time", time.time()))
            for row in rows
            if row["step"] > self._upto
            for name, value in row.items()
            if name not in ("step", "time") and (name, int(row["step"])) not in self._recorded
        ]
        for start in range(0, len(points), MOST_METRICS):
            self._send(run, points[start : start + MOST_METRICS])
        self._upto = max([self._upto, *(int(row["step"]) for row in rows)])
        self._recorded = {point for point in self._recorded if point[1] > self._upto}
        return len(points)

    def end(self, status: str = "FINISHED") -> None:
        """Mark the run as ended: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self._open(), status=status)

    def _send(self, run: str, points: Iterable[tuple[str, int, float, float]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(at * 1000), step) for name, step, value, at in points]
        asked, self._recorded = self._recorded, None
        self._client.log_batch(run, metrics=metrics)
        assert asked is not None
        self._recorded = asked | {(metric.key, metric.step) for metric in metrics}

    def _ask(self, run: str) -> set[tuple[str, int]]:
        names = self._client.get_run(run).data.metrics
        return {(name, metric.step) for name in names for metric in self._client.get_metric_history(run, name)}

    def _open(self) -> str:
        """The id of the run: the one that has this identity, or else a new one."""
        if self._run is not None:
            return self._run
        self._client = self._client or client_of(self.uri)
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            self._client.create_experiment(self._experiment)
            experiment = self._client.get_experiment_by_name(self._experiment)
        found = self._client.search_runs(
            [experiment.experiment_id], filter_string=f"tags.`{IDENTITY}` = '{self._identity}'", max_results=1
        )
        if found:
            run = found[0].info.run_id
            self._client.update_run(run, status="RUNNING")
        else:
            created = self._client.create_run(
                experiment.experiment_id, tags={IDENTITY: self._identity}, run_name=self._name
            )
            run = created.info.run_id
        self._set_parameters(run)
        self._run = run
        return run

    def _set_parameters(self, run: str) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6_000]) for name, value in self._parameters.items()][:100]
        if params:
            # The same values again are no error: a spec never changes.
            self._client.log_batch(run, params=params)


def client_of(uri: str) -> Any:
    """MLflow's client. Raises InvalidInput where MLflow is not installed."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise InvalidInput(
            f"metrics cannot be sent to {uri!r}: {error}. Install it with `pip install 'stepforge[tracking]'`"
        ) from error
    return MlflowClient(tracking_uri=uri)
