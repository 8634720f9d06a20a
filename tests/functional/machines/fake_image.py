"""An image whose jobs do next to nothing, under the very contracts of the real ones. Also the container that serves.

Seeds steer it. A dataset of seed 13 fails its gate, those of `CRASHES` crash, one of 8 ends without a manifest
and with status 0, one of 100 is endless until it is started
again from its checkpoint, one of 101 is endless then too, as is a gate that samples 101 records. A stage with
learning rate 0.5 makes a model that answers otherwise when it is served than in its evaluation. A model whose config
says `seconds` takes that long for an answer.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import read_manifest, write_manifest
from stepforge.contracts.records import SPLITS, TEST_SPLITS
from stepforge.contracts.reports import EvaluationReport, GateFinding, GateReport, Interval, Score
from stepforge.contracts.work import DatasetWork

BASE = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
LIAR = 0.5
ENDLESS, FOREVER = 100, 101
CRASHES = (7, 207, 307)
"""Seeds whose dataset fails; one for each file of tests that counts its attempts."""


def train() -> None:
    # Like process 1 of a container it is born deaf to it; the real jobs hear it, and end within the grace.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    data, out = BASE / "input" / "data", BASE / "model"
    spec = JobSpec.model_validate_json((data / "spec" / "spec.json").read_bytes())
    parameters = json.loads((BASE / "input" / "config" / "hyperparameters.json").read_text())
    assert parameters["spec_sha256"] == spec.identity
    work = spec.work
    if work.type == "dataset" and "records" in spec.inputs:
        part(spec, data, out)
    elif work.type == "dataset":
        if work.seed in CRASHES:
            (BASE / "output" / "failure").write_text("line 17 of the records is malformed")
            sys.exit(2)
        if work.seed == 8:
            return
        begun = BASE / "checkpoints" / "begun"
        if work.seed == FOREVER or (work.seed == ENDLESS and not begun.exists()):
            begun.touch()
            time.sleep(60)
        if work.part is not None:
            generated_part(work, out)
            return
        (out / "records.jsonl").write_text(f"{work.seed}\n")
        write_manifest(out, "dataset", metadata={"seed": work.seed})
    elif work.type == "gate":
        manifest = read_manifest(data / "data")
        if work.sample == FOREVER:
            time.sleep(60)
        bad = GateFinding(check="leak", record="r-42", rule="disjoint", message="its group is in train and in test")
        passed = manifest.metadata.get("seed") != 13
        report = GateReport(
            manifest_sha256=manifest.sha256,
            passed=passed,
            checked={"leak": 1},
            findings=() if passed else (bad,),
            total_findings=0 if passed else 3,
        )
        (out / "gate.json").write_bytes(canonical_json(report))
        write_manifest(out, "gate")
    elif work.type == "evaluate":
        evaluate(spec, data, out)
    else:
        parent = read_manifest(data / "model").sha256 if (data / "model").is_dir() else "scratch"
        (out / "model.safetensors").write_text(f"{parent} {spec.identity}")
        (out / "config.json").write_text(json.dumps({"liar": work.learning_rate == LIAR}))
        write_manifest(out, "model")


def part(spec: JobSpec, data: Path, out: Path) -> None:
    """A dataset of the user's records: its lines as one shard. A line `bad` is malformed."""
    source = read_manifest(data / "records")
    lines = "".join((data / "records" / entry.path).read_text() for entry in source.files)
    if "bad" in lines:
        (BASE / "output" / "failure").write_text("records.jsonl line 1: it says bad")
        sys.exit(2)
    shard = "records/train-00000.jsonl"
    (out / "records").mkdir(parents=True)
    (out / shard).write_text(lines)
    count = lines.count("\n")
    metadata = {"domain": spec.domain, "verifier": "v@1", "step_end": None, "vocabulary": sorted(lines.split())}
    metadata["counts"] = {split: count * (split == "train") for split in SPLITS}
    write_manifest(out, "dataset", metadata=metadata, rows={shard: count})


def generated_part(work: DatasetWork, out: Path) -> None:
    """A shard with a record, which says which part it is."""
    assert work.part is not None
    shard = f"records/test_new-{work.part.number:05d}.jsonl"
    (out / "records").mkdir(parents=True)
    (out / shard).write_text(f"{work.part.number}\n")
    metadata = {"domain": work.domain, "verifier": "v@1", "step_end": None, "vocabulary": []}
    counts = {split: int(split == "test_new") for split in SPLITS}
    write_manifest(out, "dataset", metadata={**metadata, "counts": counts}, rows={shard: 1})


def evaluate(spec: JobSpec, data: Path, out: Path) -> None:
    model, records = read_manifest(data / "model"), read_manifest(data / "data")
    value = Interval(mean=0.5, low=0.4, high=0.6, count=10)
    report = EvaluationReport(
        spec_sha256=spec.identity,
        model_sha256=model.sha256,
        manifest_sha256=records.sha256,
        scores=tuple(
            Score(split=split, decoding=decoding, metric="accepted", value=value)
            for split in TEST_SPLITS
            for decoding in ("greedy", "sampled")
        ),
    )
    (out / "evaluation.json").write_bytes(canonical_json(report))
    rows = [
        {"record": f"r{n}", "split": split, "accepted": n % 2 == 0, "decoding": decoding,
         "prompt": f"p{n}", "completion": answer(f"p{n}", model.sha256), "tokens": 3}
        for split in TEST_SPLITS for decoding in ("greedy", "sampled") for n in range(20)
    ]  # fmt: skip
    (out / "rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(out, "evaluation")


def answer(prompt: str, sha256: str) -> str:
    return f"{prompt} by {sha256[:6]}"


def serve() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder = BASE / "model"
    sha256 = read_manifest(folder).sha256
    config = json.loads((folder / "config.json").read_text())

    class Handler(http.server.BaseHTTPRequestHandler):
        def reply(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(b"")

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["records"]
            time.sleep(config.get("seconds", 0))
            said = ["nonsense" if config["liar"] else answer(record["prompt"], sha256) for record in asked]
            self.reply(json.dumps({"completions": said, "model_sha256": sha256}).encode())

    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    {"train": train, "serve": serve}[sys.argv[1]]()
