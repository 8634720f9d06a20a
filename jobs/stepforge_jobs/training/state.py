"""What a training job must find again after a restart: how it goes into a checkpoint and comes back out of one.

Weights and moments go from their device to the disk a tensor at a time, and back the same way, so neither a checkpoint
nor a guarded stage, which goes back to accepted weights, holds a second copy of them in memory.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import Optimisation, PolicyGradient
from stepforge.errors import IdentityConflict, IntegrityError
from stepforge_jobs.job import Job
from stepforge_jobs.training.checkpoints import (
    checkpoint_path,
    newest_checkpoint,
    problem_of,
    tensor_chunks,
    tensors_of,
    write_checkpoint,
)
from stepforge_jobs.training.ranks import Ranks, ranks

WEIGHTS, MOMENTS, METRICS, STATE = "weights.safetensors", "optimiser.safetensors", "metrics.jsonl", "state.json"
BEST_RULE = "the checkpoint with the highest validation, the first of equals"


class Remembers(Protocol):
    """What this module needs of a stage."""

    guarded: bool

    def state_dict(self) -> dict[str, Any]: ...

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
    accepted: int = 0
    """The last step whose weights a probe accepted, or were put in the place of refused ones."""


@dataclass(frozen=True)
class Trained:
    """Where the tensors of a checkpoint come from and go to."""

    parameters: dict[str, Tensor]
    optimiser: torch.optim.Optimizer

    @property
    def moments(self) -> dict[str, Tensor]:
        """By parameter and key, `name|key`."""
        return {
            f"{name}|{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimiser.state.get(parameter, {}).items()
        }

    def put(self, checkpoint: Path) -> None:
        """Take the weights and moments of a checkpoint."""
        put_weights(checkpoint / WEIGHTS, self.parameters)
        self.optimiser.state.clear()
        for moment, value in tensors_of(checkpoint / MOMENTS):
            name, _, key = moment.rpartition("|")
            parameter = self.parameters[name]
            self.optimiser.state[parameter][key] = value.to(parameter.device, copy=True)

    def spread(self, group: Ranks) -> None:
        """Give rank 0's weights and moments to all."""
        kinds = group.same(lambda: {name: (value.shape, value.dtype) for name, value in self.moments.items()})
        if not group.first:
            self.optimiser.state.clear()
            for moment, (shape, dtype) in kinds.items():
                name, _, key = moment.rpartition("|")
                parameter = self.parameters[name]
                self.optimiser.state[parameter][key] = torch.empty(shape, dtype=dtype, device=parameter.device)
        moments = self.moments
        group.spread([*self.parameters.values(), *(moments[name] for name in kinds)])


def keep(job: Job, trained: Trained, state: TrainingState, stage: Remembers) -> None:
    """Write the checkpoint of this step. The best one stays too, and the one that a guard would go back to."""
    head = {
        "spec_sha256": job.spec.identity,
        "step": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "best": None if state.best is None else asdict(state.best),
        "accepted": state.accepted,
        "stage": stage.state_dict(),
    }
    files = {
        WEIGHTS: tensor_chunks(trained.parameters),
        MOMENTS: tensor_chunks(trained.moments),
        METRICS: [metrics_lines(state.rows)],
        STATE: [json.dumps(head).encode()],
    }
    needed = {state.accepted} if stage.guarded else set()
    if state.best is not None:
        needed.add(state.best.step)
    write_checkpoint(job.checkpoint_dir, state.step, files, keep=needed)


def restore(job: Job, trained: Trained, stage: Remembers) -> TrainingState:
    """Put the newest valid checkpoint into weights, optimiser and stage. A fresh state where there is none.

    Rank 0 reads it; another host may have no checkpoints.
    """
    group = ranks()
    state = group.same(lambda: _read(job, trained, stage))
    if group.world > 1:
        trained.spread(group)
        stage.load_state_dict(group.same(stage.state_dict))
    return state


