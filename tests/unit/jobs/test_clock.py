"""Where a step's time goes: phases, operations against torch's own count, and what a stage reports of itself."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch
from tests.support.prefixes import model, ragged
from tests.support.whole_step import ours
from torch.utils.flop_counter import FlopCounterMode

from stepforge.contracts.metrics import MEASURED, PHASES, Metric
from stepforge.contracts.work import Lora
from stepforge_jobs.training import clock as clock_module
from stepforge_jobs.training.clock import Clock, clock, costs, rate, start
from stepforge_jobs.training.models import Policy, with_lora
from stepforge_jobs.training.sharing import Sharing

CPU = torch.device("cpu")


def test_a_phase_inside_another_counts_for_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(clock_module, "_now", lambda: float(next(now)))
    made = Clock()
    with made.phase(Metric.REFERENCE_SECONDS), made.phase(Metric.FORWARD_SECONDS):
        pass
    for _ in range(3):
        with made.phase(Metric.FORWARD_SECONDS):
            pass
    with pytest.raises(ValueError, match="once"), made.phase(Metric.REWARD_SECONDS):
        raise ValueError("once")
    assert made.seconds == {Metric.REFERENCE_SECONDS: 1.0, Metric.FORWARD_SECONDS: 3.0, Metric.REWARD_SECONDS: 1.0}


@pytest.mark.parametrize("adapters", [False, True], ids=["all-weights", "adapters"])
def test_operations_of_matrix_products_are_those_that_torch_counts(adapters: bool) -> None:
    network, nothing = model(), None
    if adapters:
        of: Any = nothing
        network = with_lora(Policy(network, of, 256), Lora(r=2, dropout=0.0), seed=0).network
        network.enable_input_require_grads()
    tokens = 10
    with FlopCounterMode(display=False) as counter:
        network(input_ids=torch.arange(tokens)[None], use_cache=False).logits.sum().backward()
    attention = sum(n for kind, n in counter.get_flop_counts()["Global"].items() if "attention" in str(kind))
    body, head = costs(network)
    # Below the adapters' own inputs nothing needs a gradient, so what is counted is a little more.
    counted = counter.get_total_flops() - attention
    assert tokens * (body + head) == pytest.approx(counted, rel=0.05 if adapters else 1e-9)


def test_the_share_of_the_bound_is_needed_over_possible_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    timed = start()
    assert clock() is timed
    timed.seconds = {Metric.FORWARD_SECONDS: 1.0, Metric.BACKWARD_SECONDS: 3.0}
    timed.count(network, read=100, scored=40, pairs=600, whole=250)
    body, head = costs(network)
    needed = 100 * body + 40 * head + 12 * 2 * 32 * 600
    monkeypatch.setattr(clock_module, "rate", lambda *_: needed)
    values = timed.values(network, CPU)
    assert values[Metric.FLOP_SHARE] == pytest.approx(0.25)
    assert values[Metric.TOKEN_RATIO] == 2.5
    assert not any(name in start().values(network, CPU) for name in (Metric.FLOP_SHARE, Metric.TOKEN_RATIO))
    assert {*PHASES, Metric.FLOP_SHARE} < MEASURED


def test_the_rate_of_a_device_is_that_of_its_matrix_product() -> None:
    torch.set_num_threads(1)
    left, right = torch.ones(1_024, 256), torch.ones(256, 1_024)
    started = time.perf_counter()
    for _ in range(5):
        left @ right
    mean = 5 * 2 * 1_024 * 256 * 1_024 / (time.perf_counter() - started)
    assert 0.2 * mean < rate(256, CPU, 1) < 50 * mean


@pytest.mark.parametrize("share", [True, False], ids=["shared", "rows"])
def test_a_whole_step_says_where_its_time_went(share: bool) -> None:
    prompts = [[3, 4, 5] * 4] * 4 + [[3, 4, 5] * 6] * 4
    seconds, phases = ours(model(), (prompts, [[6, 7, 8]] * 8), 4, 1, share=share)
    assert set(phases) == {*map(str, PHASES)} - {Metric.OPTIMISER_SECONDS, Metric.RENEWAL_SECONDS}
    assert 0 < seconds < 60
    assert all(0 < value < 60 for value in phases.values())
    ratio = clock().values(model(), CPU)[Metric.TOKEN_RATIO]
    assert ratio > 1.5 if share else ratio == 1.0


@pytest.mark.parametrize("share", [True, False], ids=["shared", "rows"])
def test_a_step_is_counted_as_what_its_passes_read_score_and_attend_to(
    monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    counted: Counter[str] = Counter()
    monkeypatch.setattr(Clock, "count", lambda _self, _network, **numbers: counted.update(numbers))
    prompts, completions = rows = ragged(3)
    list(Sharing(wanted=share).parts(model(), *rows, temperature=1.0, device=CPU))
    inputs = [p + c[:-1] for p, c in zip(*rows, strict=True)]
    # Each token attends to all before it and to itself; a token is its beginning, where those are computed once.
    stems = {(tuple(p[: n + 1]), ()) for p in prompts for n in range(len(p))}
    tails = {(tuple(p), tuple(c[: n + 1])) for p, c in zip(*rows, strict=True) for n in range(len(c) - 1)}
    lasts = {(tuple(p), tuple(c[:n])) for p, c in zip(*rows, strict=True) for n in range(len(c))}
    lengths = [len(p) + len(c) for p, c in stems | tails] if share else [n + 1 for i in inputs for n in range(len(i))]
    scored = len(lasts) if share else sum(map(len, completions))
    whole = sum(map(len, inputs))
    assert counted == {"read": len(lengths), "scored": scored, "pairs": sum(lengths), "whole": whole}
    assert (whole > len(lengths)) == share
