"""The gate: every kind of bad data is refused, and the refusal names record and rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
from tests.support.job_folders import counting_plugin, job_folder, opened

from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import read_manifest, write_manifest
from stepforge.contracts.records import Record, Split, Step
from stepforge.contracts.reports import GateReport
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.work import DatasetWork, GateWork, ScratchModel, SftWork
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets import gate, generate
from stepforge_jobs.datasets.open_gate import require_open_gate
from stepforge_jobs.datasets.shards import shard_bytes
from stepforge_jobs.domains import judging
from stepforge_jobs.domains.user import DOMAIN, RecordsDomain
from stepforge_jobs.testing import CountingDomain

Records = dict[Split, list[Record]]


@pytest.fixture(scope="module")
def records() -> Records:
    domain = CountingDomain()
    counts: dict[Split, int] = {"corpus": 20, "train": 12, "rl": 10, "test_known": 8, "test_new": 8, "test_retained": 8}
    return {split: [domain.record(split, i, seed=0) for i in range(count)] for split, count in counts.items()}


def dataset(folder: Path, records: Records) -> Path:
    (folder / "records").mkdir(parents=True)
    for split, part in records.items():
        (folder / "records" / f"{split}-00000.jsonl").write_bytes(shard_bytes(part))
    metadata = {"vocabulary": list(CountingDomain.vocabulary), "step_end": ";"}
    write_manifest(
        folder, "dataset", metadata=metadata, rows={f"records/{s}-00000.jsonl": len(p) for s, p in records.items()}
    )
    return folder


def examined(folder: Path, records: Records) -> GateReport:
    path = dataset(folder, records)
    return gate.examine(path, read_manifest(path), CountingDomain(), sample=1_000)


def changed(records: Records, split: Split, index: int, /, **update: object) -> Records:
    part = list(records[split])
    part[index] = part[index].model_copy(update=update)
    return {**records, split: part}


def steps(*actions: str) -> tuple[Step, ...]:
    return tuple(Step(action=action) for action in actions)


def test_good_data_passes_and_the_report_says_what_was_looked_at(tmp_path: Path, records: Records) -> None:
    report = examined(tmp_path / "d", records)
    assert (report.passed, report.total_findings, report.refusal) == (True, 0, "")
    assert report.checked == {"schema": 66, "integrity": 6, "smoke": 66, "leak": 24, "trace": 56, "verifier": 66}


Corruption = Callable[[Records], Records]
CORRUPTIONS: dict[str, tuple[Corruption, str, str, str]] = {
    "leaked-prompt": (
        lambda r: changed(r, "test_known", 3, prompt=r["train"][0].prompt.upper()),
        "leak",
        "counting-test_known-3",
        "prompt",
    ),
    "group-of-known-kinds": (
        lambda r: changed(r, "test_known", 2, group=r["train"][1].group),
        "leak",
        "counting-test_known-2",
        "group",
    ),
    "leaked-group": (
        lambda r: changed(r, "test_new", 2, group=r["rl"][1].group),
        "leak",
        "counting-test_new-2",
        "group",
    ),
    "unknown-word": (lambda r: changed(r, "rl", 4, prompt="n1 sideways x2 :"), "smoke", "counting-rl-4", "vocabulary"),
    "no-terminator": (
        lambda r: changed(r, "train", 5, steps=steps("n1 ;", "n2")),
        "trace",
        "counting-train-5",
        "step-end",
    ),
    "early-terminator": (
        lambda r: changed(r, "corpus", 5, steps=steps("n1 ; n2 ;")),
        "trace",
        "counting-corpus-5",
        "step-end",
    ),
    "unreadable": (lambda r: changed(r, "corpus", 6, steps=steps("up ;")), "trace", "counting-corpus-6", "readable"),
    "wrong-expert": (lambda r: changed(r, "train", 7, steps=steps("n1 ;")), "verifier", "counting-train-7", ""),
    "other-verifier": (lambda r: changed(r, "rl", 0, verifier="counting@0"), "verifier", "counting-rl-0", "name"),
    "no-scenario": (lambda r: changed(r, "rl", 3, scenario={"start": "x"}), "verifier", "counting-rl-3", "scenario"),
    "twin": (lambda r: changed(r, "rl", 1, id="counting-rl-0"), "schema", "counting-rl-0", "unique-id"),
    "wrong-shard": (lambda r: changed(r, "rl", 2, split="test_known"), "schema", "counting-rl-2", "split"),
    "nothing-to-test": (
        lambda r: {s: p for s, p in r.items() if not s.startswith("test")},
        "empty",
        "manifest.json",
        "test-split",
    ),
    "nothing-to-train": (
        lambda r: {s: p for s, p in r.items() if s not in ("rl", "train")},
        "empty",
        "manifest.json",
        "training-split",
    ),
    "nothing": (lambda _r: {}, "empty", "manifest.json", "records"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_bad_data_is_refused_naming_record_and_rule(tmp_path: Path, records: Records, name: str) -> None:
    corrupt, check, record, rule = CORRUPTIONS[name]
    report = examined(tmp_path / "d", corrupt(records))
    assert not report.passed
    found = {(finding.check, finding.record, finding.rule if rule else "") for finding in report.findings}
    assert (check, record, rule) in found
    assert report.findings[0].record in report.refusal
    assert report.findings[0].rule in report.refusal


def test_a_flipped_byte_is_a_finding_that_names_the_shard(tmp_path: Path, records: Records) -> None:
    folder = dataset(tmp_path / "d", records)
    shard = folder / "records" / "train-00000.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"counting", b"countinG", 1))
    report = gate.examine(folder, read_manifest(folder), CountingDomain(), sample=10)
    assert [(f.check, f.record) for f in report.findings] == [("integrity", "records/train-00000.jsonl")]


def test_a_record_that_breaks_its_schema_is_named_by_shard_line_and_field(tmp_path: Path, records: Records) -> None:
    folder = dataset(tmp_path / "d", records)
    shard = folder / "records" / "rl-00000.jsonl"
    rows = shard.read_bytes().splitlines(keepends=True)
    rows[3] = rows[3].replace(b'"stratum":"target"', b'"stratum":"easy"')
    shard.write_bytes(b"".join(rows))
    write_manifest(folder, "dataset", rows={"records/rl-00000.jsonl": 10})
    (finding, *_) = gate.examine(folder, read_manifest(folder), CountingDomain(), sample=10).findings
    assert (finding.check, finding.rule) == ("schema", "record")
    assert "records/rl-00000.jsonl line 4: field 'stratum'" in finding.message


def accepting(kind: Callable[[Record, str], bool]) -> RecordsDomain:
    return RecordsDomain("counting", kind, version="1")


class AcceptsAll(CountingDomain):
    def verify(self, record: Record, completion: str) -> Verdict:
        return Verdict(accepted=True, reward=1, partial=1)


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        (AcceptsAll(), "refuses-empty"),
        (accepting(lambda _r, _t: True), "refuses-garbage"),
        (accepting(lambda _r, text: text.startswith("n")), "refuses-foreign"),
        (accepting(lambda r, text: r.solution.startswith(text) and bool(text)), "refuses-truncated"),
        (accepting(lambda r, text: sorted(r.solution.split()) == sorted(text.split())), "refuses-backwards"),
    ],
    ids=["all", "all-but-empty", "anything-readable", "half-done", "any-order"],
)
def test_a_verifier_that_accepts_what_is_wrong_fails_the_audit(
    tmp_path: Path, records: Records, domain: CountingDomain, rule: str
) -> None:
    path = dataset(tmp_path / "d", records)
    report = gate.examine(path, read_manifest(path), domain, sample=1_000)
    assert rule in {finding.rule for finding in report.findings if finding.check == "verifier"}


@pytest.mark.parametrize(("lucky", "passes"), [(5, True), (7, False)])
def test_a_verifier_may_accept_half_of_the_mutants_by_luck_and_no_more(
    tmp_path: Path, records: Records, lucky: int, passes: bool
) -> None:
    """Of each ten records, `lucky` are judged by whether the text is a record's solution at all."""
    solutions = {record.solution for part in records.values() for record in part}
    places = {record.id: place for part in records.values() for place, record in enumerate(part)}

    def check(record: Record, text: str) -> bool:
        return text in solutions if places[record.id] % 10 < lucky else text == record.solution

    ten = {split: part[:10] if split == "train" else [] for split, part in records.items()}
    found = gate.Findings()
    domain = accepting(check)
    gate.audit_verifier(domain, ten["train"], found, sample=100, judge=gate.HereJudge(domain))
    assert ("refuses-foreign" not in {finding.rule for finding in found.found}) is passes


