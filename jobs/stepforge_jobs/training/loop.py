"""The loop that every training stage runs in. A stage says what one step's gradient is; the rest is here.

A step is a pure function of (weights, optimiser, seed, step): no generator's state outlives it. So a restart from any
checkpoint gives the same bits on the same CPU as a run that nothing interrupted.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

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


class Stage:
    """What one kind of training is; a stage of its own kind inherits this and says what differs."""

    weight_decay: float = 0.0
    updates: int = 1
    """Optimiser steps in one step of the loop: a batch of rollouts may be learnt from more than once."""
    learning_rate_scale: float = 1.0
    """Times the schedule's rate."""
    guarded: bool = False
    """Whether `after_probe` may refuse: only then are accepted weights and moments held beside the current ones."""
    probe: Callable[[int], Values]
    """Costly measurements, taken at checkpoints and after the last step."""

    def backward(self, step: int, update: int) -> StepResult:
        """Add the gradient of update `update` of step `step` (both 0-based) to the parameters."""
        raise NotImplementedError

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
    trained |= stage.parameters()
    optimiser = torch.optim.AdamW(
        trained.values(), lr=work.learning_rate, betas=BETAS, weight_decay=stage.weight_decay, fused=True
    )
    state, accepted = restore(job, trained, optimiser, stage)
    with sigterm_noted() as stopping:
        while state.step < work.steps:
            started = time.perf_counter()
            row = take_step(work, stage, trained, optimiser, state)
            state.step += 1
            at_checkpoint = state.step % work.checkpoint_every == 0 or state.step == work.steps
            if at_checkpoint:
                row |= stage.probe(state.step)
                if not stage.after_probe(row):
                    assert accepted is not None, "a stage that refuses says that it is guarded"
                    put_back(accepted, trained, optimiser)
                elif stage.guarded:
                    accepted = tensors_of(trained, optimiser)
            row[Metric.SECONDS] = time.perf_counter() - started
            state.seconds += row[Metric.SECONDS]
            state.rows.append({"step": state.step, **{str(name): value for name, value in row.items()}})
            if at_checkpoint or stopping:
                # Weights that no probe has seen yet may be refused by the next, so those before them travel along.
                keep(job, trained, optimiser, state, stage, accepted=None if at_checkpoint else accepted)
            shown = {str(name): row[name] for name in SHOWN if name in row}
            job.progress.step(work.name, state.step, work.steps, **shown)
            if stopping and state.step < work.steps:
                raise Interrupted(
                    f"SIGTERM after step {state.step} of {work.steps}: the checkpoint holds what was learnt"
                )
    return state


SHOWN = (Metric.LOSS, Metric.REWARD, Metric.KL, Metric.ENTROPY)


def take_step(
    work: Optimisation, stage: Stage, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: TrainingState
) -> Values:
    """The optimiser steps of one batch; their metrics, of which the last update's stay."""
    rate = learning_rate(work, state.step) * stage.learning_rate_scale
    for group in optimiser.param_groups:
        group["lr"] = rate
    torch.manual_seed(seed_of(work.seed, state.step))
    row: Values = {}
    for update in range(stage.updates):
        optimiser.zero_grad(set_to_none=True)
        result = stage.backward(state.step, update)
        row |= {**result.metrics, Metric.LEARNING_RATE: rate}
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


PARTS = ("weights", "optimiser")
Tensors = dict[str, dict[str, Tensor]]
"""`weights` by name, and the moments of `optimiser` by name and key."""


def tensors_of(trained: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> Tensors:
    """A copy, on the CPU."""
    moments = {
        f"{name}|{key}": value
        for name, parameter in trained.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    return {
        "weights": {name: parameter.detach().to("cpu", copy=True).contiguous() for name, parameter in trained.items()},
        "optimiser": {name: value.to("cpu", copy=True) for name, value in moments.items()},
    }


def put_back(tensors: Tensors, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Weights and moments as `tensors_of` found them."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors["weights"][name])
    optimiser.state.clear()
    for moment, value in tensors["optimiser"].items():
        name, _, key = moment.rpartition("|")
        parameter = trained[name]
        optimiser.state[parameter][key] = value.to(parameter.device, copy=True)


def keep(
    job: Job,
    trained: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    state: TrainingState,
    stage: Stage,
    *,
    accepted: Tensors | None,
) -> None:
    head = {"spec_sha256": job.spec.identity, "step": state.step, "tokens": state.tokens, "seconds": state.seconds}
    head["stage"] = stage.state_dict()
    files = {f"{name}.safetensors": save(tensors) for name, tensors in tensors_of(trained, optimiser).items()}
    if accepted is not None:
        files |= {f"accepted-{name}.safetensors": save(tensors) for name, tensors in accepted.items()}
    files |= {"metrics.jsonl": metrics_lines(state.rows), "state.json": json.dumps(head).encode()}
    write_checkpoint(job.checkpoint_dir, state.step, files)


def restore(
    job: Job, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer, stage: Stage
) -> tuple[TrainingState, Tensors | None]:
    """Put the newest valid checkpoint into weights, optimiser and stage. A fresh state where there is none.

    Beside it the tensors to go back to, where the stage is guarded.
    """
    found = newest_checkpoint(job.checkpoint_dir, warn=lambda text: job.progress.event("warning", message=text))
    if found is None:
        return TrainingState(), tensors_of(trained, optimiser) if stage.guarded else None
    step, files = found
    head = json.loads(files["state.json"])
    if head["spec_sha256"] != job.spec.identity:
        raise IdentityConflict(
            f"{job.checkpoint_dir} holds a checkpoint of {head['spec_sha256']}, but this job is {job.spec.identity}"
        )
    put_back({name: load(files[f"{name}.safetensors"]) for name in PARTS}, trained, optimiser)
    stage.load_state_dict(head["stage"])
    accepted: Tensors | None = None
    if stage.guarded:
        before = "accepted-" if "accepted-weights.safetensors" in files else ""
        accepted = {name: load(files[f"{before}{name}.safetensors"]) for name in PARTS}
    rows = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    job.progress.event("resumed", step=step)
    state = TrainingState(step=step, tokens=head["tokens"], seconds=head["seconds"], rows=rows)
    return state, accepted


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
