"""One local AWS for all functional tests, in a folder of its own, so that a developer's is left alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepforge.local import LocalAws, down, ensure_up


@pytest.fixture(scope="session")
def local_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stepforge-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def local_aws(local_home: Path) -> Iterator[LocalAws]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPFORGE_HOME", str(local_home))
        patch.setenv("STEPFORGE_LOCAL_STOP_SECONDS", "2")
        patch.setenv("STEPFORGE_LOCAL_PING_SECONDS", "10")
        try:
            yield ensure_up()
        finally:
            down()
