"""The mends belong to one version of ministack."""

from __future__ import annotations

import importlib.metadata

import pytest

from stepforge.local.backend import VERSION, check_version


def test_another_version_of_ministack_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.5.34")
    with pytest.raises(RuntimeError, match=rf"is 1\.5\.34.*install ministack=={VERSION}"):
        check_version()


def test_the_version_that_is_installed_is_the_one_that_is_mended() -> None:
    check_version()
