"""The loop that every training stage runs in. A stage says what one step's gradient is; the rest is here.

A step is a pure function of (weights, optimiser, stage state, seed, step). No generator outlives it: each is seeded
anew from (seed, step), and so are the global ones of Python, numpy and torch. The learning rate and which records are
drawn are functions of the step alone. So a checkpoint holds weights, moments, the step and the stage's state, and needs
no scheduler, generators or cursor beside them: a restart from any checkpoint gives the same bits on the same CPU as a
run that nothing interrupted.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from torch import Tensor

from stepforge.contracts.jobs import Optimisation
from stepforge.contracts.metrics import Metric
from stepforge.errors import IdentityConflict
from stepforge_jobs.evaluation.sampling import seed_of
from stepforge_jobs.job import Interrupted, Job
from stepforge_jobs.training.checkpoints import (
    checkpoint_path,
    newest_checkpoint,
    problem_of,
    tensor_chunks,
    tensors_of,
    write_checkpoint,
)
from stepforge_jobs.training.metrics_log import MetricsLog

BETAS = (0.9, 0.95)
FINAL_LEARNING_RATE = 0.1
"""Share of the peak that the linear decay ends at."""
WEIGHTS, MOMENTS, METRICS, STATE = "weights.safetensors", "optimiser.safetensors", "metrics.jsonl", "state.json"
BEST_RULE = "the checkpoint with the highest validation, the first of equals"

Values = dict[Metric, float]


@dataclass
class StepResult:
    """What a stage did in one step."""

    metrics: Values
    tokens: int
    """Tokens that the gradient is of; 0 where nothing could be learnt, and then no optimiser step is taken."""


class Stage(Protocol):
    weight_decay: float

    def backward(self, step: int) -> StepResult:
        """Add the gradient of step `step` (0-based) to the parameters."""
        ...

    def probe(self, step: int) -> Values:
        """Costly measurements, taken at checkpoints and after the last step."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A stage that remembers something from step to step, such as a controller. It lies in state.json as `stage`."""

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Best:
    """The best checkpoint so far, by BEST_RULE."""

    step: int
    validation: float


@dataclass
class TrainingState:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    """A line of metrics.jsonl each."""
    best: Best | None = None
    """None where no validation was measured."""


def train(job: Job, work: Optimisation, network: Any, stage: Stage) -> TrainingState:
    """Run the stage to its last step, from its newest checkpoint if any.

    Raises Interrupted after SIGTERM, DiskFull where a checkpoint finds no room.
    """
    trained = trained_parameters(network)
    optimiser = torch.optim.AdamW(
        trained.values(), lr=work.learning_rate, betas=BETAS, weight_decay=stage.weight_decay, fused=True
    )
    state = restore(job, trained, optimiser, stage)
    log = MetricsLog(job.checkpoint_dir, state.rows, warn=job.progress.warn)
    with sigterm_noted() as stopping, closing(log):
        while state.step < work.steps:
            started = time.perf_counter()
            row = take_step(work, stage, trained, optimiser, state)
            state.step += 1
            at_checkpoint = state.step % work.checkpoint_every == 0 or state.step == work.steps
            if at_checkpoint:
                row |= stage.probe(state.step)
                state.best = better(state.best, state.step, row)
            row[Metric.SECONDS] = time.perf_counter() - started
            state.seconds += row[Metric.SECONDS]
            state.rows.append({"step": state.step, **{str(name): value for name, value in row.items()}})
            log.append(state.rows[-1])
            if at_checkpoint or stopping:
                log.sync()
                keep(job, trained, optimiser, state, stage)
            shown = {str(name): row[name] for name in SHOWN if name in row}
            job.progress.step(work.name, state.step, work.steps, **shown)
            if stopping and state.step < work.steps:
                raise Interrupted(
                    f"SIGTERM after step {state.step} of {work.steps}: the checkpoint holds what was learnt"
                )
    return state


