"""The reliability gate: decides whether a dataset may be trained on, and writes gate.json.

A dataset that fails is a finding, not an error: the job succeeds and a reader of gate.json refuses. Structure is
checked on every record, the verifier's verdicts on a sample that is spread evenly over each split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import Manifest, check_files, write_manifest
from stepforge.contracts.records import TEST_SPLITS, Record
from stepforge.contracts.reports import GateFinding, GateReport
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.user_records import normalised
from stepforge.contracts.work import GateWork
from stepforge.errors import IntegrityError, InvalidInput
from stepforge_jobs.datasets.mutants import MUTATIONS
from stepforge_jobs.datasets.open_gate import GATE
from stepforge_jobs.datasets.shards import is_shard, read_lines, split_of, write_durably
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.domains.judging import FAILED, TIMEOUT, Asked, HereJudge, Judge, judge_of
from stepforge_jobs.domains.user import DOMAIN as EXACT
from stepforge_jobs.domains.user import domain_of
from stepforge_jobs.job import Job

MOST_FINDINGS = 50
GARBAGE = "\x01\x02 }{ zqx zqx zqx"
MOST_MUTANTS_ACCEPTED = 0.5
"""A verifier may find a mutant right by luck (yes/no answers), but not more often than not."""
ENOUGH_FAILED = 40
"""Calls that all failed, after which no more are made."""
ENOUGH_TIMEOUTS = 8
"""The same of calls that all took their whole time: so many are minutes."""
ENOUGH_EXPERTS = 8
"""Experts' solutions in a row at which the verifier failed, after which no more records are asked about."""
Told = Callable[[int, int, int], None]
"""Is told records audited, of how many, and calls in which the verifier itself failed."""


@dataclass
class Findings:
    """Collects findings of the checks, and how many records each looked at."""

    found: list[GateFinding] = field(default_factory=list)
    warnings: list[GateFinding] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)

    def add(self, check: str, record: str, rule: str, message: str) -> None:
        self.found.append(_finding(check, record, rule, message))

    def put_first(self, check: str, record: str, rule: str, message: str) -> None:
        """Before what follows from it: the first finding is the one that a refusal tells."""
        self.found.insert(0, _finding(check, record, rule, message))

    def warn(self, record: str, rule: str, message: str) -> None:
        self.warnings.append(GateFinding(check="verifier", record=record, rule=rule, message=message))


def _finding(check: str, record: str, rule: str, message: str) -> GateFinding:
    return GateFinding.model_validate({"check": check, "record": record, "rule": rule, "message": message})


def run(job: Job) -> None:
    """Write gate.json, bound to the dataset's manifest."""
    work = job.spec.work
    assert isinstance(work, GateWork)
    manifest = job.manifest("data")

    def told(done: int, of: int, failed: int) -> None:
        job.progress.step("gate", done, of, verifier_failures=failed)

    with judge_of(job) as judge:
        report = examine(job.channel("data"), manifest, domain_of(job), sample=work.sample, judge=judge, told=told)
    write_durably(job.model_dir / GATE, canonical_json(report))
    job.progress.event(
        "gate",
        passed=report.passed,
        findings=report.total_findings,
        refusal=report.refusal,
        warnings=[warning.message for warning in report.warnings],
    )
    write_manifest(job.model_dir, "gate", metadata={"passed": report.passed, "manifest_sha256": manifest.sha256})


def examine(
    folder: Path,
    manifest: Manifest,
    domain: Domain,
    *,
    sample: int,
    judge: Judge | None = None,
    told: Told = lambda *_: None,
) -> GateReport:
    """All checks of a dataset. Checks that need records are left out where those cannot be read.

    `judge` asks the domain's verifier; None asks it in this process.
    """
    findings = Findings()
    records = read_all(folder, manifest, findings)
    if not findings.found:
        check_smoke(manifest, records, findings)
        check_leaks(records, findings)
        check_traces(manifest, records, findings)
        audit_verifier(domain, records, findings, sample=sample, judge=judge or HereJudge(domain), told=told)
    return GateReport(
        manifest_sha256=manifest.sha256,
        passed=not findings.found,
        checked=dict(findings.checked),
        findings=tuple(findings.found[:MOST_FINDINGS]),
        total_findings=len(findings.found),
        warnings=tuple(findings.warnings),
    )


