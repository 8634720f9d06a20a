"""Data, prices and a clock for tests of paid fine-tunes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.contracts.records import Record
from stepforge.economics.catalogue import ModelPrice
from stepforge.finetune import DatasetFile, Hyperparameters, TokenRange, TuneSpec
from stepforge.finetune.entries import Budgets
from stepforge.testing.providers import LocalOpenAI

PRICE = ModelPrice(
    kind="training_tokens", usd=Decimal(5), unit="1M tokens", as_of=date(2026, 11, 1), source="given in a test"
)
NOTHING = sha256(b"").hexdigest()
"""Digest of no held-out records."""
BUDGETS = Budgets(
    job_usd=Decimal(100), day_usd=Decimal(100_000), environment_usd=Decimal(100_000), approval_usd=Decimal(50)
)


class Clock:
    """Time that passes only where someone sleeps."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[LocalOpenAI]:
    with LocalOpenAI(delay_seconds=0.02) as running:
        assert isinstance(running, LocalOpenAI)
        yield running


def write_rows(folder: Path, *, rows: int = 12, text: str = "1 + 1 =") -> DatasetFile:
    line = json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "2"}]})
    data = (line + "\n").encode() * rows
    digest = sha256(data).hexdigest()
    (folder / f"{digest}.jsonl").write_bytes(data)
    tokens = TokenRange(low=1_000_000, high=1_100_000, method="a test")
    return DatasetFile(format="openai", method="sft", sha256=digest, bytes=len(data), rows=rows, tokens=tokens)


@pytest.fixture
def spec(tmp_path: Path) -> TuneSpec:
    """Costs 10 to 11 USD at PRICE."""
    return TuneSpec(
        provider="openai",
        environment="local",
        base_model="gpt-4.1-mini",
        method="sft",
        training=write_rows(tmp_path),
        hyperparameters=Hyperparameters(epochs=2),
    )


class QuickJudge:
    """The rules of `records`, in this process: who judges is tested once, with the judge itself."""

    def __init__(self, domain: str, verifier: str | None = None) -> None: ...

    def __enter__(self) -> QuickJudge:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, record: Record, completion: str) -> Any:
        return SimpleNamespace(reward=float(completion.split()[-1] == record.answer))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepforge.finetune.vertex_prompts.Judge", QuickJudge)
