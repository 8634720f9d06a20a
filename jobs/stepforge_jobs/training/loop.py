"""The loop that every training stage runs in. A stage says what one step's gradient is; the rest is here.

A step is a pure function of (weights, optimiser, stage state, seed, step). No generator outlives it: each is seeded
anew from (seed, step), and so are the global ones of Python, numpy and torch. The learning rate and which records are
drawn are functions of the step alone, or of the stage's state. So a checkpoint holds weights, moments, the step and the
stage's state, and needs no scheduler, generators or cursor beside them: a restart from any checkpoint gives the same
bits on the same CPU as a run that nothing interrupted.
"""

from __future__ import annotations

import math
import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy
import torch
from torch import Tensor

from stepforge.contracts.metrics import SHOWN, TOKENS_PER_SECOND, Metric
from stepforge.contracts.work import Optimisation
from stepforge.errors import Diverged, InvalidInput
from stepforge_jobs.evaluation.sampling import seed_of
from stepforge_jobs.job import Interrupted, Job
from stepforge_jobs.training import clock
from stepforge_jobs.training.book import Book
from stepforge_jobs.training.ranks import Ranks, ranks
from stepforge_jobs.training.state import (
    Trained,
    TrainingState,
    better,
    go_back,
    restore,
    trained_parameters,
)

BETAS = (0.9, 0.95)
FINAL_LEARNING_RATE = 0.1
"""Share of the peak that the linear decay ends at."""

Values = dict[Metric, float]


@dataclass
class StepResult:
    """What a stage did in one step."""

    metrics: Values
    tokens: int
    """Tokens that the gradient is of; 0 where nothing could be learnt, and then no optimiser step is taken."""


class Stage(ABC):
    """What one kind of training is; a stage of its own kind inherits this and says what differs."""

    weight_decay: float = 0.0
    updates: int = 1
    """Optimiser steps in one step of the loop: a batch of rollouts may be learnt from more than once."""
    learning_rate_scale: float = 1.0
    """Times the schedule's rate."""
    splits: bool = False
    """Whether `backward` is written for several ranks: it goes over a rank's own rows and sums what it reports."""
    guarded: bool = False
    """Whether `after_probe` may refuse: only then a checkpoint is written before the first step too."""
    probe: Callable[[int], Values]
    """Costly measurements, taken at checkpoints and after the last step."""

    @abstractmethod
    def backward(self, step: int, update: int) -> StepResult:
        """Add the gradient of update `update` of step `step` (both 0-based) to the parameters."""

    def parameters(self) -> dict[str, Tensor]:
        """What is trained beside the network: kept in checkpoints, absent from the saved model."""
        return {}

    def after_probe(self, values: Values) -> bool:
        """Whether these weights may stay. Where not, those of the last probe that might come back.

        May change `values`, which is what the metrics of the step will say.
        """
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a restart must find again, as JSON; kept in each checkpoint's state.json under "stage"."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        del state


def train(job: Job, work: Optimisation, network: Any, stage: Stage) -> TrainingState:
    """Run the stage to its last step, from its newest checkpoint if any.

    Raises Interrupted after SIGTERM, DiskFull where a checkpoint finds no room, Diverged where a gradient is no
    number.
    """
    group = ranks()
    if group.world > 1 and not stage.splits:
        raise InvalidInput(f"{work.name!r} trains in one process, not in {group.world}: use an instance with one GPU")
    parameters = trained_parameters(network) | stage.parameters()
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=work.learning_rate, betas=BETAS, weight_decay=stage.weight_decay, fused=True
    )
    trained = Trained(parameters, optimiser)
    state = restore(job, trained, stage)
    with sigterm_noted() as stopping, closing(Book(job, work, state)) as book:
        for caution in work.cautions():
            job.progress.warn(f"{work.name}: {caution}")
        if stage.guarded and state.step == 0:
            book.keep(trained, state, stage)
        while state.step < work.steps:
            started, tokens = time.perf_counter(), state.tokens
            timed = clock.start()
            row = take_step(work, stage, trained, state)
            state.step += 1
            row |= timed.values(network, next(iter(parameters.values())).device)
            at_checkpoint = state.step % work.checkpoint_every == 0 or state.step == work.steps
            if at_checkpoint:
                row |= look_closer(job, stage, trained, state)
            row[Metric.SECONDS] = time.perf_counter() - started
            state.seconds += row[Metric.SECONDS]
            state.rows.append({"step": state.step, **{str(name): value for name, value in row.items()}})
            book.write(state.rows[-1])
            stop = group.any(stopping)
            if at_checkpoint or stop:
                check_together(group, trained)
                book.keep(trained, state, stage)
            shown = {str(name): row[name] for name in SHOWN if name in row}
            shown[TOKENS_PER_SECOND] = max(0, state.tokens - tokens) / row[Metric.SECONDS]
            job.progress.step(work.name, state.step, work.steps, **shown)
            if stop and state.step < work.steps:
                raise Interrupted(
                    f"SIGTERM after step {state.step} of {work.steps}: the checkpoint holds what was learnt"
                )
        book.finish()
    return state


