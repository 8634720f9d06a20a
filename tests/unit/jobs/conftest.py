from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks this small are slower with more, and tests that run beside these want the other cores."""
    torch.set_num_threads(1)
