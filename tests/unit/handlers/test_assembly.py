"""The handlers of `evaluate`, `dataset` and `approve`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from stepforge.artifacts import read_manifest
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef, JobRequest, JobSpec
from stepforge.contracts.manifests import FileEntry, Manifest
from stepforge.contracts.names import Keys
from stepforge.contracts.records import SPLITS
from stepforge.contracts.requests import AssemblySpec, EvaluationSpec, SpecRef
from stepforge.contracts.work import WORK_TYPES, DatasetWork, PartOf
from stepforge.errors import AlgorithmError, IdentityConflict, IntegrityError, InvalidInput
from stepforge.machines.assembly import joined_manifest, read_spec, renumbered

from .conftest import BUCKET, IMAGE, KEY_ARN, outcome

Load = Callable[[str], ModuleType]
CODE = dict.fromkeys(WORK_TYPES, "c" * 64)


def source(letter: str) -> ArtifactRef:
    return ArtifactRef(uri=f"s3://{BUCKET}/raw/records/{letter}/", sha256=letter * 64)


@pytest.fixture
def prepared(load: Load, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Load:
    for name, value in {"BUCKET": BUCKET, "KEY_ARN": KEY_ARN, "ENVIRONMENT": "test", "TOPIC_ARN": "topic"}.items():
        monkeypatch.setenv(name, value)

    def ready(name: str, **clients: Any) -> ModuleType:
        module = load(name)
        module.client = lambda service: {"s3": s3, **clients}[service]  # type: ignore[attr-defined]
        return module

    return ready


def put(s3: Any, spec: AssemblySpec | EvaluationSpec, **more: str) -> dict[str, str]:
    key = f"pipelines/{spec.identity}.json"
    s3.put_object(Bucket=BUCKET, Key=key, Body=canonical_json(spec))
    return {"spec_uri": f"s3://{BUCKET}/{key}", "spec_sha256": spec.identity, **more}


def part(s3: Any, name: str, shards: dict[str, bytes], **metadata: Any) -> ArtifactRef:
    """What a part's job leaves."""
    import hashlib

    prefix = Keys.artifact(name)
    files = []
    for path, data in sorted(shards.items()):
        s3.put_object(Bucket=BUCKET, Key=prefix + path, Body=data)
        files.append(FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), rows=1))
    counts = {split: sum(f"records/{split}-" in path for path in shards) for split in SPLITS}
    plain = {"domain": "facial", "verifier": "v@1", "step_end": None, "vocabulary": [name], "counts": counts}
    manifest = Manifest(kind="dataset", files=tuple(files), metadata=plain | metadata)
    s3.put_object(Bucket=BUCKET, Key=prefix + "manifest.json", Body=canonical_json(manifest))
    return ArtifactRef(uri=f"s3://{BUCKET}/{prefix}", sha256=manifest.sha256)


def spec(*letters: str) -> AssemblySpec:
    return AssemblySpec(domain="facial", sources=tuple(map(source, letters)), code=CODE, image=IMAGE)


def test_a_source_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="is given twice"):
        spec("a", "b", "a")