def read_all(folder: Path, manifest: Manifest, findings: Findings) -> list[Record]:
    """Integrity of each shard, schema of each record, and ids that differ."""
    records: list[Record] = []
    seen: set[str] = set()
    for entry in manifest.files:
        try:
            check_files(folder, manifest, only=[entry.path])
        except IntegrityError as error:
            findings.add("integrity", entry.path, "sha256", str(error))
            continue
        if not is_shard(entry.path):
            continue
        before = len(records)
        try:
            for record in read_lines(folder / entry.path, name=entry.path):
                records.append(record)
                if record.id in seen:
                    findings.add("schema", record.id, "unique-id", "another record has the same id")
                if record.split != split_of(entry.path):
                    findings.add("schema", record.id, "split", f"split {record.split!r} in the shard {entry.path}")
                seen.add(record.id)
        except InvalidInput as error:
            findings.add("schema", entry.path, "record", str(error))
        findings.checked["schema"] += len(records) - before
        findings.checked["integrity"] += 1
        if entry.rows is not None and entry.rows != len(records) - before:
            findings.add(
                "integrity", entry.path, "rows", f"{len(records) - before} records, but the manifest says {entry.rows}"
            )
    if not records and not findings.found:
        findings.add("empty", "manifest.json", "records", "the dataset has no records")
    return records


def check_smoke(manifest: Manifest, records: Sequence[Record], findings: Findings) -> None:
    """Something to train on, something to test on, and a vocabulary that covers every word."""
    splits = Counter(record.split for record in records)
    findings.checked["smoke"] = len(records)
    if not splits["train"] and not splits["rl"]:
        findings.add(
            "empty",
            "manifest.json",
            "training-split",
            f"neither 'train' nor 'rl' has records; there are {dict(splits)}",
        )
    if not any(splits[split] for split in TEST_SPLITS):
        message = f"no test split has records; there are {dict(splits)}: give about 30 groups or more, or set 'split'"
        findings.add("empty", "manifest.json", "test-split", message)
    vocabulary = frozenset(manifest.metadata.get("vocabulary", ()))
    if not vocabulary:
        return
    for record in records:
        unknown = [word for text in (record.prompt, record.solution) for word in text.split() if word not in vocabulary]
        if unknown:
            findings.add(
                "smoke",
                record.id,
                "vocabulary",
                f"the word {unknown[0]!r} is not in the vocabulary of {len(vocabulary)} words",
            )


def check_leaks(records: Sequence[Record], findings: Findings) -> None:
    """No prompt and no group of train or rl is tested on. Not covered: the corpus, whose authors may be wrong."""
    trained = [record for record in records if record.split in ("train", "rl")]
    prompts = {normalised(record.prompt): record.id for record in trained}
    groups = {record.group: record.id for record in trained}
    for record in records:
        if record.split not in TEST_SPLITS:
            continue
        findings.checked["leak"] += 1
        if (other := prompts.get(normalised(record.prompt))) is not None:
            findings.add(
                "leak", record.id, "prompt", f"its prompt in {record.split!r} is that of the training record {other!r}"
            )
        if (other := groups.get(record.group)) is not None:
            message = f"its group {record.group!r} in {record.split!r} is that of the training record {other!r}"
            findings.add("leak", record.id, "group", message)


