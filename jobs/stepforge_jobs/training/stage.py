"""What every training stage does around its loop: checked inputs, and an artifact that says how it was made."""

from __future__ import annotations

import copy
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeVar

import stepforge
from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import Manifest, write_manifest
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record, Split
from stepforge.contracts.reports import StageReport
from stepforge.contracts.work import LocalModel, Optimisation
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.open_gate import require_open_gate
from stepforge_jobs.datasets.shards import read_records, write_durably
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.job import Job
from stepforge_jobs.training import models
from stepforge_jobs.training.distance import kl_of
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.state import METRICS, TrainingState, metrics_lines, settle
from stepforge_jobs.training.validation import Validation, held_out

PROBE_PROMPTS = 64
PROBE_COMPLETIONS = 8
PROBE_TOKENS = 64

Item = TypeVar("Item")


@dataclass
class Start:
    """What a stage begins with."""

    policy: Policy
    reference: Policy | None
    """The stage's initial policy, frozen. None where that is random weights, from which no distance means anything."""
    data: Manifest
    records: list[Record]
    """Without those that are held out."""
    held_out: list[Record]
    """Problems that this stage is never trained on."""
    validation: Validation
    say: Callable[[str], None] = lambda text: None
    """Tells whoever follows the job."""
    warn: Callable[[str], None] = lambda text: None
    """The same, of what may spoil the result."""


def begin(job: Job, work: Optimisation, *splits: Split) -> Start:
    """Check the data and the gate, read the records, make the policy. Raises InvalidInput where the gate is shut."""
    ranks()  # Joins the others first: a rank's GPU is chosen there.
    data = job.artifact("data")
    require_open_gate(job, data)
    problems = held_out(job, work, data)
    unseen = {record.id for record in problems}
    records = [record for record in read_records(job.channel("data"), data, *splits) if record.id not in unseen]
    policy = models.policy_of(job, data, seed=work.seed, lora=work.lora)
    keep_reference = isinstance(job.spec.model, LocalModel)
    reference = frozen(policy) if keep_reference and work.lora is None else None
    policy = models.with_lora(policy, work.lora, seed=work.seed)
    if keep_reference and work.lora is not None:
        reference = policy
    policy.network.train()
    job.progress.event("model", parameters=policy.parameters, device=str(policy.device))
    validation = Validation(job, work, policy, problems)
    return Start(
        policy=policy,
        reference=reference,
        data=data,
        records=records,
        held_out=problems,
        validation=validation,
        say=lambda text: job.progress.event("note", message=f"{work.name}: {text}"),
        warn=lambda text: job.progress.warn(f"{work.name}: {text}"),
    )


def frozen(policy: Policy) -> Policy:
    return replace(policy, network=copy.deepcopy(policy.network).eval().requires_grad_(False))