GENERATED = DatasetWork(domain="facial", corpus=4_000, train=0, rl=0, test=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either `sources`"),
        ({"sources": (source("a"),), "generated": GENERATED}, "give either `sources`"),
        ({"sources": (source("a"),), "parts": 2}, "each of which is a part"),
        ({"generated": GENERATED, "parts": 3}, "parts 3 are more than its 2 shards of 2000 records"),
        ({"generated": GENERATED.model_copy(update={"domain": "castles"})}, "'castles' is not the domain 'facial'"),
        ({"generated": GENERATED.model_copy(update={"part": PartOf(number=0, of=2)})}, "leave it out, and set parts"),
    ],
    ids=["nothing", "both", "parts of sources", "too many", "another domain", "a part of a part"],
)
def test_a_dataset_has_one_origin_and_no_more_parts_than_shards(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AssemblySpec(domain="facial", code=CODE, image=IMAGE, **given)


def test_one_part_is_the_job_that_a_pipeline_begins_with_and_more_are_their_own() -> None:
    one, two = (AssemblySpec(domain="facial", generated=GENERATED, parts=n, code=CODE, image=IMAGE) for n in (1, 2))
    assert one.jobs == (JobSpec(domain="facial", work=GENERATED, code_sha256=CODE["dataset"]),)
    assert '"part"' not in one.jobs[0].model_dump_json()
    assert len({one.identity, two.identity, *(job.identity for job in (*one.jobs, *two.jobs))}) == 5
    again = two.model_copy(update={"code": {**CODE, "gate": "d" * 64}})
    assert again.identity != two.identity


def test_the_jobs_of_the_parts_are_listed_in_s3_and_their_specs_are_there(prepared: Load, s3: Any) -> None:
    assembly = spec("a", "b")
    planned = prepared("plan_parts").handler({"spec": put(s3, assembly), "run": "dataset-0123456789ab-r0"}, None)
    assert planned == {"bucket": BUCKET, "key": Keys.parts(assembly.identity), "count": 2}
    listed = json.loads(s3.get_object(Bucket=BUCKET, Key=planned["key"])["Body"].read())
    jobs = [JobRequest.model_validate(job) for job in listed]
    assert [job.channels["records"] for job in jobs] == [s.uri for s in assembly.sources]
    assert jobs[0].tags["stepforge:run"] == "dataset-0123456789ab-r0"
    for job in jobs:
        s3.head_object(Bucket=BUCKET, Key=job.spec_uri.removeprefix(f"s3://{BUCKET}/"))


def test_parts_are_joined_in_their_order_under_the_digests_of_their_jobs(prepared: Load, s3: Any) -> None:
    first = part(s3, "dataset-a", {"records/train-00000.jsonl": b"a0", "records/train-00001.jsonl": b"a1"})
    second = part(s3, "dataset-b", {"records/train-00000.jsonl": b"b0", "records/test_new-00000.jsonl": b"b1"})
    given = {"spec": put(s3, spec("a", "b")), "parts": [{"artifact": a.model_dump()} for a in (first, second)]}
    joined = prepared("join_parts").handler(given, None)
    dataset = ArtifactRef.model_validate(joined["dataset"])
    manifest = read_manifest(s3, dataset.uri, expected_sha256=dataset.sha256)
    read = {
        entry.path: s3.get_object(Bucket=BUCKET, Key=dataset.uri.removeprefix(f"s3://{BUCKET}/") + entry.path)["Body"]
        for entry in manifest.files
    }
    assert {path: body.read() for path, body in read.items()} == {
        "records/test_new-00000.jsonl": b"b1",
        "records/train-00000.jsonl": b"a0",
        "records/train-00001.jsonl": b"a1",
        "records/train-00002.jsonl": b"b0",
    }
    assert joined["counts"] == {**dict.fromkeys(SPLITS, 0), "train": 3, "test_new": 1}
    assert manifest.metadata["vocabulary"] == ["dataset-a", "dataset-b"]
    assert joined["job"]["channels"]["data"] == dataset.uri


def test_the_manifest_of_one_part_is_that_part(s3: Any) -> None:
    ref = part(s3, "dataset-a", {"records/train-00000.jsonl": b"a0"})
    manifest = read_manifest(s3, ref.uri)
    entries = [entry for _, _, entry in renumbered([manifest])]
    assert joined_manifest([manifest], entries).sha256 == ref.sha256


def test_a_vocabulary_that_a_part_has_no_more_is_no_vocabulary_and_an_equal_one_keeps_its_order(s3: Any) -> None:
    def whole(*vocabularies: list[str]) -> Any:
        refs = [part(s3, f"dataset-{n}", {}, vocabulary=words) for n, words in enumerate(vocabularies)]
        return joined_manifest([read_manifest(s3, ref.uri) for ref in refs], []).metadata["vocabulary"]

    assert whole(["b", "a"], ["b", "a"]) == ["b", "a"]
    assert whole(["b"], ["a", "b"]) == ["a", "b"]
    assert whole(["b"], []) == []


def test_parts_that_do_not_fit_are_refused(s3: Any) -> None:
    one, other = part(s3, "dataset-a", {}), part(s3, "dataset-b", {}, verifier="v@2")
    manifests = [read_manifest(s3, ref.uri) for ref in (one, other)]
    with pytest.raises(IntegrityError, match="part 1 has the verifier 'v@2', and part 0 'v@1'"):
        joined_manifest(manifests, [])
    strange = Manifest(kind="dataset", files=(FileEntry(path="records/odd.txt", sha256="0" * 64, bytes=1),))
    with pytest.raises(IntegrityError, match="is no shard"):
        renumbered([strange])


def test_a_part_that_failed_fails_the_dataset_by_its_own_error(prepared: Load, s3: Any) -> None:
    given = {
        "spec": put(s3, spec("a", "b")),
        "parts": [{"artifact": source("a").model_dump()}, {"error": "AlgorithmError", "cause": "line 1 is malformed"}],
    }
    with pytest.raises(AlgorithmError, match=r"1 of 2 parts failed.*part 2 of 2, s3://.*/b/: line 1 is malformed"):
        prepared("join_parts").handler(given, None)
    with pytest.raises(IntegrityError, match="1 parts came back for the 2"):
        prepared("join_parts").handler({**given, "parts": given["parts"][:1]}, None)


def test_a_spec_that_was_replaced_or_is_none_is_refused(s3: Any) -> None:
    ref = SpecRef(**put(s3, spec("a")))
    with pytest.raises(IdentityConflict, match="submit it again"):
        read_spec(s3, ref.model_copy(update={"spec_sha256": "0" * 64}), AssemblySpec)
    with pytest.raises(InvalidInput, match="is not a EvaluationSpec"):
        read_spec(s3, ref, EvaluationSpec)


def test_an_evaluation_is_the_job_that_a_pipeline_would_run(prepared: Load, s3: Any) -> None:
    wanted = EvaluationSpec(domain="facial", model=source("d"), data=source("e"), code_sha256="c" * 64, image=IMAGE)
    request = prepared("plan_evaluation").handler({"spec": put(s3, wanted)}, None)
    assert request["prefix"] == f"evaluate-{wanted.identity[:12]}" == wanted.job.prefix
    assert (request["channels"]["model"], request["channels"]["data"]) == (source("d").uri, source("e").uri)
    assert request["tags"]["stepforge:model"] == f"model-{'d' * 12}"


def test_a_joined_dataset_opens_by_its_own_gate(load: Load, s3: Any) -> None:
    from stepforge.machines.gate import GateCheck

    both = [
        GateCheck(dataset=source("a"), gate=outcome("gate")),
        GateCheck(dataset=outcome("dataset"), gate=outcome("gate")),
    ]
    assert [type(check.dataset).__name__ for check in both] == ["ArtifactRef", "JobOutcome"]


def test_who_asks_keeps_the_token_from_the_log_the_answer_and_the_mail(
    prepared: Load, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[dict[str, str]] = []
    sns = SimpleNamespace(publish=lambda **message: sent.append(message))
    request = {"kind": "spending", "subject": "a run", "question": "It may cost $40.", "details": {"upper": "$40"}}
    pending = {"name": "approve-0123456789ab-r0", "token": "T" * 40, "request": request, "execution_arn": "arn"}
    with caplog.at_level(logging.DEBUG):
        answer = prepared("ask_person", sns=sns).handler(pending, None)
    kept = json.loads(s3.get_object(Bucket=BUCKET, Key="approvals/approve-0123456789ab-r0.json")["Body"].read())
    assert kept["token"] == pending["token"]
    for told in (json.dumps(answer), json.dumps(sent), caplog.text, str([r.__dict__ for r in caplog.records])):
        assert pending["token"] not in told
    assert "stepforge approvals answer approve-0123456789ab-r0" in sent[0]["Message"]
    assert "upper: $40" in sent[0]["Message"]
