"""How a tuned model does on held-out records: the same decodings, verdicts and scores as of our own models.

Answers are asked for first and judged afterwards, so that asking may stop at any time and go on elsewhere. Who judges
is given: the domain's `verify`. Metrics: `accepted`, `reward`, `partial`, each with a 95 % percentile bootstrap
interval over records. Not covered: pass@k (one sample of each record), users' verifiers outside their workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stepforge.contracts.base import Contract, canonical_json, digest
from stepforge.contracts.manifests import Manifest, write_manifest
from stepforge.contracts.records import Record
from stepforge.contracts.reports import Decoding, EvaluationReport, RuleFailure, Score
from stepforge.contracts.rewards import Verdict
from stepforge.errors import InvalidInput
from stepforge.finetune.job import Message, Tuned
from stepforge.finetune.personal import Personal, check_asked
from stepforge.finetune.provider import Provider
from stepforge.machines.champion import mean_interval

DECODINGS: tuple[tuple[Decoding, float], ...] = (("greedy", 0.0), ("sampled", 1.0))
RESAMPLES = 2_000
READABLE = "readable"
Verify = Callable[[Record, str], Verdict]


class Answer(Contract):
    """What a model said to one record."""

    record: str
    decoding: Decoding
    completion: str
    input_tokens: int
    output_tokens: int


def identity(tuned: Tuned) -> str:
    """What stands for the digest of weights that nobody shows us: of the provider, the job and the model."""
    return digest({"provider": tuned.provider, "job": tuned.job_id, "model": tuned.model})


def ask(
    provider: Provider,
    tuned: Tuned,
    records: Sequence[Record],
    *,
    system: str | None,
    max_tokens: int,
    start: int = 0,
    personal: Personal = "refuse",
) -> Iterator[Answer]:
    """Answers from the place `start` on, in order: for each record one of each decoding.

    Raises InvalidInput before the first is asked for where prompts hold personal data, unless they are to be kept.
    """
    check_asked(records, personal, system=system)
    asked = [(record, *decoding) for record in records for decoding in DECODINGS]
    first = [Message(role="system", content=system)] if system else []
    for record, decoding, temperature in asked[start:]:
        messages = [*first, Message(role="user", content=record.prompt)]
        found = provider.invoke(tuned, messages, max_tokens=max_tokens, temperature=temperature)
        yield Answer(
            record=record.id,
            decoding=decoding,
            completion=found.text,
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
        )


def write_evaluation(
    folder: Path,
    tuned: Tuned,
    records: Sequence[Record],
    answers: Sequence[Answer],
    verify: Verify,
    *,
    spec_sha256: str,
    manifest_sha256: str,
) -> tuple[Manifest, EvaluationReport]:
    """rows.ndjson, evaluation.json and a manifest, as an evaluation job writes them.

    Raises InvalidInput where there are no records.
    """
    if not records:
        raise InvalidInput("there are no held-out records: give some with a test split, test_new say")
    known = {record.id: record for record in records}
    judged = [(known[answer.record], answer, verify(known[answer.record], answer.completion)) for answer in answers]
    report = EvaluationReport(
        spec_sha256=spec_sha256,
        model_sha256=identity(tuned),
        manifest_sha256=manifest_sha256,
        scores=tuple(_scores(judged)),
        rule_failures=tuple(_failures(judged)),
        metadata={"provider": tuned.provider, "model": tuned.model, "samples": 1, "temperature": 1.0},
    )
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_line(*row), ensure_ascii=False) + "\n" for row in judged)
    (folder / "rows.ndjson").write_text("".join(lines), encoding="utf-8")
    (folder / "evaluation.json").write_bytes(canonical_json(report))
    about: dict[str, Any] = {"model_sha256": report.model_sha256, "manifest_sha256": manifest_sha256}
    return write_manifest(folder, "evaluation", metadata=about), report


_Judged = tuple[Record, Answer, Verdict]


def _line(record: Record, answer: Answer, verdict: Verdict) -> dict[str, Any]:
    return {
        "record": record.id,
        "split": record.split,
        "decoding": answer.decoding,
        "sample": 0,
        "prompt": record.prompt,
        "completion": answer.completion,
        "tokens": answer.output_tokens,
        "accepted": verdict.accepted,
        "reward": verdict.reward,
        "partial": verdict.partial,
        "failed_rules": [rule.rule for rule in verdict.rules if rule.score < 1],
        "reason": verdict.reason,
    }


def _scores(judged: Iterable[_Judged]) -> Iterator[Score]:
    cells: dict[tuple[Any, Decoding], list[Verdict]] = {}
    for record, answer, verdict in judged:
        cells.setdefault((record.split, answer.decoding), []).append(verdict)
    for (split, decoding), verdicts in cells.items():
        for metric in ("accepted", "reward", "partial"):
            values = [float(getattr(verdict, metric)) for verdict in verdicts]
            yield Score(split=split, decoding=decoding, metric=metric, value=mean_interval(values, resamples=RESAMPLES))


def _failures(judged: Iterable[_Judged]) -> Iterator[RuleFailure]:
    counts: dict[tuple[Any, str], list[bool]] = {}
    for record, answer, verdict in judged:
        if answer.decoding == "greedy":
            counts.setdefault((record.split, READABLE), []).append(bool(verdict.reason))
            for rule in verdict.rules:
                counts.setdefault((record.split, rule.rule), []).append(rule.score < 1)
    for (split, name), failed in counts.items():
        yield RuleFailure(split=split, rule=name, failed=sum(failed), count=len(failed))