def check_traces(manifest: Manifest, records: Iterable[Record], findings: Findings) -> None:
    """Every step ends with the step terminator and has it nowhere else."""
    step_end = manifest.metadata.get("step_end")
    for record in records:
        if not record.steps:
            continue
        findings.checked["trace"] += 1
        for number, step in enumerate(record.steps):
            words = step.action.split()
            if step_end is not None and (not words or words[-1] != step_end or step_end in words[:-1]):
                message = f"step {number} is {step.action!r}: it must end with {step_end!r} and have it nowhere else"
                findings.add("trace", record.id, "step-end", message)
                break
            if step_end is None and "\n" in step.action:
                findings.add("trace", record.id, "one-line", f"step {number} spans lines: a step is one line")
                break


def spread(records: Sequence[Record], most: int) -> list[Record]:
    """At most `most` records in equal shares of the splits, evenly spaced in each."""
    by_split: dict[str, list[Record]] = {}
    for record in records:
        by_split.setdefault(record.split, []).append(record)
    share = max(1, most // max(1, len(by_split)))
    return [
        part[i * len(part) // share] if len(part) > share else part[i]
        for part in by_split.values()
        for i in range(min(share, len(part)))
    ]


class Counted:
    """A judge that counts the calls in which the verifier itself failed. Empty completions reach no user's verifier."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.calls = 0
        self.failures: list[tuple[Record, str]] = []

    def verdicts(self, asked: Sequence[Asked]) -> list[Verdict]:
        """As the judge's own. Raises what it raises."""
        verdicts = self._judge.verdicts(asked)
        for (record, completion), verdict in zip(asked, verdicts, strict=True):
            if completion:
                self.calls += 1
                if verdict.reason.startswith(FAILED):
                    self.failures.append((record, verdict.reason))
        return verdicts

    @property
    def always_failed(self) -> bool:
        return 0 < self.calls == len(self.failures)

    @property
    def hopeless(self) -> bool:
        """Whether so many calls failed, and none did not, that more would only take time."""
        timeouts = sum(reason.startswith(TIMEOUT) for _, reason in self.failures)
        return self.always_failed and (self.calls >= ENOUGH_FAILED or timeouts >= ENOUGH_TIMEOUTS)


def audit_verifier(
    domain: Domain,
    records: Sequence[Record],
    findings: Findings,
    *,
    sample: int,
    judge: Judge,
    told: Told = lambda *_: None,
) -> None:
    """The verifier answers, accepts experts, refuses what is empty or garbage, and mutants more often than not.

    Careless authors (split `corpus`) need not be right, but what they write must be readable. A verifier that hangs
    takes its whole time at each call, so it is given up early.
    """
    name = f"{domain.name}@{domain.version}"
    strange = next((record for record in records if record.verifier != name), None)
    if strange is not None:
        message = f"it names the verifier {strange.verifier!r}, but {name!r} would judge it"
        findings.add("verifier", strange.id, "name", message)
        return
    chosen = spread(records, sample)
    counted = Counted(judge)
    mutants: dict[str, list[tuple[Record, bool]]] = {}
    answers: list[tuple[Record, bool]] = []
    in_a_row: list[tuple[Record, str]] = []
    """Experts' solutions at which the verifier failed since the last at which it did not."""
    for index, record in enumerate(chosen):
        told(index, len(chosen), len(counted.failures))
        if counted.hopeless or len(in_a_row) >= ENOUGH_EXPERTS:
            break
        findings.checked["verifier"] += 1
        try:
            verdict = audit_expert(counted, record, findings)
            if verdict is not None and verdict.reason.startswith(FAILED):
                in_a_row.append((record, verdict.reason))
                continue
            in_a_row = in_a_row if verdict is None else []
            audit_refusals(counted, record, findings)
            if not record.steps and record.answer is not None:
                (verdict,) = counted.verdicts([(record, record.answer)])
                answers.append((record, verdict.accepted))
            if record.split != "corpus":
                made = {kind: mutate(record, chosen, index) for kind, mutate in MUTATIONS.items()}
                there = {kind: mutant for kind, mutant in made.items() if mutant is not None}
                verdicts = counted.verdicts([(record, mutant) for mutant in there.values()])
                for kind, verdict in zip(there, verdicts, strict=True):
                    mutants.setdefault(kind, []).append((record, verdict.accepted))
        except ValueError as error:
            # A verifier raises nothing for bad text, so it is the record that it cannot read.
            findings.add("verifier", record.id, "scenario", f"{name} cannot read the record: {error}")
    told(findings.checked["verifier"], len(chosen), len(counted.failures))
    if counted.always_failed or len(in_a_row) >= ENOUGH_EXPERTS:
        record, reason = counted.failures[0] if counted.always_failed else in_a_row[0]
        where = f"in each of {counted.calls} calls"
        if not counted.always_failed:
            where = f"at the experts' solutions of {len(in_a_row)} records in a row"
        left = len(chosen) - findings.checked["verifier"]
        asked = f" ({left} of {len(chosen)} records were not asked about)" if left else ""
        message = (
            f"{name} failed {where}{asked}, here with {reason!r}: it must return a Verdict, a bool or a number from 0 "
            "to 1 for any text, 0 for one that it cannot read"
        )
        findings.put_first("verifier", record.id, "answers", message)
        return
    check_answers(domain, answers, findings)
    for kind, tried in mutants.items():
        accepted = [record for record, right in tried if right]
        if len(accepted) > MOST_MUTANTS_ACCEPTED * len(tried):
            message = f"{name} accepts {len(accepted)} of {len(tried)} solutions that were corrupted ({kind})"
            findings.add("verifier", accepted[0].id, f"refuses-{kind}", message)


def check_answers(domain: Domain, answers: Sequence[tuple[Record, bool]], findings: Findings) -> None:
    """A record's answer is right: a finding where the last line is compared with it, else a warning.

    A user's verifier may ask for another form, as in `The answer is 4`, or for a program whose output is the answer:
    a refusal would shut out what is sound.
    """
    refused = [record for record, accepted in answers if not accepted]
    if domain is EXACT:
        for record in refused:
            message = f"no last line can be its answer {record.answer!r}: give one line of text, or a verifier"
            findings.add("verifier", record.id, "answer", message)
    elif refused:
        message = (
            f"{refused[0].verifier} refuses the record's own answer {refused[0].answer!r}, as it does with "
            f"{len(refused)} of {len(answers)}: right only where a completion must have another form than the answer"
        )
        findings.warn(refused[0].id, "answer", message)


def audit_refusals(judge: Counted, record: Record, findings: Findings) -> None:
    """What is empty or garbage is refused. Raises what the verifier raises."""
    empty, garbage = judge.verdicts([(record, ""), (record, GARBAGE)])
    for rule, completion, verdict in (("refuses-empty", "", empty), ("refuses-garbage", GARBAGE, garbage)):
        if verdict.accepted:
            message = f"{record.verifier} accepts {completion!r}: it rewards anything"
            findings.add("verifier", record.id, rule, message)


def audit_expert(judge: Counted, record: Record, findings: Findings) -> Verdict | None:
    """The expert's solution is read, and not refused. None where there is none. Raises what the verifier raises."""
    if not record.steps:
        return None
    (verdict,) = judge.verdicts([(record, record.solution)])
    if verdict.reason:
        findings.add("trace", record.id, "readable", f"the solution cannot be read: {verdict.reason}")
    elif record.split != "corpus" and not verdict.accepted:
        rule, message = first_failure(verdict)
        findings.add("verifier", record.id, rule, f"{record.verifier} refuses the expert's solution: {message}")
    return verdict


def first_failure(verdict: Verdict) -> tuple[str, str]:
    failed = next((rule for rule in verdict.rules if rule.hard and rule.score < 1), None)
    if failed is None:
        return "accepted", "no hard rule says why"
    return failed.rule, failed.message or f"score {failed.score:g}"
