"""The dataset job: bytes that repeat, restarts, and the user's records."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.support import forked
from tests.support.job_folders import counting_plugin, job_folder, opened

from stepforge.contracts.manifests import check_files, read_manifest, write_manifest
from stepforge.contracts.records import Record, Split
from stepforge.contracts.work import DatasetWork, PartOf
from stepforge.errors import IntegrityError, InvalidInput
from stepforge.machines.assembly import joined_manifest, renumbered
from stepforge_jobs import peers
from stepforge_jobs.datasets import generate
from stepforge_jobs.datasets.shards import read_records
from stepforge_jobs.datasets.user_records import read_user_records, split_for
from stepforge_jobs.domains import load_object
from stepforge_jobs.domains.user import RecordsDomain, exact_answer
from stepforge_jobs.launch import MEETING, Plan, free_port
from stepforge_jobs.testing import CountingDomain

SMALL = DatasetWork(domain="counting", corpus=45, train=12, rl=20, test=10, shard_rows=20)


def generated(base: Path, work: DatasetWork = SMALL) -> Path:
    if not (base / "plugin").exists():
        counting_plugin(base / "plugin")
    job_folder(base / "job", work, plugin=base / "plugin")
    job = opened(base / "job")
    generate.run(job)
    return job.model_dir


def lines(folder: Path, *rows: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_manifest(folder, "records")
    return folder


def read(folder: Path) -> list[Record]:
    return read_user_records(folder, read_manifest(folder), domain="records", verifier="records@1")


def test_the_same_work_gives_the_same_manifest_and_shards_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    first, second = generated(tmp_path / "a"), generated(tmp_path / "b")
    manifest = read_manifest(first)
    assert manifest.sha256 == read_manifest(second).sha256
    assert {e.path: e.rows for e in manifest.files if "corpus" in e.path} == {
        "records/corpus-00000.jsonl": 20,
        "records/corpus-00001.jsonl": 20,
        "records/corpus-00002.jsonl": 5,
    }
    assert manifest.metadata["counts"]["train"] == 12
    assert manifest.metadata["step_end"] == ";"
    assert tuple(manifest.metadata["vocabulary"]) == CountingDomain.vocabulary


def test_a_longer_dataset_keeps_the_shards_of_a_shorter_one(tmp_path: Path) -> None:
    short = read_manifest(generated(tmp_path / "a"))
    long = read_manifest(generated(tmp_path / "b", SMALL.model_copy(update={"corpus": 65})))
    digests = {entry.path: entry.sha256 for entry in long.files}
    assert all(digests[e.path] == e.sha256 for e in short.files if e.path != "records/corpus-00002.jsonl")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_put_together_are_the_dataset_of_one_job(tmp_path: Path, count: int) -> None:
    whole = read_manifest(generated(tmp_path / "whole"))
    works = [SMALL.model_copy(update={"part": PartOf(number=n, of=count)}) for n in range(count)]
    parts = [read_manifest(generated(tmp_path / str(n), work)) for n, work in enumerate(works)]
    assert all(part.files for part in parts)
    joined = joined_manifest(parts, [entry for _, _, entry in renumbered(parts)])
    assert joined.sha256 == whole.sha256


def test_a_part_of_a_domain_with_fewer_records_than_were_asked_for_may_be_empty(tmp_path: Path) -> None:
    work = SMALL.model_copy(update={"corpus": 10**9, "train": 0, "rl": 0, "test": 0})
    assert work.shards == 10**9 / 20
    shards = [*generate.planned(CountingDomain(), SMALL)]
    assert [generate.part_of(shards[:1], PartOf(number=n, of=2)) for n in range(2)] == [[], shards[:1]]


def test_a_restart_goes_on_after_the_finished_shards_and_mends_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_manifest(generated(tmp_path / "a"))
    made: list[tuple[str, int]] = []
    crashing = [("rl", 5)]
    original = CountingDomain.record

    def record(self: CountingDomain, split: Split, index: int, *, seed: int) -> Record:
        if (split, index) in crashing:
            raise KeyboardInterrupt
        made.append((split, index))
        return original(self, split, index, seed=seed)

    monkeypatch.setattr(CountingDomain, "record", record)
    with pytest.raises(KeyboardInterrupt):
        generated(tmp_path / "b")
    kept = next((tmp_path / "b" / "job" / "checkpoints").rglob("corpus-00001.jsonl"))
    kept.write_bytes(kept.read_bytes()[:-9])
    crashing.clear()
    made.clear()
    assert read_manifest(generated(tmp_path / "b")).sha256 == whole.sha256
    assert {index for split, index in made if split == "corpus"} == set(range(20, 40))
    assert not [split for split, _ in made if split == "train"]


def test_one_flipped_byte_is_found_and_its_shard_named(tmp_path: Path) -> None:
    folder = generated(tmp_path)
    shard = folder / "records" / "rl-00000.jsonl"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"rl-00000\.jsonl has SHA-256"):
        check_files(folder, read_manifest(folder))


def test_records_come_back_from_their_shards_as_the_domain_made_them(tmp_path: Path) -> None:
    folder = generated(tmp_path)
    domain = CountingDomain()
    assert read_records(folder, read_manifest(folder), "train") == [
        domain.record("train", i, seed=0) for i in range(12)
    ]


# ── The user's records ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_short_record_is_filled_in_from_its_own_content(tmp_path: Path) -> None:
    folder = lines(
        tmp_path / "r",
        {"prompt": "1 + 1 =", "answer": 2},
        {"prompt": "2 + 2 =", "steps": ["four", "4"], "split": "train"},
    )
    sums, steps = read(folder)
    assert (sums.answer, sums.source, sums.verifier, sums.domain) == ("2", "user", "records@1", "records")
    assert sums.provenance.sha256 == read_manifest(folder).files[0].sha256
    assert sums.split in ("rl", "test_known")
    assert (steps.split, steps.solution) == ("train", "four\n4")
    assert sums.id.startswith("user-")
    assert sums.id != steps.id


def test_a_malformed_line_is_named_with_its_file_and_field(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(20)]
    rows[16] = {"prompt": 17, "answer": ["x"]}  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match=r"^records\.jsonl line 17: field 'answer': Input should be a valid string$"):
        read(lines(tmp_path / "r", *rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "2"}, "line 1: field 'prompt': Field required"),
        (
            {"prompt": "a", "answer": "2", "colour": 1},
            "line 1: field 'colour': no such field. There are: answer, artifact, ",
        ),
        ({"prompt": "a"}, "line 1: a record needs 'answer' or 'steps'"),
        ({"prompt": "a", "answer": "2", "split": "test"}, "line 1: field 'split'"),
        ({"prompt": "a", "answer": "2", "split": "train"}, "line 1: split 'train' needs steps"),
        ({"prompt": "a", "answer": "2", "verifier": "other@2"}, "line 1: field 'verifier': 'other@2'"),
    ],
    ids=["no-prompt", "unknown-field", "nothing-to-learn", "unknown-split", "train-without-steps", "other-verifier"],
)
def test_what_is_wrong_with_a_record_is_said(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(lines(tmp_path / "r", row))


def test_text_that_is_not_json_is_named_by_its_line(tmp_path: Path) -> None:
    folder = lines(tmp_path / "r", {"prompt": "a", "answer": "b"})
    (folder / "records.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": \n')
    write_manifest(folder, "records")
    with pytest.raises(InvalidInput, match=r"records\.jsonl line 2: Invalid JSON"):
        read(folder)


def test_duplicate_ids_and_empty_files_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "a", "answer": "b", "id": "x"}
    with pytest.raises(InvalidInput, match=r"line 2: field 'id': 'x' is already the id of records\.jsonl line 1"):
        read(lines(tmp_path / "r", row, row))
    with pytest.raises(InvalidInput, match="the records are empty"):
        read(lines(tmp_path / "empty"))


def test_an_added_record_moves_no_other_and_about_a_tenth_of_the_groups_is_tested_on() -> None:
    before = {f"g{i}": split_for(f"g{i}", has_steps=True) for i in range(4_000)}
    after = {f"g{i}": split_for(f"g{i}", has_steps=True) for i in range(-50, 4_050)}
    assert all(after[group] == split for group, split in before.items())
    share = sum(split == "test_known" for split in before.values()) / len(before)
    assert share == pytest.approx(0.1, abs=0.015)


def test_records_of_one_group_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} of {g}", "answer": "x", "group": f"g{g}"} for g in range(60) for i in range(3)]
    splits: dict[str, set[str]] = {}
    for record in read(lines(tmp_path / "r", *rows)):
        splits.setdefault(record.group, set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == {"rl", "test_known"}


def test_a_dataset_of_the_users_records_has_their_words_as_its_vocabulary(tmp_path: Path) -> None:
    rows = lines(tmp_path / "r", *({"prompt": f"say {w}", "steps": [w]} for w in ("red", "blue", "green")))
    job_folder(tmp_path / "job", SMALL, domain="records", code=None, records=rows)
    job = opened(tmp_path / "job")
    generate.run(job)
    manifest = read_manifest(job.model_dir)
    assert manifest.metadata["vocabulary"] == ["blue", "green", "red", "say"]
    assert sum(manifest.metadata["counts"].values()) == 3


def test_a_users_verifier_may_return_a_bool_a_number_or_fail(tmp_path: Path) -> None:
    record = CountingDomain().record("train", 0, seed=0)

    def verdict(function: object) -> tuple[bool, float, str]:
        found = RecordsDomain("mine", function, version="1").verify(record, "text")  # type: ignore[arg-type]
        return found.accepted, found.reward, found.reason

    assert verdict(lambda _record, text: text == "text") == (True, 1.0, "")
    assert verdict(lambda _record, _text: 0.25) == (False, 0.25, "")
    assert verdict(lambda _record, _text: {}["x"]) == (False, 0.0, "verifier: KeyError: 'x'")
    with pytest.raises(InvalidInput, match="a verifier returned 7"):
        verdict(lambda _record, _text: 7)


@pytest.mark.parametrize("returned", [None, "yes", "0.5", [1.0], float("nan"), 1.5, -0.5], ids=repr)
def test_what_is_no_verdict_is_named(returned: object) -> None:
    record = CountingDomain().record("train", 0, seed=0)
    domain = RecordsDomain("mine", lambda _record, _text: returned, version="1")  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidInput, match=f"a verifier returned {re.escape(repr(returned))}: it must return"):
        domain.verify(record, "text")


def test_a_verifier_that_exits_refuses_and_the_job_goes_on() -> None:
    record = CountingDomain().record("train", 0, seed=0)
    domain = RecordsDomain("mine", lambda _record, _text: sys.exit(0), version="1")
    assert domain.verify(record, "text").reason == "verifier: SystemExit: 0"


def test_without_a_verifier_the_last_line_must_be_the_answer() -> None:
    record = CountingDomain().record("train", 0, seed=0).model_copy(update={"answer": "42"})
    assert exact_answer(record, "because\n 42 ").accepted
    assert not exact_answer(record, "42\nor so").accepted


def on_hosts(base: Path, hosts: list[str], *, work: DatasetWork = SMALL) -> list[Path]:
    """Run one dataset job on several hosts, a process each, and return their folders."""
    counting_plugin(base / "plugin")
    pids = []
    address = f"127.0.0.1:{free_port()}"
    for host in hosts:
        folder = base / host
        job_folder(folder, work, plugin=base / "plugin")
        (folder / "input" / "config").mkdir(parents=True)
        cluster = {"hosts": hosts, "current_host": host, "network_interface_name": "lo"}
        (folder / "input" / "config" / "resourceconfig.json").write_text(json.dumps(cluster))
        pids.append(forked.fork(folder, prepare=lambda: os.environ.__setitem__(MEETING, address)))
    for pid, host in zip(pids, hosts, strict=True):
        assert forked.wait(pid) == 0, (base / host / "log.txt").read_text()
    return [base / host / "model" for host in hosts]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_any_number_of_hosts_writes_the_dataset_of_one_and_each_shard_once(tmp_path: Path, count: int) -> None:
    alone = generated(tmp_path / "alone")
    folders = on_hosts(tmp_path / "many", [f"algo-{number}" for number in range(1, count + 1)])
    whole = tmp_path / "whole"
    for folder in folders:
        for path in folder.rglob("*.json*"):
            target = whole / path.relative_to(folder)
            assert not target.exists(), f"{path} was written by two hosts"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    manifest = read_manifest(whole)
    assert manifest == read_manifest(alone)
    check_files(whole, manifest)
    assert [(folder / "manifest.json").exists() for folder in folders] == [True] + [False] * (count - 1)


def test_several_hosts_for_the_users_records_are_refused(tmp_path: Path) -> None:
    records = lines(tmp_path / "records", {"prompt": "1 + 1 =", "answer": "2"})
    job_folder(tmp_path / "job", SMALL, domain="records", code=None, records=records)
    (tmp_path / "job/input/config").mkdir(parents=True)
    cluster = {"hosts": ["algo-1", "algo-2"], "current_host": "algo-1"}
    (tmp_path / "job/input/config/resourceconfig.json").write_text(json.dumps(cluster))
    assert forked.run(tmp_path / "job") == 1
    failure = (tmp_path / "job/output/failure").read_text()
    assert "2 hosts for records that one process reads: set instance_count to 1" in failure, failure


def test_a_host_that_is_not_heard_of_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEETING, f"127.0.0.1:{free_port()}")
    for host, missing in ((0, "algo-2"), (1, "algo-1")):
        plan = Plan(here=1, host=host, hosts=("algo-1", "algo-2"), interface=None)
        with pytest.raises(TimeoutError, match=missing if host else "timed out|algo-2"):
            peers.gather(plan, "spec", {}, patience=0.2)


def test_sigterm_leaves_no_failure_and_the_next_attempt_goes_on(tmp_path: Path) -> None:
    work = DatasetWork(domain="counting", corpus=4_000, train=12, rl=20, test=10, shard_rows=20)
    counting_plugin(tmp_path / "plugin")
    job_folder(tmp_path / "job", work, plugin=tmp_path / "plugin")
    pid = forked.fork(tmp_path / "job")
    shards = tmp_path / "job" / "model" / "records"
    deadline = time.monotonic() + 60
    while len(list(shards.glob("corpus-*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert forked.wait(pid) == 143, (tmp_path / "job/log.txt").read_text()
    assert not (tmp_path / "job/output/failure").exists()
    assert not (tmp_path / "job/model/manifest.json").exists()
    # A shard is finished when its digest is written, a moment after itself.
    finished = (path.with_suffix(".jsonl") for path in (tmp_path / "job/checkpoints").rglob("corpus-*.sha256"))
    kept = {path.name: path.stat().st_mtime_ns for path in finished}
    assert 3 <= len(kept) < 200
    job_folder(tmp_path / "job", work, plugin=tmp_path / "plugin")
    assert forked.run(tmp_path / "job") == 0
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "job/checkpoints").rglob("corpus-*.jsonl")}
    assert {name: again[name] for name in kept} == kept, "what was finished is not written again"


@pytest.mark.parametrize(("source", "said"), [("exit(0)", "SystemExit: 0"), ("1 / 0", "ZeroDivisionError")])
def test_a_domain_that_ends_or_raises_when_it_is_imported_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "ending_domain.py").write_text(f"{source}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidInput, match=f"'ending_domain:DOMAIN' cannot be imported: {said}"):
        load_object("ending_domain:DOMAIN", object)
