"""The launcher: which ranks there are, and that they end together."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from stepforge.errors import InvalidInput
from stepforge_jobs import launch as launcher
from stepforge_jobs.launch import MEETING, PROCESSES, Plan, environment, launch, meeting_of, plan_of

TWO = Plan(here=2, host=0, hosts=("localhost",), interface=None)


def cluster(base: Path, **config: object) -> Path:
    (base / "input" / "config").mkdir(parents=True)
    (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(config))
    return base


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PROCESSES, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_a_laptop_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert plan_of(tmp_path).world == 1


def test_ranks_go_host_by_host_and_all_meet_at_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = cluster(tmp_path, hosts=["algo-2", "algo-1"], current_host="algo-2", network_interface_name="eth0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    plan = plan_of(base)
    assert (plan.here, plan.world) == (4, 8)
    found = [environment(plan, local, meeting_of(plan)) for local in range(4)]
    assert [one["RANK"] for one in found] == ["4", "5", "6", "7"]
    assert [one["LOCAL_RANK"] for one in found] == ["0", "1", "2", "3"]
    assert {(one["WORLD_SIZE"], one["MASTER_ADDR"], one["NCCL_SOCKET_IFNAME"]) for one in found} == {
        ("8", "algo-1", "eth0")
    }
    assert {one["MASTER_PORT"] for one in found} == {"29500"}
    monkeypatch.setenv(MEETING, "127.0.0.1:40000")
    assert meeting_of(plan) == ("127.0.0.1", 40_000)


@pytest.mark.parametrize(
    "config", [{"hosts": ["algo-1"]}, {"hosts": ["algo-1"], "current_host": "algo-9"}, {}], ids=["no", "other", "empty"]
)
def test_a_malformed_cluster_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="current_host"):
        plan_of(cluster(tmp_path, **config))


def test_a_malformed_number_of_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES, "two")
    with pytest.raises(InvalidInput, match="STEPFORGE_PROCESSES='two' must be a number"):
        plan_of(tmp_path)


@pytest.mark.parametrize("given", ["40000", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:many", ":1"])
def test_a_malformed_meeting_place_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEETING, given)
    with pytest.raises(InvalidInput, match="must be an address and a port"):
        meeting_of(Plan(here=1, host=0, hosts=("algo-1", "algo-2"), interface=None))


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = os.environ['RANK']\n{text}"]


def test_all_ranks_run_and_succeed_together(tmp_path: Path) -> None:
    assert launch(TWO, script(f"open(r'{tmp_path}/' + rank + os.environ['WORLD_SIZE'], 'w')")) == 0
    assert sorted(os.listdir(tmp_path)) == ["02", "12"]


def test_when_one_rank_fails_the_others_end_soon_and_its_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MOURNING_SECONDS", 0.2)
    started = time.monotonic()
    assert launch(TWO, script("time.sleep(60) if rank == '0' else sys.exit(7)")) == 7
    assert time.monotonic() - started < 20


def test_a_rank_that_is_killed_is_told_as_a_shell_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MOURNING_SECONDS", 0.2)
    assert launch(TWO, script("os.kill(os.getpid(), signal.SIGKILL) if rank == '1' else time.sleep(60)")) == 137


def test_sigterm_reaches_every_rank_and_the_slowest_may_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MOURNING_SECONDS", 0.0)
    text = f"""
def stop(*_):
    time.sleep(1.0 if rank == '0' else 0)
    open(r'{tmp_path}/stopped-' + rank, 'w')
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open(r'{tmp_path}/ready-' + rank, 'w')
time.sleep(60)
"""

    def terminate() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    assert launch(TWO, script(text)) == 143
    assert len(list(tmp_path.glob("stopped-*"))) == 2