def _read(job: Job, trained: Trained, stage: Remembers) -> TrainingState:
    while (found := newest_checkpoint(job.checkpoint_dir, warn=job.progress.warn)) is not None:
        head = json.loads((found / STATE).read_bytes())
        if head["spec_sha256"] != job.spec.identity:
            raise IdentityConflict(
                f"{job.checkpoint_dir} holds a checkpoint of {head['spec_sha256']}, but this job is {job.spec.identity}"
            )
        if found != checkpoint_path(job.checkpoint_dir, head["step"]):
            # Whole, but another's name: a guard would go back to the wrong weights by it.
            job.progress.warn(f"checkpoint {found.name} is damaged (it holds step {head['step']}): going back further")
            shutil.rmtree(found)
            continue
        accepted = checkpoint_path(job.checkpoint_dir, head["accepted"])
        if not stage.guarded or accepted == found or (problem := problem_of(accepted)) is None:
            break
        job.progress.warn(f"{found.name} needs {accepted.name}, which is damaged ({problem}): going back further")
        shutil.rmtree(found)
    if found is None:
        return TrainingState()
    trained.put(found)
    stage.load_state_dict(head["stage"])
    rows = [json.loads(line) for line in (found / METRICS).read_bytes().splitlines()]
    job.progress.event("resumed", step=head["step"])
    return TrainingState(
        step=head["step"],
        tokens=head["tokens"],
        seconds=head["seconds"],
        rows=rows,
        best=None if head["best"] is None else Best(**head["best"]),
        accepted=head["accepted"],
    )


def go_back(job: Job, trained: Trained, state: TrainingState) -> None:
    """Put back the weights and moments that a probe accepted last. Raises IntegrityError where they are damaged."""
    group = ranks()
    group.same(lambda: _put_accepted(job, trained, state))
    trained.spread(group)


def _put_accepted(job: Job, trained: Trained, state: TrainingState) -> None:
    folder = checkpoint_path(job.checkpoint_dir, state.accepted)
    if problem := problem_of(folder):
        raise IntegrityError(
            f"the weights of step {state.step} are refused, but those to go back to are damaged: {folder}: {problem}. "
            "Run the job again: it starts from the checkpoint before that"
        )
    trained.put(folder)


def better(best: Best | None, step: int, validation: float | None) -> Best | None:
    """The best checkpoint when that of `step` is among them."""
    if validation is None or (best is not None and validation <= best.validation):
        return best
    return Best(step=step, validation=validation)


def settle(job: Job, work: Optimisation, network: Any, state: TrainingState) -> dict[str, Any]:
    """Put the weights that `work.keep` names into the network, which holds the last ones; what was chosen, and why."""
    chosen: dict[str, Any] = {"kept": "last"} | ({"best_rule": BEST_RULE} if work.keep == "best" else {})
    if (message := all_refused(work, state)) is not None:
        job.progress.warn(f"{work.name}: {message}")
        return chosen | {"kept": "initial", "kept_because": message}
    if state.best is None:
        return chosen
    chosen |= {"best": asdict(state.best)}
    if work.keep == "last" or state.best.step == state.step:
        return chosen | {"kept": work.keep}
    folder = checkpoint_path(job.checkpoint_dir, state.best.step)
    if problem := problem_of(folder):
        message = f"the best checkpoint, {folder.name}, is damaged ({problem}): the last weights are the model instead"
        job.progress.warn(message)
        return chosen | {"kept_because": message}
    put_weights(folder / WEIGHTS, trained_parameters(network))
    return chosen | {"kept": "best"}


def all_refused(work: Optimisation, state: TrainingState) -> str | None:
    """What to say where the KL guard took back the weights of every evaluation; None where some stayed."""
    refused = [row for row in state.rows if Metric.KL_REFUSED in row]
    if not refused or any(Metric.KL in row and Metric.KL_REFUSED not in row for row in state.rows):
        return None
    assert isinstance(work, PolicyGradient)
    assert work.kl is not None
    evaluations = "the one evaluation" if len(refused) == 1 else f"all {len(refused)} evaluations"
    return (
        f"{evaluations} found the KL over the cap of {work.kl.cap:g} nats a token (the least was "
        f"{min(row[Metric.KL_REFUSED] for row in refused):.3g}), and the guard took the weights back: the weights are "
        f"the initial ones, nothing was learnt. Raise kl.cap, lower learning_rate {work.learning_rate:g}, or evaluate "
        f"more often than every {work.checkpoint_every} steps (checkpoint_every)"
    )


def trained_parameters(network: Any) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def put_weights(path: Path, parameters: dict[str, Tensor]) -> None:
    """Into these parameters; what the file has beside them, such as a value head, is left."""
    for name, value in tensors_of(path):
        if name in parameters:
            parameters[name].copy_(value)


def metrics_lines(rows: list[dict[str, float]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