def test_a_shard_without_the_rows_that_the_manifest_counts_is_a_finding(tmp_path: Path, records: Records) -> None:
    folder = dataset(tmp_path / "d", records)
    write_manifest(folder, "dataset", rows={"records/rl-00000.jsonl": 11})
    (finding,) = gate.examine(folder, read_manifest(folder), CountingDomain(), sample=10).findings
    assert (finding.check, finding.record, finding.rule) == ("integrity", "records/rl-00000.jsonl", "rows")
    assert finding.message == "10 records, but the manifest says 11"


# ── Records with answers alone ───────────────────────────────────────────────────────────────────────────────────


def audited(domain: RecordsDomain, *answers: str, told: gate.Told = lambda *_: None) -> gate.Findings:
    """What the audit finds of records with these answers and without steps."""
    template = CountingDomain().record("rl", 0, seed=0)
    name = f"{domain.name}@{domain.version}"
    asked = [
        template.model_copy(update={"id": f"r{n}", "prompt": f"p{n}", "answer": answer, "verifier": name})
        for n, answer in enumerate(answers)
    ]
    found = gate.Findings()
    gate.audit_verifier(domain, asked, found, sample=100, judge=gate.HereJudge(domain), told=told)
    return found


class TakesNothing:
    pass


def hangs(_record: Record, _text: str) -> Verdict:
    return Verdict(accepted=False, reward=0, partial=0, reason="timeout: the verifier took more than 10 s")