def trained_parameters(network: Any) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def better(best: Best | None, step: int, row: Values) -> Best | None:
    """The best checkpoint when that of `step` is among them."""
    value = row.get(Metric.VALIDATION)
    if value is None or (best is not None and value <= best.validation):
        return best
    return Best(step=step, validation=value)


SHOWN = (Metric.LOSS, Metric.REWARD, Metric.KL, Metric.ENTROPY)


def take_step(
    work: Optimisation, stage: Stage, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: TrainingState
) -> Values:
    """One optimiser step; its metrics."""
    rate = learning_rate(work, state.step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    seed_everything(seed_of(work.seed, state.step))
    optimiser.zero_grad(set_to_none=True)
    result = stage.backward(state.step)
    row = {**result.metrics, Metric.LEARNING_RATE: rate}
    if result.tokens:
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), work.gradient_norm)
        row[Metric.GRADIENT_NORM] = float(norm)
        optimiser.step()
    state.tokens += result.tokens
    return row


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


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────────


def keep(
    job: Job, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: TrainingState, stage: Stage
) -> None:
    """Write the checkpoint of this step."""
    moments: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            moments[f"{name}|{key}"] = value
    head = {
        "spec_sha256": job.spec.identity,
        "step": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "best": None if state.best is None else asdict(state.best),
        "stage": stage.state_dict() if isinstance(stage, Stateful) else None,
    }
    files = {
        WEIGHTS: tensor_chunks(trained),
        MOMENTS: tensor_chunks(moments),
        METRICS: [metrics_lines(state.rows)],
        STATE: [json.dumps(head).encode()],
    }
    write_checkpoint(job.checkpoint_dir, state.step, files, keep=() if state.best is None else {state.best.step})


def restore(job: Job, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, stage: Stage) -> TrainingState:
    """Put the newest valid checkpoint into weights, optimiser and stage. A fresh state where there is none."""
    found = newest_checkpoint(job.checkpoint_dir, warn=job.progress.warn)
    if found is None:
        return TrainingState()
    head = json.loads((found / STATE).read_bytes())
    if head["spec_sha256"] != job.spec.identity:
        raise IdentityConflict(
            f"{job.checkpoint_dir} holds a checkpoint of {head['spec_sha256']}, but this job is {job.spec.identity}"
        )
    put_weights(found / WEIGHTS, trained)
    for moment, value in tensors_of(found / MOMENTS):
        name, _, key = moment.rpartition("|")
        parameter = trained[name]
        optimiser.state[parameter][key] = value.to(parameter.device, copy=True)
    if isinstance(stage, Stateful):
        stage.load_state_dict(head["stage"])
    rows = [json.loads(line) for line in (found / METRICS).read_bytes().splitlines()]
    job.progress.event("resumed", step=head["step"])
    best = None if head["best"] is None else Best(**head["best"])
    return TrainingState(step=head["step"], tokens=head["tokens"], seconds=head["seconds"], rows=rows, best=best)


@torch.no_grad()
def put_weights(path: Path, trained: dict[str, Tensor]) -> None:
    for name, value in tensors_of(path):
        trained[name].copy_(value)


def settle(job: Job, work: Optimisation, network: Any, state: TrainingState) -> dict[str, Any]:
    """Put the weights that `work.keep` names into the network, which holds the last ones; what was chosen, and why."""
    chosen: dict[str, Any] = {"kept": "last"}
    if state.best is None:
        return chosen
    chosen |= {"best": asdict(state.best), "best_rule": BEST_RULE}
    if work.keep == "last" or state.best.step == state.step:
        return chosen | {"kept": work.keep}
    folder = checkpoint_path(job.checkpoint_dir, state.best.step)
    if problem := problem_of(folder):
        message = f"the best checkpoint, {folder.name}, is damaged ({problem}): the last weights are the model instead"
        job.progress.warn(message)
        return chosen | {"kept_because": message}
    put_weights(folder / WEIGHTS, trained_parameters(network))
    return chosen | {"kept": "best"}


def metrics_lines(rows: list[dict[str, float]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@contextmanager
def sigterm_noted() -> Iterator[list[int]]:
    """A list that is empty until SIGTERM arrives."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, previous)