def take_step(work: Optimisation, stage: Stage, trained: Trained, state: TrainingState) -> Values:
    """The optimiser steps of one batch; their metrics, of which the last update's stay."""
    rate = learning_rate(work, state.step) * stage.learning_rate_scale
    for group in trained.optimiser.param_groups:
        group["lr"] = rate
    # Dropout must not fall on the same places of every rank's rows.
    seed_everything(seed_of(work.seed, state.step, *([ranks().rank] if ranks().rank else [])))
    row: Values = {}
    for update in range(stage.updates):
        trained.optimiser.zero_grad(set_to_none=True)
        result = stage.backward(state.step, update)
        row |= {**result.metrics, Metric.LEARNING_RATE: rate}
        if result.tokens:
            with clock.clock().phase(Metric.OPTIMISER_SECONDS):
                ranks().sum_gradients(trained.parameters.values())
                norm = torch.nn.utils.clip_grad_norm_(trained.parameters.values(), work.gradient_norm)
                row[Metric.GRADIENT_NORM] = finite(float(norm), work, state.step)
                trained.optimiser.step()
        state.tokens += result.tokens
    return row


def finite(norm: float, work: Optimisation, step: int) -> float:
    """The gradient's norm. Raises Diverged where it is no number: AdamW would make all weights nan, for good."""
    if math.isfinite(norm):
        return norm
    raise Diverged(
        f"the gradient of {work.name!r} in step {step + 1} is {norm}: its loss or weights have left the numbers. Lower "
        f"learning_rate {work.learning_rate:g}, or lengthen warmup_steps {work.warmup_steps}; the checkpoints hold "
        "numbers"
    )


def look_closer(job: Job, stage: Stage, trained: Trained, state: TrainingState) -> Values:
    """Probe the weights, and take back those that the stage refuses."""
    values = stage.probe(state.step)
    if stage.after_probe(values):
        state.best = better(state.best, state.step, values.get(Metric.VALIDATION))
    else:
        go_back(job, trained, state)
        # All else was measured of weights that are gone, and would stand in the report as if it were the model's.
        values = {name: value for name, value in values.items() if name in (Metric.KL, Metric.KL_REFUSED)}
    state.accepted = state.step
    return values


def check_together(group: Ranks, trained: Trained) -> None:
    """Raises RuntimeError where the ranks' weights have come apart, before a checkpoint says that all is well."""
    if group.world == 1:
        return
    totals = group.gather([sum(float(p.detach().double().sum()) for p in trained.parameters.values())])
    if len({repr(total) for total in totals}) > 1:
        raise RuntimeError(f"the ranks' weights have come apart: their sums are {totals}")


def seed_everything(seed: int) -> None:
    """The global generators, which dropout and a user's verifier draw from."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def learning_rate(work: Optimisation, step: int) -> float:
    """Linear warm-up to the peak, times a linear decay to a tenth of it."""
    warm = min(1.0, (step + 1) / max(1, work.warmup_steps))
    decay = 1.0 - (1.0 - FINAL_LEARNING_RATE) * step / work.steps
    return work.learning_rate * warm * decay


@contextmanager
def sigterm_noted() -> Iterator[list[int]]:
    """A list that is empty until SIGTERM arrives. More of them change nothing: what is under way is finished."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, previous)
