"""From the write-ahead file to MLflow while a job trains, where MLFLOW_TRACKING_URI is set and can be reached.

On AWS it is not: training jobs run in network isolation, and that stays so, because their code may be the user's and
their data need not leave. There `stepforge track` sends the same metrics from the artifact, under the same identity; a
step that both send is recorded once.

Only steps that a checkpoint has made final are sent: what is sent cannot be taken back, and a step after the newest
checkpoint is taken again after a kill. A thread sends; whatever goes wrong there is said, and training goes on.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

from stepforge.contracts.work import Optimisation
from stepforge.tracking.mlflow_run import TRACKING_URI, MlflowRun
from stepforge_jobs.job import Job

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
CLOSE_SECONDS = 20.0
"""How long the end of a job waits for what is still to be sent."""


class Shipping:
    """Of one training job. Without a tracking URI it does nothing."""

    def __init__(self, job: Job, work: Optimisation, path: Path) -> None:
        uri = os.environ.get(TRACKING_URI)
        self._path, self._progress = path, job.progress
        self._condition = threading.Condition()
        self._upto = 0
        self._offset = 0
        """Bytes of the file that are recorded."""
        self._sent = self._unsent = 0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        if not uri:
            return
        self._run = MlflowRun(
            uri,
            experiment=f"stepforge/{job.spec.domain}",
            name=f"{work.name}-{job.spec.identity[:12]}",
            spec_sha256=job.spec.identity,
            parameters=work.model_dump(mode="json"),
        )
        self._thread = threading.Thread(target=self._work, name="shipping", daemon=True)
        self._thread.start()

    def final(self, step: int) -> None:
        """Steps up to this one lie in a checkpoint."""
        with self._condition:
            self._unsent += step - self._upto
            self._upto = step
            self._condition.notify_all()

    def close(self) -> None:
        """Wait a little for what is still to be sent, and say what was not."""
        if self._thread is None:
            return
        with self._condition:
            self._ending.set()
            self._condition.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._progress.warn(
                f"the metrics of {self._unsent} steps did not reach MLflow at {self._run.uri}: they are in the "
                "artifact's metrics.jsonl, from where `stepforge track` sends them"
            )

    def _work(self) -> None:
        # Its own generator: the global one belongs to the steps.
        pause, jitter, complained = FIRST_PAUSE_SECONDS, random.Random(), False
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._unsent or self._ending.is_set())
                upto, last = self._upto, self._ending.is_set()
            try:
                self._send(upto)
                if last:
                    self._run.end()
                    return
            except Exception as error:  # noqa: BLE001 - metrics never stop training, whatever their sink raises
                if not complained:
                    self._progress.warn(f"MLflow at {self._run.uri} takes no metrics, trying again: {_brief(error)}")
                complained = True
                if self._ending.wait(pause * jitter.uniform(0.5, 1.0)):
                    time.sleep(FIRST_PAUSE_SECONDS / 2)
                pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)
            else:
                pause, complained = FIRST_PAUSE_SECONDS, False

    def _send(self, upto: int) -> None:
        rows, end = self._rows(upto)
        if rows:
            self._run.log(rows)
            self._offset, self._sent = end, rows[-1]["step"]
        with self._condition:
            self._unsent = self._upto - self._sent
        if self._sent < upto:
            raise OSError(f"{self._path} ends at step {self._sent}, but step {upto} is in a checkpoint")

    def _rows(self, upto: int) -> tuple[list[dict[str, Any]], int]:
        """The lines after what is recorded, up to a step, and where they end."""
        rows, end = [], self._offset
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                row = json.loads(line)
                if row["step"] > upto:
                    break
                rows.append(row)
                end += len(line)
        return rows, end


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
