"""The loop that every training stage runs in. A stage says what one step's gradient is; the rest is here.

A step is a pure function of (weights, optimiser, seed, step): no generator's state outlives it. So a restart from any
checkpoint gives the same bits on the same CPU as a run that nothing interrupted.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

from stepforge.contracts.jobs import Optimisation
from stepforge.contracts.metrics import Metric
from stepforge.errors import IdentityConflict
from stepforge_jobs.evaluation.sampling import seed_of
from stepforge_jobs.job import Interrupted, Job
from stepforge_jobs.training.checkpoints import newest_checkpoint, write_checkpoint

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


class Stage(Protocol):
    weight_decay: float

    def backward(self, step: int) -> StepResult:
        """Add the gradient of step `step` (0-based) to the parameters."""
        ...

    def probe(self, step: int) -> Values:
        """Costly measurements, taken at checkpoints and after the last step."""
        ...


@dataclass
class TrainingState:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    """A line of metrics.jsonl each."""


def train(job: Job, work: Optimisation, network: Any, stage: Stage) -> TrainingState:
    """Run the stage to its last step, from its newest checkpoint if any. Raises Interrupted after SIGTERM."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    optimiser = torch.optim.AdamW(
        trained.values(), lr=work.learning_rate, betas=BETAS, weight_decay=stage.weight_decay, fused=True
    )
    state = restore(job, trained, optimiser)
    with sigterm_noted() as stopping:
        while state.step < work.steps:
            started = time.perf_counter()
            row = take_step(work, stage, trained, optimiser, state)
            state.step += 1
            at_checkpoint = state.step % work.checkpoint_every == 0 or state.step == work.steps
            if at_checkpoint:
                row |= stage.probe(state.step)
            row[Metric.SECONDS] = time.perf_counter() - started
            state.seconds += row[Metric.SECONDS]
            state.rows.append({"step": state.step, **{str(name): value for name, value in row.items()}})
            if at_checkpoint or stopping:
                keep(job, trained, optimiser, state)
            shown = {str(name): row[name] for name in SHOWN if name in row}
            job.progress.step(work.name, state.step, work.steps, **shown)
            if stopping and state.step < work.steps:
                raise Interrupted(
                    f"SIGTERM after step {state.step} of {work.steps}: the checkpoint holds what was learnt"
                )
    return state


SHOWN = (Metric.LOSS, Metric.REWARD, Metric.ACCEPTED, Metric.KL, Metric.ENTROPY)


def take_step(
    work: Optimisation, stage: Stage, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: TrainingState
) -> Values:
    """One optimiser step; its metrics."""
    rate = learning_rate(work, state.step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    torch.manual_seed(seed_of(work.seed, state.step))
    optimiser.zero_grad(set_to_none=True)
    result = stage.backward(state.step)
    row = {**result.metrics, Metric.LEARNING_RATE: rate}
    if result.tokens:
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), work.gradient_norm)
        row[Metric.GRADIENT_NORM] = float(norm)
        optimiser.step()
    state.tokens += result.tokens
    return row


def learning_rate(work: Optimisation, step: int) -> float:
    """Linear warm-up to the peak, times a linear decay to a tenth of it."""
    warm = min(1.0, (step + 1) / max(1, work.warmup_steps))
    decay = 1.0 - (1.0 - FINAL_LEARNING_RATE) * step / work.steps
    return work.learning_rate * warm * decay


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────────


def keep(job: Job, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    moments: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            moments[f"{name}|{key}"] = value
    head = {"spec_sha256": job.spec.identity, "step": state.step, "tokens": state.tokens, "seconds": state.seconds}
    files = {
        "weights.safetensors": save({name: parameter.detach().contiguous() for name, parameter in trained.items()}),
        "optimiser.safetensors": save(moments),
        "metrics.jsonl": metrics_lines(state.rows),
        "state.json": json.dumps(head).encode(),
    }
    write_checkpoint(job.checkpoint_dir, state.step, files)


def restore(job: Job, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> TrainingState:
    """Put the newest valid checkpoint into weights and optimiser. A fresh state where there is none."""
    found = newest_checkpoint(job.checkpoint_dir, warn=lambda text: job.progress.event("warning", message=text))
    if found is None:
        return TrainingState()
    step, files = found
    head = json.loads(files["state.json"])
    if head["spec_sha256"] != job.spec.identity:
        raise IdentityConflict(
            f"{job.checkpoint_dir} holds a checkpoint of {head['spec_sha256']}, but this job is {job.spec.identity}"
        )
    weights, moments = load(files["weights.safetensors"]), load(files["optimiser.safetensors"])
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    for moment, value in moments.items():
        name, _, key = moment.rpartition("|")
        parameter = trained[name]
        optimiser.state[parameter][key] = value.to(parameter.device, copy=True)
    rows = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    job.progress.event("resumed", step=step)
    return TrainingState(step=step, tokens=head["tokens"], seconds=head["seconds"], rows=rows)


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
