"""The evaluation job: greedy and sampled completions on every test split, judged by the domain's verifier.

Writes rows.ndjson (a completion a line), summary.csv, evaluation.json, and previews of good and bad outputs. The same
inputs give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import write_manifest
from stepforge.contracts.records import TEST_SPLITS, Record, Split
from stepforge.contracts.reports import Decoding, EvaluationReport, RuleFailure, Score
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.work import EvaluateWork
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.shards import read_records, write_durably
from stepforge_jobs.domains.judging import Judge, judge_of
from stepforge_jobs.domains.user import domain_of
from stepforge_jobs.evaluation.bootstrap import interval, pass_at_k
from stepforge_jobs.evaluation.previews import write_previews
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.job import Job
from stepforge_jobs.training.models import Policy, from_artifact, use_threads

SLOW_SECONDS = 2.0
"""Of judging, after which its progress is said."""
READABLE = "readable"
"""Pseudo-rule in the failures: a completion that could not be read, or did not end."""


@dataclass(frozen=True)
class Row:
    """One completion of one record."""

    record: Record
    decoding: Decoding
    sample: int
    completion: str
    answer: str
    """What was judged of it: thoughts aside."""
    tokens: int
    verdict: Verdict

    @property
    def exact(self) -> bool | None:
        """Whether the completion is the expert's, word for word; None where the record has no solution."""
        wanted = self.record.solution or self.record.answer
        return None if not wanted else self.answer.split() == wanted.split()

    def line(self) -> dict[str, object]:
        return {
            "record": self.record.id,
            "split": self.record.split,
            "decoding": self.decoding,
            "sample": self.sample,
            "prompt": self.record.prompt,
            "completion": self.completion,
            "tokens": self.tokens,
            "accepted": self.verdict.accepted,
            "reward": self.verdict.reward,
            "partial": self.verdict.partial,
            "exact_match": self.exact,
            "failed_rules": [rule.rule for rule in self.verdict.rules if rule.score < 1],
            "reason": self.verdict.reason,
        }


def run(job: Job) -> None:
    """Evaluate the model of the channel `model`. Raises InvalidInput where no test split has records."""
    work = job.spec.work
    assert isinstance(work, EvaluateWork)
    domain = domain_of(job)
    data, model = job.artifact("data"), job.manifest("model")
    policy = from_artifact(job, step_end=data.metadata.get("step_end"))
    use_threads(policy.parameters)
    rows: list[Row] = []
    with judge_of(job) as judge:
        for split in TEST_SPLITS:
            records = read_records(job.channel("data"), data, split)[: work.limit]
            if records:
                rows += evaluate_split(job, work, policy, judge, split, records)
    if not rows:
        raise InvalidInput(f"no test split has records; the dataset has {data.metadata.get('counts')}")
    report = EvaluationReport(
        spec_sha256=job.spec.identity,
        model_sha256=model.sha256,
        manifest_sha256=data.sha256,
        scores=tuple(scores_of(rows, work)),
        rule_failures=tuple(failures_of(rows)),
        metadata={
            "domain": domain.name,
            "samples": work.samples,
            "temperature": 1.0,
            "rule_failures": "greedy decoding",
        },
    )
    listed = [row.line() for row in rows]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in listed)
    write_durably(job.model_dir / "rows.ndjson", lines.encode())
    write_durably(job.model_dir / "summary.csv", summary(report).encode())
    write_durably(job.model_dir / "evaluation.json", canonical_json(report))
    write_previews(domain, {row.record.id: row.record for row in rows}, listed, job.model_dir, seed=work.seed)
    write_manifest(job.model_dir, "evaluation", metadata={"model_sha256": model.sha256, "manifest_sha256": data.sha256})


