"""What is written down while a stage trains: metrics ahead of everything, checkpoints, and what MLflow may have."""

from __future__ import annotations

from stepforge.contracts.work import Optimisation
from stepforge_jobs.job import Job
from stepforge_jobs.training.metrics_log import MetricsLog, Row
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.shipping import Shipping
from stepforge_jobs.training.state import Remembers, Trained, TrainingState, keep


class Book:
    """Of one training job; on another rank than 0 nothing is written."""

    def __init__(self, job: Job, work: Optimisation, state: TrainingState) -> None:
        self._job, self._writes = job, ranks().first
        if self._writes:
            self._log = MetricsLog(job.checkpoint_dir, state.rows, warn=job.progress.warn)
            self._shipping = Shipping(job, work, self._log.path)
            self._shipping.final(state.step)

    def write(self, row: Row) -> None:
        if self._writes:
            self._log.append(row)

    def keep(self, trained: Trained, state: TrainingState, stage: Remembers) -> None:
        """A checkpoint. What stands in it is final. Raises DiskFull."""
        if self._writes:
            self._log.sync()
            keep(self._job, trained, state, stage)
            self._shipping.final(state.step)

    def finish(self) -> None:
        """Wait a little for what MLflow still has to get."""
        if self._writes:
            self._shipping.close()

    def close(self) -> None:
        if self._writes:
            self._log.close()
