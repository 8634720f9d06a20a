"""What tests of following share."""

from __future__ import annotations

import pytest

from .following_fakes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
