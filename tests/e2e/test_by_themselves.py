"""A dataset in parts and an evaluation by themselves, with real jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.homes import TINY, Home
from tests.support.small_model import write_small_model


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path / "home")
    yield found
    found.down()


def test_a_base_model_is_scored_on_a_dataset_that_was_made_in_parts(home: Home, tmp_path: Path) -> None:
    chosen = ("run", "dataset", "--domain", "facial", "--recipe", str(TINY), "--set", "dataset.test=3")
    made = home.cli(*chosen, "--parts", "2")
    assert made["result"]["counts"]["test_new"] == 3
    model = str(write_small_model(tmp_path / "model"))
    asked = ("run", "evaluate", model, "--on", made["run"], "--set", "evaluation.max_new_tokens=4")
    found = home.cli(*asked, "--set", "evaluation.samples=1")
    assert {(row["split"], row["records"]) for row in found["scores"]} == {
        ("test_known", 3), ("test_new", 3), ("test_retained", 3)}  # fmt: skip
    assert found["comparison"]["champion"] is None
