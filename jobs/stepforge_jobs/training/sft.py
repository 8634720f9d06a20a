"""Supervised fine-tuning: loss on whole expert trajectories and their end, mean over the batch's target tokens."""

from __future__ import annotations

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import SftWork
from stepforge.errors import InvalidInput
from stepforge_jobs.job import Job
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.loop import Stage, StepResult, Values, train
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.scoring import micro_batches, pick, score
from stepforge_jobs.training.stage import Probe, Start, begin, draw, finish, fitting


def run(job: Job) -> None:
    """Train on the split that the work names. Raises InvalidInput where it has no records."""
    work = job.spec.work
    assert isinstance(work, SftWork)
    start = begin(job, work, work.split)
    # What it learns to answer is the plain text of prompts.
    start.policy.asking = "plain"
    stage = SftStage(start, work)
    state = train(job, work, start.policy.network, stage)
    finish(job, work, "sft", start.policy, state, {"loss": "mean over target tokens", **stage.probe.choices})


class SftStage(Stage):
    weight_decay = 0.01
    splits = True
    probe: Probe

    def __init__(self, start: Start, work: SftWork) -> None:
        records = [record for record in start.records if record.steps]
        if not records:
            raise InvalidInput(f"split {work.split!r} has no records with steps: SFT reads expert trajectories")
        codec = start.policy.codec
        prompts = codec.contexts(record.context(0) for record in records)
        targets = codec.targets((record.solution for record in records), end=True)
        for record, prompt, target in zip(records, prompts, targets, strict=True):
            fitting(start.policy, record, prompt, target)
        self._rows = list(zip(prompts, targets, strict=True))
        self._policy = start.policy
        self._work = work
        self.probe = Probe(start, seed=work.seed)

    def backward(self, step: int, update: int) -> StepResult:
        """Gradient of the mean negative log-likelihood of a batch's target tokens."""
        rows = draw(self._rows, step, self._work.batch_size, seed=self._work.seed)
        prompts, targets = [row[0] for row in rows], [row[1] for row in rows]
        tokens = sum(len(target) for target in targets)
        policy, total = self._policy, 0.0
        lengths = [len(p) + len(t) for p, t in rows]
        for part in micro_batches(lengths, policy.network.config.vocab_size, device=policy.device):
            with clock().phase(Metric.FORWARD_SECONDS):
                scored = score(policy.network, pick(prompts, part), pick(targets, part), device=policy.device)
                loss = -scored.logps().sum() / tokens
            with clock().phase(Metric.BACKWARD_SECONDS):
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        (total,) = ranks().sum(total)
        metrics: Values = {Metric.LOSS: total, Metric.COMPLETION_TOKENS: tokens / len(rows)}
        return StepResult(metrics=metrics, tokens=tokens)
