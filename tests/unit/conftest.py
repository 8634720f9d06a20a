"""What tests of following share, and of handlers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from stepforge.installation.assets import folder

from .following_fakes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a handler as Lambda does: a flat module, fresh, with lambdas/ on the path. Its logs stay the tests'."""
    monkeypatch.syspath_prepend(str(folder("lambdas")))
    names = {path.stem for path in folder("lambdas").glob("*.py")}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib.import_module("_runtime"), "_configure_logs", lambda service: None)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
