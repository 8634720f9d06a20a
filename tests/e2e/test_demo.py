"""What `make demo` does, with real jobs of a small recipe, and what must not get through to the endpoint."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepforge.artifacts import read_file
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import split_uri
from tests.e2e.homes import ROOT, TINY, Home

pytestmark = pytest.mark.slow
RLVR = """
[[stages]]
type = "rlvr"
steps = 4
batch_prompts = 2
group_size = 2
max_new_tokens = 20

"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A checkout of its own, because its code is changed on the way."""
    root = tmp_path_factory.mktemp("demo")
    for name in ("sdk", "jobs", "statemachines", "lambdas", "containers"):
        shutil.copytree(ROOT / name, root / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root / "checkout")
    stages, evaluation, _ = TINY.read_text().partition("[evaluation]\n")
    # As long as `predict` lets an answer be: an unfinished one would be cut elsewhere.
    (root / "small.toml").write_text(f"{stages}{RLVR}{evaluation}samples = 1\nmax_new_tokens = 64\n")
    found = Home(root / "home", checkout=root / "checkout")
    yield found
    found.down()


def train(home: Home, *more: str) -> Any:
    recipe = home.folder.parent / "small.toml"
    return home.cli("run", "train", "--domain", "facial", "--recipe", str(recipe), *more)["result"]


def golden(home: Home, result: Any, field: str = "completion") -> dict[str, Any]:
    """The evaluation's greedy answers by prompt, or another field of their rows."""
    artifact = ArtifactRef.model_validate(result["evaluation"]["artifact"])
    rows = map(json.loads, read_file(home.aws().client("s3"), artifact, "rows.ndjson").splitlines())
    return {row["prompt"]: row[field] for row in rows if row["decoding"] == "greedy"}


def answers(home: Home, prompts: list[str]) -> tuple[dict[str, str], str]:
    """What the endpoint says, and the digest of the weights that said it."""
    found = home.cli("predict", *prompts, "--domain", "facial")
    return {row["prompt"]: row["completion"] for row in found["answers"]}, found["model_sha256"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_demo_from_an_empty_home_to_what_must_not_be_served(home: Home) -> None:
    first = train(home)
    home.cli("registry", "approve", "facial", "--comment", "the demo")
    expected = golden(home, first)
    assert len(set(expected.values())) > 1
    said, digest = answers(home, list(expected))
    assert said == expected
    assert digest == first["stages"][-1]["artifact"]["sha256"]
    shown = home.cli("predict", "--domain", "facial")["answers"]
    judged = golden(home, first, "reason")
    assert [answer["verdict"]["reason"] for answer in shown] == [judged[answer["prompt"]] for answer in shown]
    assert len(shown) == 3
    half = home.cli("predict", "feel:fear felt :", "--domain", "facial", code=2)["message"]
    assert half.startswith("'feel:fear felt :' is no prompt: word 2 is 'felt'")
    listed = home.cli("registry", "list")
    assert [(package["state"], len(package["scores"])) for package in listed] == [("Production", 6)]
    report = home.folder / "report.html"
    home.cli("report", "latest", "--out", str(report))
    page = report.read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "facial" in page

    # Again: adopted, job for job.
    jobs = {job["TrainingJobName"] for job in home.jobs()}
    assert Counter(name.partition("-")[0] for name in jobs) == dict.fromkeys(
        ("dataset", "gate", "sft", "srl", "rlvr", "evaluate"), 1
    )
    assert train(home) == first
    assert {job["TrainingJobName"] for job in home.jobs()} == jobs

    # Code that only RLVR imports: RLVR runs again, and what depends on it.
    rlvr = home.checkout / "jobs" / "stepforge_jobs" / "training" / "rlvr.py"
    rlvr.write_text(rlvr.read_text() + "\n# touched\n")
    second = train(home)
    new = {job["TrainingJobName"] for job in home.jobs()} - jobs
    assert sorted(name.partition("-")[0] for name in new) == ["evaluate", "rlvr"]
    assert second["version"] == first["version"] + 1

    # A server that answers otherwise than the evaluation did: the old version goes on answering.
    serving = home.checkout / "jobs" / "stepforge_jobs" / "serving" / "server.py"
    edit(serving, "codec.decode(completion) for", "codec.decode(completion)[::-1] for")
    failed = home.cli("registry", "approve", f"facial/{second['version']}", code=4)
    assert "SmokeFailed" in failed["message"]
    assert answers(home, list(expected)) == (expected, digest)
    edit(serving, "codec.decode(completion)[::-1] for", "codec.decode(completion) for")

    # One byte of the weights, or a pickle beside them, is found before anything is deployed.
    s3 = home.aws().client("s3")
    bucket, prefix = split_uri(second["stages"][-1]["artifact"]["uri"])
    weights = s3.get_object(Bucket=bucket, Key=f"{prefix}model.safetensors")["Body"].read()
    flipped = bytes([*weights[:-1], weights[-1] ^ 1])
    s3.put_object(Bucket=bucket, Key=f"{prefix}model.safetensors", Body=flipped)
    refused = home.cli("registry", "approve", f"facial/{second['version']}", code=4)
    assert "ArtifactRefused" in refused["message"]
    assert "model.safetensors has SHA-256" in refused["message"]

    s3.put_object(Bucket=bucket, Key=f"{prefix}model.safetensors", Body=weights)
    s3.put_object(Bucket=bucket, Key=f"{prefix}optimizer.pt", Body=b"\x80\x04.")
    refused = home.cli("registry", "approve", f"facial/{second['version']}", code=4)
    assert "ArtifactRefused" in refused["message"]
    assert "optimizer.pt" in refused["message"]
    assert answers(home, list(expected)) == (expected, digest)

    # Without the pickle it is what was registered, and takes over.
    s3.delete_object(Bucket=bucket, Key=f"{prefix}optimizer.pt")
    home.cli("registry", "approve", f"facial/{second['version']}")
    assert answers(home, list(expected)) == (golden(home, second), second["stages"][-1]["artifact"]["sha256"])
    assert home.twice_completed() == {}
