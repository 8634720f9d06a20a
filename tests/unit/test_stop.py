"""What `stop --json` says is how things stand after the stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.cli import _stop
from stepforge.following.stopping import Stopped
from stepforge.machines.executions import Execution

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_stopped_run_is_looked_at_again(capsys: pytest.CaptureFixture[str]) -> None:
    after = Execution("arn", "train-r0", "ABORTED", NOW, NOW, error="StoppedByUser")
    run = SimpleNamespace(stop=lambda: Stopped("train-r0", "RUNNING"), refresh=lambda: after)
    client: Any = SimpleNamespace(pipelines=SimpleNamespace(get=lambda name: run))
    _stop.stop(client, "latest", as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["stopped"], said["status"], said["ended"]) == (True, "ABORTED (StoppedByUser)", NOW.isoformat())