def evaluate_split(
    job: Job, work: EvaluateWork, policy: Policy, judge: Judge, split: Split, records: Sequence[Record]
) -> list[Row]:
    """Greedy and sampled rows of one split, in the order of the records."""
    asker = policy.asker
    prompts = asker.solutions(records)
    rows: list[Row] = []
    decodings: tuple[tuple[Decoding, int, float], ...] = (("greedy", 1, 0.0), ("sampled", work.samples, 1.0))
    for decoding, count, temperature in decodings:

        def report(done: int, decoding: Decoding = decoding) -> None:
            job.progress.step(f"{split} {decoding}", done, len(prompts))

        completions = sample(
            policy,
            prompts,
            count=count,
            max_new_tokens=work.max_new_tokens,
            temperature=temperature,
            seed=work.seed,
            stops={policy.codec.eos},
            after_batch=report,
        )
        asked = [record for record in records for _ in range(count)]
        told = judging_told(job, f"{split} {decoding} judged")
        verdicts = verdicts_of(judge, asker, asked, completions, told=told)
        for index, (record, completion, verdict) in enumerate(zip(asked, completions, verdicts, strict=True)):
            text, answer = policy.codec.decode(completion), asker.answer(completion) or ""
            rows.append(Row(record, decoding, index % count, text, answer, len(completion), verdict))
    return rows


def judging_told(job: Job, stage: str) -> Callable[[int, int, int], None]:
    """Says how far judging is, from now on, where it is slow or the verifier fails: most verdicts come at once."""
    began = time.monotonic()

    def told(done: int, of: int, failed: int) -> None:
        if failed or time.monotonic() - began > SLOW_SECONDS:
            job.progress.step(stage, done, of, verifier_failures=failed)

    return told


def scores_of(rows: Sequence[Row], work: EvaluateWork) -> list[Score]:
    """Every metric of each split and decoding: the mean over a record's completions, then over records."""
    scores: list[Score] = []
    cells: dict[tuple[Split, Decoding], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.record.split, row.decoding][row.record.id].append(row)
    for (split, decoding), by_record in cells.items():
        values: dict[str, list[float]] = {
            "accepted": [mean(row.verdict.accepted for row in group) for group in by_record.values()],
            "reward": [mean(row.verdict.reward for row in group) for group in by_record.values()],
            "partial": [mean(row.verdict.partial for row in group) for group in by_record.values()],
        }
        exact = [mean(bool(row.exact) for row in group) for group in by_record.values() if group[0].exact is not None]
        if exact:
            values["exact_match"] = exact
        if decoding == "sampled":
            for k in sorted({*(2**i for i in range(work.samples.bit_length())), work.samples}):
                if k <= work.samples:
                    values[f"pass@{k}"] = [
                        pass_at_k(len(group), sum(row.verdict.accepted for row in group), k)
                        for group in by_record.values()
                    ]
        for metric, numbers in values.items():
            value = interval(numbers, resamples=work.bootstrap, seed=work.seed)
            scores.append(Score(split=split, decoding=decoding, metric=metric, value=value))
    return scores


def mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def failures_of(rows: Sequence[Row]) -> list[RuleFailure]:
    """How often each rule failed in greedy completions that could be read, and how many could not."""
    failed: dict[tuple[Split, str], int] = defaultdict(int)
    counts: dict[tuple[Split, str], int] = defaultdict(int)
    for row in rows:
        if row.decoding != "greedy":
            continue
        split = row.record.split
        counts[split, READABLE] += 1
        failed[split, READABLE] += bool(row.verdict.reason)
        for rule in row.verdict.rules:
            counts[split, rule.rule] += 1
            failed[split, rule.rule] += rule.score < 1
    return [RuleFailure(split=key[0], rule=key[1], failed=failed[key], count=count) for key, count in counts.items()]


def summary(report: EvaluationReport) -> str:
    """CSV of the scores, a line each."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["split", "decoding", "metric", "mean", "low", "high", "count"])
    for score in report.scores:
        value = score.value
        numbers = [f"{number:.6f}" for number in (value.mean, value.low, value.high)]
        writer.writerow([score.split, score.decoding, score.metric, *numbers, value.count])
    return stream.getvalue()
