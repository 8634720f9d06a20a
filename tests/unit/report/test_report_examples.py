"""Examples in docstrings of the report run."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["html", "scales", "words", "sections_cost", "reproduce"])
def test_the_examples_in_docstrings_run(name: str) -> None:
    ran = doctest.testmod(import_module(f"stepforge.report.{name}"))
    assert ran.attempted > 0
    assert ran.failed == 0