class Probe:
    """Exact KL to the initial policy, in nats: mean over the tokens of fixed-seed completions of the current policy.

    Completions are drawn at temperature 1 on prompts that the base already solves (`retained`), where staying close is
    wanted; on problems that it fails, a small distance would forbid success.
    """

    def __init__(self, start: Start, *, seed: int) -> None:
        self._policy = start.policy
        self._reference = start.reference
        self._validation = start.validation
        retained = [record for record in start.records if record.stratum == "retained"]
        self.prompts_of = "retained" if retained else "all training records"
        chosen = (retained or start.records)[:PROBE_PROMPTS]
        self._prompts = start.policy.asker.solutions(chosen)
        self._seed = seed
        self.watches: list[Callable[[int], Values]] = []
        """What else is measured when the probe is."""

    def __call__(self, step: int) -> Values:
        values = self._distance() | self._validation()
        for watch in self.watches:
            values |= watch(step)
        return values

    @property
    def choices(self) -> dict[str, Any]:
        """For the stage's report: whether and how the KL is measured, with the number of prompts that there are."""
        if self._reference is None:
            return {"kl_metric": "none: random weights are no policy to stay close to"}
        many = f"{len(self._prompts)} prompt{'s' if len(self._prompts) != 1 else ''} ({self.prompts_of})"
        return {
            "kl_metric": f"exact, nats a token, mean over {PROBE_COMPLETIONS} completions of each of {many}, at "
            f"temperature 1, cut after {PROBE_TOKENS} tokens",
            "kl_prompts": self.prompts_of,
        }

    def _distance(self) -> Values:
        if self._reference is None or not self._prompts:
            return {}
        given = self.completions(PROBE_COMPLETIONS, seed=self._seed)
        return {Metric.KL: kl_of(self._policy, self._reference, *given).per_token}

    def completions(self, count: int, *, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and completions of the current policy, `count` of each prompt."""
        policy = self._policy
        completions = sample(
            policy,
            self._prompts,
            count=count,
            max_new_tokens=PROBE_TOKENS,
            temperature=1.0,
            seed=seed,
            stops={policy.codec.eos},
        )
        return [prompt for prompt in self._prompts for _ in range(count)], completions


def draw(
    items: Sequence[Item], step: int, count: int, *, seed: int, runs: Sequence[Sequence[int]] | None = None
) -> list[Item]:
    """Items `step * count` and on of an endless sequence of shuffled passes over all items; a pure function.

    `runs` are places that stay side by side, of which all items must be part; where None each item is by itself.
    """
    chosen: list[Item] = []
    position = step * count
    while len(chosen) < count:
        epoch, offset = divmod(position, len(items))
        order = shuffled(runs or [[place] for place in range(len(items))], random.Random(f"{seed}:{epoch}"))
        taken = order[offset : offset + count - len(chosen)]
        chosen += [items[index] for index in taken]
        position += len(taken)
    return chosen


def shuffled(runs: Sequence[Sequence[int]], source: random.Random) -> list[int]:
    """The places of all runs; those of a run stay side by side."""
    mixed = list(runs)
    source.shuffle(mixed)
    return [place for run in mixed for place in run]


def fitting(policy: Policy, record: Record, prompt: Sequence[int], completion: Sequence[int]) -> None:
    """Raises InvalidInput for a record that is longer than the model's context."""
    if (length := len(prompt) + len(completion)) > policy.context:
        raise InvalidInput(
            f"record {record.id!r} has {length} tokens, but the model's context is {policy.context}: lengthen it"
        )


def finish(
    job: Job,
    work: Optimisation,
    type_: Literal["sft", "srl", "rlvr"],
    policy: Policy,
    state: TrainingState,
    choices: dict[str, Any],
) -> None:
    """On rank 0: write weights, tokenizer, metrics.jsonl, run.json, and the manifest last."""
    if not ranks().first:
        return
    parameters = policy.parameters
    choices = choices | settle(job, work, policy.network, state)
    models.save(policy, job.model_dir)
    last: dict[str, float] = {}
    for row in state.rows:
        last.update({name: value for name, value in row.items() if name != "step"})
    report = StageReport(
        spec_sha256=job.spec.identity,
        name=work.name,
        type=type_,
        steps=state.step,
        seconds=round(state.seconds, 3),
        parameters=parameters,
        tokens=state.tokens,
        parents=policy.parents,
        choices={**SHARED_CHOICES, **choices},
        versions=versions(),
        work=work.model_dump(mode="json"),
        metrics=last,
    )
    write_durably(job.model_dir / METRICS, metrics_lines(state.rows))
    write_durably(job.model_dir / models.RUN, canonical_json(report))
    # Whose rules judge the answers: those of the domain of that name, unless the user brought a verifier.
    verifier = job.spec.plugin.verifier if job.spec.plugin is not None else None
    of = {"stage": work.name, "type": type_, "domain": job.spec.domain}
    metadata = {**of, "verifier": verifier, "asking": policy.asking}
    write_manifest(job.model_dir, "model", metadata=metadata)


SHARED_CHOICES: dict[str, Any] = {
    "optimiser": "AdamW, betas .9 and .95",
    "schedule": "linear warm-up, times a linear decay from the first step towards a tenth",
    "precision": "float32 on CPU; bfloat16 autocast over float32 weights on CUDA",
}


def versions() -> dict[str, str]:
    """What ran: releases that decide bits."""
    found = {"python": platform.python_version(), "stepforge": stepforge.__version__}
    for name in ("torch", "transformers", "peft", "tokenizers", "cydifflib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