@pytest.mark.parametrize(
    ("function", "why"), [(TakesNothing, "verifier: TypeError"), (hangs, "timeout: ")], ids=["raises", "hangs"]
)
def test_a_verifier_that_fails_in_every_call_is_refused(function: Callable[[Record, str], bool], why: str) -> None:
    (finding,) = audited(accepting(function), "1", "2", "3").found
    assert (finding.check, finding.record, finding.rule) == ("verifier", "r0", "answers")
    assert f"failed in each of 9 calls, here with {why!r}"[:-1] in finding.message


def test_a_verifier_that_only_fails_is_not_asked_about_every_record() -> None:
    found = audited(accepting(TakesNothing), *map(str, range(500)))
    assert found.checked["verifier"] < 20
    assert [finding.rule for finding in found.found] == ["answers"]


def test_a_verifier_that_hangs_is_given_up_after_few_calls_and_the_gate_told_how_far_it_was() -> None:
    heard: list[tuple[int, int, int]] = []
    found = audited(accepting(hangs), *map(str, range(500)), told=lambda *given: heard.append(given))
    (finding,) = found.found
    assert "failed in each of 9 calls (97 of 100 records were not asked about)" in finding.message[:200]
    assert (heard[0], heard[1], heard[-1]) == ((0, 100, 0), (1, 100, 3), (3, 100, 9))


class HangsAt:
    """Judges as the counting domain does, and hangs at the solutions of these records."""

    def __init__(self, slow: Collection[str]) -> None:
        self.slow, self.hung = slow, 0

    def verdicts(self, asked: Sequence[gate.Asked], *, told: judging.Told | None = None) -> list[Verdict]:
        return [self.verdict(*each) for each in asked]

    def verdict(self, record: Record, text: str) -> Verdict:
        if record.id in self.slow and text == record.solution:
            self.hung += 1
            return hangs(record, text)
        return CountingDomain().verify(record, text)


def test_eight_experts_in_a_row_at_which_the_verifier_fails_end_the_audit_and_are_the_first_finding(
    tmp_path: Path, records: Records
) -> None:
    path = dataset(tmp_path / "d", records)
    slow = [record.id for record in records["train"]]

    def report(slow: Collection[str]) -> tuple[HangsAt, GateReport]:
        judge = HangsAt(slow)
        return judge, gate.examine(path, read_manifest(path), CountingDomain(), sample=1_000, judge=judge)

    judge, found = report(slow)
    assert judge.hung == 8
    assert found.checked["verifier"] < 66
    first = found.findings[0]
    assert (first.check, first.record, first.rule) == ("verifier", "counting-train-0", "answers")
    assert "failed at the experts' solutions of 8 records in a row" in first.message
    assert "were not asked about), here with 'timeout: " in first.message
    # One that the verifier can bear in between, and all are asked about.
    judge, found = report([*slow[:7], *slow[8:]])
    assert (judge.hung, found.checked["verifier"]) == (11, 66)
    assert {finding.rule for finding in found.findings} == {"readable"}


