"""The dataset job: shards of records, then the manifest.

A shard is a pure function of (domain, seed, split, shard); finished ones are kept in the checkpoint folder, so that a
restart goes on after them. With the channel `records` the user's files take the place of the domain's generator. A job
that writes one part of a dataset has some shards in a row, under their own numbers.

Of several hosts each writes every n-th shard into its own model folder, which SageMaker puts together. The first host
hears from the others what they wrote and writes the manifest, which is the one that a single host writes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepforge.contracts.manifests import Manifest, describe_folder, joined, put_manifest
from stepforge.contracts.records import SPLITS, Record, Split
from stepforge.contracts.solutions import Solution, report_of
from stepforge.contracts.work import DatasetWork, PartOf
from stepforge.errors import InvalidInput
from stepforge_jobs import peers
from stepforge_jobs.datasets.shards import FOLDER, shard_bytes, shard_path, write_durably
from stepforge_jobs.datasets.user_records import read_user_records
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.domains.user import domain_of
from stepforge_jobs.job import Job
from stepforge_jobs.launch import Plan, plan_of

MOST_WORDS = 8_192
"""More different words than this are no vocabulary for a model that starts from scratch."""


def run(job: Job) -> None:
    """Write the dataset. Raises InvalidInput where there is nothing to write or a line is malformed."""
    work = job.spec.work
    assert isinstance(work, DatasetWork)
    domain = domain_of(job)
    plan = plan_of(job.base)
    solutions: list[Solution] = []
    if "records" in job.spec.inputs:
        if len(plan.hosts) > 1:
            raise InvalidInput(f"{len(plan.hosts)} hosts for records that one process reads: set instance_count to 1")
        manifest = job.artifact("records")
        name = f"{domain.name}@{domain.version}"
        records = read_user_records(
            job.channel("records"), manifest, domain=domain.name, verifier=name, solutions=solutions
        )
        vocabulary = domain.vocabulary or words_of(records)
        rows = write_user_shards(job, records, shard_rows=work.shard_rows)
    else:
        vocabulary = domain.vocabulary
        rows = write_generated_shards(job, domain, work, host=plan.host, hosts=len(plan.hosts))
    counts = {split: sum(n for path, n in rows.items() if path.startswith(f"{FOLDER}/{split}-")) for split in SPLITS}
    # A part may be empty: a domain may have fewer records than were asked for.
    if not sum(counts.values()) and work.part is None:
        raise InvalidInput(f"domain {domain.name!r} generates no records: give your own with --data")
    metadata: dict[str, Any] = {
        "domain": domain.name,
        "verifier": f"{domain.name}@{domain.version}",
        "vocabulary": list(vocabulary),
        "step_end": domain.step_end,
        "counts": counts,
    }
    if solutions:
        metadata["parsing"] = report_of(solutions).model_dump(mode="json")
        job.progress.event("parsing", **metadata["parsing"])
    mine = describe_folder(job.model_dir, "dataset", rows=rows)
    parts = [mine] if len(plan.hosts) == 1 else _parts_of_all(job, plan, mine)
    if parts is not None:
        put_manifest(job.model_dir, joined("dataset", parts, metadata=metadata))


def _parts_of_all(job: Job, plan: Plan, mine: Manifest) -> list[Manifest] | None:
    """What every host wrote, on the first one, once all have; None on the others."""
    said = peers.gather(plan, job.spec.identity, mine.model_dump(mode="json"))
    return None if said is None else [Manifest.model_validate(part) for part in said]


def planned(domain: Domain, work: DatasetWork) -> Iterator[tuple[Split, int, range]]:
    """Split, shard and row numbers of every shard."""
    wanted: dict[Split, int] = {"corpus": work.corpus, "train": work.train, "rl": work.rl}
    for split in SPLITS:
        size = domain.size(split)
        count = wanted.get(split, work.test)
        count = count if size is None else min(count, size)
        for shard, start in enumerate(range(0, count, work.shard_rows)):
            yield split, shard, range(start, min(start + work.shard_rows, count))


def part_of(plan: list[tuple[Split, int, range]], part: PartOf | None) -> list[tuple[Split, int, range]]:
    """The shards of one part: as many as of any other, or one fewer, in a row, so that parts put together are in order.

    >>> [len(part_of([("rl", shard, range(9)) for shard in range(5)], PartOf(number=n, of=3))) for n in range(3)]
    [1, 2, 2]
    """
    if part is None:
        return plan
    first, last = (number * len(plan) // part.of for number in (part.number, part.number + 1))
    return plan[first:last]


def write_generated_shards(
    job: Job, domain: Domain, work: DatasetWork, *, host: int = 0, hosts: int = 1
) -> dict[str, int]:
    """Rows of each shard of the dataset. Those of this host, every n-th, are written to the model folder."""
    plan = part_of(list(planned(domain, work)), work.part)
    own = plan[host::hosts]
    total = sum(len(indices) for _, _, indices in own)
    done = 0
    for split, shard, indices in own:
        path = shard_path(split, shard)
        if not _restored(job, path):
            records = [domain.record(split, index, seed=work.seed) for index in indices]
            _write(job, path, shard_bytes(records))
        done += len(indices)
        job.progress.step("dataset", done, total)
    return {shard_path(split, shard): len(indices) for split, shard, indices in plan}


def write_user_shards(job: Job, records: list[Record], *, shard_rows: int) -> dict[str, int]:
    """Records keep the order of the files within their split."""
    rows: dict[str, int] = {}
    for split in SPLITS:
        chosen = [record for record in records if record.split == split]
        for shard, start in enumerate(range(0, len(chosen), shard_rows)):
            part = chosen[start : start + shard_rows]
            path = shard_path(split, shard)
            _write(job, path, shard_bytes(part))
            rows[path] = len(part)
    job.progress.step("dataset", len(records), len(records))
    return rows


def words_of(records: list[Record]) -> tuple[str, ...]:
    """The whitespace-separated words of prompts and steps, sorted; empty where they are too many."""
    words = {word for record in records for text in (record.prompt, record.solution) for word in text.split()}
    return tuple(sorted(words)) if len(words) <= MOST_WORDS else ()


def _write(job: Job, path: str, data: bytes) -> None:
    kept = job.checkpoint_dir / path
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_durably(kept, data)
    write_durably(kept.with_suffix(".sha256"), hashlib.sha256(data).hexdigest().encode())
    _place(job, path, kept)


def _place(job: Job, path: str, kept: Path) -> None:
    target = job.model_dir / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kept, target)


def _restored(job: Job, path: str) -> bool:
    """Whether an earlier attempt had finished this shard; what is damaged is written anew."""
    kept = job.checkpoint_dir / path
    digest = kept.with_suffix(".sha256")
    if not (kept.is_file() and digest.is_file()):
        return False
    if hashlib.sha256(kept.read_bytes()).hexdigest() != digest.read_text():
        job.progress.event("warning", message=f"the kept shard {path} is damaged and is written anew")
        return False
    _place(job, path, kept)
    return True
