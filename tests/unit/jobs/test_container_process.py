"""What the process of a container does beside its job: it gives up root, and says whether it is well."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stepforge.errors import InvalidInput
from stepforge_jobs import health
from stepforge_jobs.unprivileged import RUN_AS, drop_root


def in_child(action: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - the boundary of the process
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")
def test_root_is_given_up_for_good_and_what_a_job_writes_is_its_own(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0 and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    base = tmp_path / "ml"
    (base / "checkpoints" / "kept").mkdir(parents=True)
    (base / "checkpoints" / "kept" / "weights").write_text("w")
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (base / "model").mkdir()
    (base / "model" / "link").symlink_to(secret)

    def act() -> None:
        os.environ[RUN_AS] = "10001"
        assert drop_root(base)
        assert (os.getuid(), os.geteuid(), os.getgid(), os.getgroups()) == (10001, 10001, 10001, [])
        (base / "model" / "made").write_text("m")
        (base / "output" / "failure").write_text("f")
        (base / "checkpoints" / "kept" / "weights").write_text("again")
        for refused in (lambda: os.setuid(0), lambda: secret.read_text()):
            with pytest.raises(PermissionError):
                refused()

    assert in_child(act) == 0
    assert secret.stat().st_uid == 0, "what a link points at stays its owner's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked")
@pytest.mark.parametrize("given", ["0", "root", "-1"])
def test_a_user_that_is_no_number_or_root_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_AS, given)
    with pytest.raises(InvalidInput, match="must be the number of a user that is not root"):
        drop_root(tmp_path)


def test_outside_a_container_nobody_gives_up_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setenv(RUN_AS, "10001")
    assert drop_root() is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age", "healthy"), [(0.0, True), (59.0, True), (61.0, False)])
def test_a_job_is_well_while_its_heartbeat_is_fresh(tmp_path: Path, age: float, healthy: bool) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "heartbeat.json").write_text(json.dumps({"time": 1000.0}))
    assert health.job_health(tmp_path, now=1000.0 + age)[0] is healthy


def test_a_job_without_a_heartbeat_and_a_server_that_is_not_there_are_not_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "1")
    assert (health.main(["job"]), health.main(["serve"])) == (1, 1)
    said = capsys.readouterr().out
    assert "is no heartbeat yet" in said
    assert "/ping did not answer" in said
    with pytest.raises(InvalidInput, match="give 'job' or 'serve'"):
        health.main([])


def test_a_server_is_well_while_ping_answers_with_200() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert health.server_health(server.server_port) == (True, "/ping answered 200")
