"""The mends belong to one version of ministack."""

from __future__ import annotations

import errno
import importlib.metadata
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from stepforge.local.backend import VERSION, check_version
from stepforge.local.backend.functions import reap_idle_workers
from stepforge.local.backend.objects import persist_object


def test_another_version_of_ministack_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.5.34")
    with pytest.raises(RuntimeError, match=rf"is 1\.5\.34.*install ministack=={VERSION}"):
        check_version()


def test_the_version_that_is_installed_is_the_one_that_is_mended() -> None:
    check_version()


def test_an_object_that_could_not_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ministack.services.s3 as s3

    def no_space(path: str, data: object, text: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(s3, "DATA_DIR", str(tmp_path))
    persist_object("kept", "a", kept := {"body": b"bytes", "etag": "", "size": 5, "last_modified": ""})
    assert kept["body"] is None
    monkeypatch.setattr(s3, "_atomic_write", no_space)
    with pytest.raises(OSError, match="s3://kept/b could not be stored"):
        persist_object("kept", "b", {"body": b"bytes", "etag": "", "size": 5, "last_modified": ""})


def test_idle_handlers_end_the_first_of_a_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import ministack.core.lambda_runtime as runtime

    def worker(*, idle: float, in_use: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            in_use=in_use, last_used=time.time() - idle, _proc=None, _discard_tmpdir=lambda: None, idle=idle
        )

    pools = {"one": [worker(idle=400)], "two": [worker(idle=10), worker(idle=400, in_use=True), worker(idle=301)]}
    monkeypatch.setattr(runtime, "_workers", pools)
    assert reap_idle_workers(300) == 2
    assert {name: [found.idle for found in pool] for name, pool in pools.items()} == {"one": [], "two": [10, 400]}