def test_a_verifier_that_fails_on_garbage_alone_is_not_refused() -> None:
    found = audited(accepting(lambda record, text: int(text) == int(record.answer or "")), "1", "2", "3")
    assert (found.found, found.warnings) == ([], [])


def test_an_answer_that_a_users_verifier_refuses_is_a_warning_for_it_may_want_another_form() -> None:
    found = audited(accepting(lambda record, text: text == f"it is {record.answer}"), "1", "2")
    assert found.found == []
    (warning,) = found.warnings
    assert (warning.record, warning.rule) == ("r0", "answer")
    assert "refuses the record's own answer '1', as it does with 2 of 2" in warning.message


def test_an_answer_that_no_last_line_can_be_is_refused_where_lines_are_compared() -> None:
    found = audited(DOMAIN, "1", "2\n3", " 4 ")
    assert found.warnings == []
    assert [(finding.record, finding.rule) for finding in found.found] == [("r1", "answer")]


def test_the_sample_is_spread_over_all_splits(records: Records) -> None:
    chosen = gate.spread([record for part in records.values() for record in part], 30)
    assert {record.split for record in chosen} == set(records)
    assert len({record.id for record in chosen}) == len(chosen) == 30
    assert [r.id for r in chosen if r.split == "corpus"] == [f"counting-corpus-{i}" for i in (0, 4, 8, 12, 16)]


# ── What a training job makes of it ─────────────────────────────────────────────────────────────────────────────


def gate_artifact(folder: Path, report: GateReport) -> Path:
    folder.mkdir()
    (folder / gate.GATE).write_bytes(canonical_json(report))
    write_manifest(folder, "gate")
    return folder


def training_job(base: Path, data: Path, report: GateReport) -> None:
    plugin = counting_plugin(base / "plugin")
    shut = gate_artifact(base / "gate", report)
    job_folder(base / "job", SftWork(), start=ScratchModel(), plugin=plugin, data=data, gate=shut)
    require_open_gate(opened(base / "job"), read_manifest(data))


def test_training_on_data_that_failed_is_refused_naming_record_and_rule(tmp_path: Path, records: Records) -> None:
    data = dataset(tmp_path / "d", changed(records, "rl", 4, prompt="n1 sideways x2 :"))
    report = gate.examine(data, read_manifest(data), CountingDomain(), sample=100)
    with pytest.raises(InvalidInput, match="record 'counting-rl-4', smoke rule 'vocabulary': the word 'sideways'"):
        training_job(tmp_path / "t", data, report)


def test_the_gate_of_other_data_opens_nothing(tmp_path: Path, records: Records) -> None:
    other = examined(tmp_path / "other", records)
    data = dataset(tmp_path / "d", changed(records, "rl", 0, group="another"))
    with pytest.raises(InvalidInput, match=f"the gate is of the dataset {other.manifest_sha256}"):
        training_job(tmp_path / "t", data, other)


def test_the_job_succeeds_where_the_data_fails_and_says_so_in_its_artifact(tmp_path: Path, records: Records) -> None:
    plugin = counting_plugin(tmp_path / "plugin")
    data = dataset(tmp_path / "d", changed(records, "rl", 0, verifier="counting@0"))
    job_folder(tmp_path / "job", GateWork(), plugin=plugin, data=data)
    job = opened(tmp_path / "job")
    gate.run(job)
    report = GateReport.model_validate_json((job.model_dir / gate.GATE).read_bytes())
    assert not report.passed
    assert report.manifest_sha256 == read_manifest(data).sha256
    assert read_manifest(job.model_dir).metadata["passed"] is False


def test_a_generated_dataset_passes(tmp_path: Path) -> None:
    plugin = counting_plugin(tmp_path / "plugin")
    job_folder(tmp_path / "data", DatasetWork(domain="counting", corpus=50), plugin=plugin)
    job = opened(tmp_path / "data")
    generate.run(job)
    assert gate.examine(job.model_dir, read_manifest(job.model_dir), CountingDomain(), sample=500).passed
