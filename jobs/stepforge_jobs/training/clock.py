"""Where a step's time goes, and how near its gradient comes to what the device's matrix products allow.

One clock for the process, started anew by the loop at each step. A phase inside another counts for the outer one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from stepforge.contracts.metrics import Metric

Values = dict[Metric, float]
REPEATS = 5
"""Of the matrix product whose best time is taken for what the device can do."""
WIDE = 1_024
"""Rows of it: about a micro-batch's tokens."""


class Clock:
    def __init__(self) -> None:
        self.seconds: Values = {}
        self._inside = False
        self._needed = self._read = self._whole = 0.0

    @contextmanager
    def phase(self, metric: Metric) -> Iterator[None]:
        """Add the time of the block to `metric`, unless a phase is under way."""
        if self._inside:
            yield
            return
        self._inside = True
        started = _now()
        try:
            yield
        finally:
            self._inside = False
            self.seconds[metric] = self.seconds.get(metric, 0.0) + _now() - started

    def count(self, network: Any, *, read: int, scored: int, pairs: int, whole: int) -> None:
        """Of a forward pass whose gradient is taken: tokens that the network read, tokens among them whose logits were
        needed, pairs of them in attention, and tokens of the rows if each had its own copy of everything."""
        body, head = costs(network)
        config = network.config.get_text_config()
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        self._needed += read * body + scored * head + 12.0 * config.num_hidden_layers * width * pairs
        self._read += read
        self._whole += whole

    def values(self, network: Any, device: torch.device) -> Values:
        """Seconds of each phase; of a step with a gradient of rollouts also the share of the bound and the sharing."""
        found = dict(self.seconds)
        busy = found.get(Metric.FORWARD_SECONDS, 0.0) + found.get(Metric.BACKWARD_SECONDS, 0.0)
        if self._read and busy:
            hidden = network.config.get_text_config().hidden_size
            found[Metric.FLOP_SHARE] = self._needed / busy / rate(hidden, device, torch.get_num_threads())
            found[Metric.TOKEN_RATIO] = self._whole / self._read
        return found


_CLOCK = [Clock()]


def clock() -> Clock:
    """Of the step under way."""
    return _CLOCK[0]


def start() -> Clock:
    """A new one, for a new step."""
    _CLOCK[0] = Clock()
    return _CLOCK[0]


def costs(network: Any) -> tuple[float, float]:
    """Operations of matrix products, forward and backward: of a token that is read, and of one whose logits are made.

    2 a weight forward, 2 backward for what it was given, and 2 more where it learns. Embeddings are looked up.
    """
    head, embedding = (
        getattr(of, "weight", None) for of in (network.get_output_embeddings(), network.get_input_embeddings())
    )
    body = [p for p in network.parameters() if p.dim() > 1 and p is not head and p is not embedding]
    return sum(map(_operations, body)), _operations(head) if head is not None else 0.0


def _operations(weight: Tensor) -> float:
    return weight.numel() * (6.0 if weight.requires_grad else 4.0)


@lru_cache(maxsize=8)
def rate(hidden: int, device: torch.device, threads: int) -> float:
    """Operations a second of the device's matrix product of a layer's shape, the best of some; `threads` are those of
    torch, by which the answer is kept."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    left = torch.ones(WIDE, hidden, device=device, dtype=kind)
    right = torch.ones(hidden, 4 * hidden, device=device, dtype=kind)
    best = float("inf")
    for _ in range(REPEATS):
        started = _now()
        torch.mm(left, right)
        best = min(best, _now() - started)
    return 2.0 * left.numel() * right.shape[1] / best


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
