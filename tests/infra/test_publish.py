"""The build of the images, with stand-ins for `docker` and `aws` that remember what they were told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepforge.contracts.work import WORK_TYPES
from stepforge.installation.code_digest import code_digests

ROOT = Path(__file__).parents[2]
REGISTRY = "111122223333.dkr.ecr.us-east-1.amazonaws.com"
TOOL = """#!{python}
import hashlib, json, os, sys
state, given = os.environ["STATE"], sys.argv[1:]
kept = json.load(open(state))
kept["calls"].append([os.path.basename(sys.argv[0]), *given])
option = lambda name: given[given.index(name) + 1]
if "imagetools" in given:
    print(json.dumps({{"digest": "sha256:" + kept.get("base", "b") * 64}}))
elif "build" in given:
    if kept.get("failing") and kept["failing"] in option("--file"):
        sys.exit("no space left on device")
    repository, _, tag = option("--tag").rpartition(":")
    digest = "sha256:" + hashlib.sha256(option("--tag").encode()).hexdigest()
    kept["images"].setdefault(repository.partition("/")[2], {{}})[tag] = digest
    json.dump({{"containerimage.digest": digest}}, open(option("--metadata-file"), "w"))
elif "list-images" in given:
    tags = kept["images"].get(option("--repository-name"), {{}})
    print(json.dumps({{"imageIds": [{{"imageTag": t, "imageDigest": d}} for t, d in tags.items()]}}))
elif "put-parameter" in given:
    kept["parameters"][option("--name")] = option("--value")
json.dump(kept, open(state, "w"))
"""


class Build:
    def __init__(self, folder: Path) -> None:
        self.state = folder / "state.json"
        self.state.write_text(json.dumps({"calls": [], "images": {}, "parameters": {}}))
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("docker", "aws"):
            (self.bin / name).write_text(TOOL.format(python=sys.executable))
            (self.bin / name).chmod(0o755)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")]),
            "STATE": str(self.state),
        }
        command = [
            sys.executable,
            str(ROOT / "containers" / "publish.py"),
            "--environment",
            "dev",
            "--registry",
            REGISTRY,
        ]
        return subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def kept(self) -> dict[str, Any]:
        return dict(json.loads(self.state.read_text()))


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


def test_every_image_is_built_on_one_pinned_base_and_published_by_its_digest(build: Build) -> None:
    done = build.run()
    assert done.returncode == 0, done.stderr
    kept = build.kept()
    images = {k: v for k, v in kept["parameters"].items() if "/images/" in k}
    assert set(images) == {f"/stepforge/dev/images/{name}" for name in ("data", "serve", "train")}
    for name in ("data", "serve", "train"):
        ((_, digest),) = kept["images"][f"stepforge-dev-{name}"].items()
        assert images[f"/stepforge/dev/images/{name}"] == f"{REGISTRY}/stepforge-dev-{name}@{digest}"
    bases = {a for call in kept["calls"] for a in call if a.startswith("BASE=")}
    assert bases == {"BASE=public.ecr.aws/docker/library/python@sha256:" + "b" * 64}


def test_the_digests_of_code_are_those_that_a_submission_computes_and_are_written_last(build: Build) -> None:
    build.run()
    kept = build.kept()
    sources = {"stepforge": ROOT / "sdk" / "stepforge", "stepforge_jobs": ROOT / "jobs" / "stepforge_jobs"}
    expected = code_digests(sources, ROOT / "containers" / "train" / "requirements.lock")
    assert {k.rpartition("/")[2]: v for k, v in kept["parameters"].items() if "/code/" in k} == expected
    written = [call[call.index("--name") + 1] for call in kept["calls"] if "put-parameter" in call]
    assert ["/images/" in name for name in written] == [True] * 3 + [False] * len(WORK_TYPES)


def test_with_gpus_jobs_run_in_the_image_that_has_their_libraries(build: Build) -> None:
    build.run("--gpu")
    assert "stepforge-dev-train-cuda@sha256:" in build.kept()["parameters"]["/stepforge/dev/images/train"]


def test_vllm_is_in_the_image_for_gpus_where_it_is_asked_for_and_makes_it_another(build: Build) -> None:
    def last() -> tuple[list[str], str]:
        kept = build.kept()
        built = [call for call in kept["calls"] if "containers/train-cuda/Dockerfile" in call][-1]
        return built, kept["parameters"]["/stepforge/dev/images/train"]

    build.run("--gpu")
    plain, first = last()
    done = build.run("--gpu", "--vllm")
    assert done.returncode == 0, done.stderr
    rich, second = last()
    assert rich[rich.index("VLLM=yes") - 1] == "--build-arg"
    assert "VLLM=yes" not in plain
    assert first != second
    calls = build.kept()["calls"]
    assert [call for call in calls if "VLLM=yes" in call] == [rich]
    build.run("--gpu", "--vllm")
    assert sum("build" in call for call in build.kept()["calls"]) == sum("build" in call for call in calls)
    refused = build.run("--vllm")
    assert (refused.returncode, "give --gpu too" in refused.stderr) == (2, True)


def test_the_same_sources_are_built_once(build: Build) -> None:
    build.run()
    first = build.kept()
    build.run()
    second = build.kept()
    assert sum("build" in call for call in second["calls"]) == sum("build" in call for call in first["calls"]) == 3
    assert second["parameters"] == first["parameters"]


def test_a_base_that_was_mended_is_built_upon_when_a_build_is_started_again(build: Build) -> None:
    build.run()
    first = build.kept()
    build.state.write_text(json.dumps(first | {"base": "c"}))
    build.run()
    second = build.kept()
    assert sum("build" in call for call in second["calls"]) == 6
    images = {name for name in first["parameters"] if "/images/" in name}
    assert len(images) == 3
    changed = {name for name, value in second["parameters"].items() if value != first["parameters"][name]}
    assert changed == images


def test_a_build_that_fails_publishes_nothing(build: Build) -> None:
    plain = build.kept() | {"failing": "containers/train/"}
    build.state.write_text(json.dumps(plain))
    done = build.run()
    assert done.returncode != 0
    assert build.kept()["parameters"] == {}
