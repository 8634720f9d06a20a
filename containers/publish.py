"""Build the images, push them, and publish their digests as an environment's parameters. CodeBuild runs it.

    PYTHONPATH=sdk:jobs python containers/publish.py --environment dev \\
        --registry 111122223333.dkr.ecr.us-east-1.amazonaws.com

Needs `docker` and `aws`, both logged in. Parameters are written last and code digests after images, so that who reads
in between has the images of before. Run again with the same sources and base it changes nothing.
Not covered: images for ARM, and signatures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stepforge.contracts.names import parameter
from stepforge.installation.code_digest import code_digests

ROOT = Path(__file__).resolve().parent.parent
BASE = "public.ecr.aws/docker/library/python:3.11-slim-bookworm"
"""The same image as on Docker Hub, without its limits on pulls."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_SOURCES = {"stepforge": ROOT / "sdk" / "stepforge", "stepforge_jobs": ROOT / "jobs" / "stepforge_jobs"}


def run(*command: str) -> str:
    """What a command says on stdout. Its errors go to ours, and end this."""
    print("+", *command, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()


def revision(image: str, base: str, extras: tuple[str, ...] = ()) -> str:
    """A tag that stands for what an image is built from: the base's digest, its folder of containers/, the sources that
    it copies and the build's `extras`. A build that is started again takes a mended base in."""
    state = hashlib.sha256("\0".join((image, base, *extras)).encode())
    for folder in (ROOT / "containers" / image, *_SOURCES.values()):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                state.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode())
                state.update(path.read_bytes())
    return state.hexdigest()[:16]


def pinned_base() -> str:
    """The base image with its digest, so that all images of one build stand on the same."""
    manifest = json.loads(run("docker", "buildx", "imagetools", "inspect", BASE, "--format", "{{json .Manifest}}"))
    return f"{BASE.rpartition(':')[0]}@{manifest['digest']}"


def extras_of(image: str, *, vllm: bool) -> tuple[str, ...]:
    """Arguments of the build that put more into an image."""
    return ("VLLM=yes",) if vllm and image == "train-cuda" else ()


def publish(image: str, repository: str, base: str, extras: tuple[str, ...] = ()) -> str:
    """Build and push one image; its address with the digest that the registry has for it."""
    tag = revision(image, base, extras)
    options = ["--build-arg", f"BASE={base}", "--build-arg", f"REVISION={tag}"]
    if image in ("train", "serve"):
        options += ["--build-arg", f"TORCH_INDEX_URL={CPU_INDEX}"]
    for extra in extras:
        options += ["--build-arg", extra]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "metadata.json"
        run(
            "docker", "buildx", "build", "--platform", "linux/amd64", "--provenance=false", "--push",
            "--file", f"containers/{image}/Dockerfile", "--tag", f"{repository}:{tag}", "--metadata-file", str(told),
            *options, ".",
        )  # fmt: skip
        digest = json.loads(told.read_text())["containerimage.digest"]
    return f"{repository}@{digest}"


def exists(repository: str, tag: str) -> str | None:
    """The digest of a tag that is there already: tags are never written twice."""
    name = repository.partition("/")[2]
    listed = run(
        "aws", "ecr", "list-images", "--repository-name", name, "--filter", "tagStatus=TAGGED", "--output", "json"
    )
    images: list[dict[str, Any]] = json.loads(listed)["imageIds"]
    return next((image["imageDigest"] for image in images if image.get("imageTag") == tag), None)


def main(environment: str, registry: str, images: dict[str, str], *, vllm: bool = False) -> dict[str, str]:
    """Publish `images`, parameter to folder of containers/ ({"train": "train-cuda"}); what was written to SSM."""
    base = pinned_base()
    values = {}
    for name, image in images.items():
        repository = f"{registry}/stepforge-{environment}-{image}"
        extras = extras_of(image, vllm=vllm)
        found = exists(repository, revision(image, base, extras))
        values[f"images/{name}"] = f"{repository}@{found}" if found else publish(image, repository, base, extras)
    lock = ROOT / "containers" / images["train"] / "requirements.lock"
    values |= {f"code/{work}": digest for work, digest in code_digests(_SOURCES, lock).items()}
    written = {parameter(environment, key): value for key, value in values.items()}
    for key, value in written.items():
        run("aws", "ssm", "put-parameter", "--name", key, "--value", value, "--type", "String", "--overwrite")
    return written


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--gpu", action="store_true", help="training jobs run on NVIDIA GPUs")
    parser.add_argument("--vllm", action="store_true", help="with --gpu: rollouts from vLLM, which the image then has")
    options = parser.parse_args(given)
    if options.vllm and not options.gpu:
        parser.error("--vllm is for the image of GPUs: give --gpu too, or leave it out")
    return options


if __name__ == "__main__":
    options = _arguments(sys.argv[1:])
    images = {"data": "data", "serve": "serve", "train": "train-cuda" if options.gpu else "train"}
    print(json.dumps(main(options.environment, options.registry, images, vllm=options.vllm)))
