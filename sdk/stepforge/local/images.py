"""Which images may run here, and with which command: an image stands for the process that its ENTRYPOINT starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from stepforge.errors import InvalidInput
from stepforge.installation.home import home
from stepforge.local.dockerfile import read_dockerfile
from stepforge.local.state import Layout, locked, write_private

Role = Literal["train", "serve"]
MOUNT = "/opt/ml"
"""SageMaker's folder of a container: here it is the job's own, and where its process starts."""


class Image(BaseModel):
    """The commands of one repository. `python` stands for the interpreter that runs the local AWS.

    >>> Image(argv_train=("python", "-m", "stepforge_jobs.main")).command("train")[1:]
    ['-m', 'stepforge_jobs.main']
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    argv_train: tuple[str, ...] | None = None
    """Started for a training job. None where the image does not train."""
    argv_serve: tuple[str, ...] | None = None
    """Started for an endpoint. None where the image does not serve."""
    environment: dict[str, str] = {}
    """Variables that the image sets."""
    pinned: bool = False
    """Whether an address's digest is that of our own sources: a job under another digest would run other code."""

    def command(self, role: Role) -> list[str] | None:
        argv = self.argv_train if role == "train" else self.argv_serve
        if not argv:
            return None
        return [sys.executable, *argv[1:]] if argv[0] in ("python", "python3") else list(argv)


def repository(address: str) -> str:
    """An image's address without its digest and tag: what images are registered by.

    >>> repository("000000000000.dkr.ecr.us-east-1.amazonaws.com/stepforge-train@sha256:" + "0" * 64)
    '000000000000.dkr.ecr.us-east-1.amazonaws.com/stepforge-train'
    >>> repository("localhost:5000/train:v1")
    'localhost:5000/train'
    """
    name = address.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def registered(layout: Layout) -> dict[str, Image]:
    try:
        plain = json.loads(layout.images_file.read_text())
    except FileNotFoundError:
        return {}
    return {name: Image.model_validate(image) for name, image in plain.items()}


def register_images(images: dict[str, Image], *, base: Path | None = None) -> None:
    """Let these repositories run, beside those that are registered already. A running server sees it at once.

    Keys are addresses; digests and tags are left out. Only who can write into the private folder can register.
    """
    layout = Layout.of(base or home())
    layout.create()
    with locked(layout.root / "images.lock"):
        known = registered(layout)
        merged = {**known, **{repository(name): image for name, image in images.items()}}
        if merged != known:
            write_private(
                layout.images_file, {name: image.model_dump(mode="json") for name, image in sorted(merged.items())}
            )


def entrypoint(dockerfile: Path) -> list[str]:
    """The exec-form ENTRYPOINT of a Dockerfile's last stage. Raises InvalidInput, see `dockerfile.read_dockerfile`."""
    return list(read_dockerfile(dockerfile).entrypoint)


def image_of(dockerfile: Path, role: Role, sources: dict[str, Path], *, pinned: bool = False) -> Image:
    """The image that a Dockerfile of ours builds, as a process on this machine.

    Its command and variables are those of its last stage. `sources` maps a folder of the image (`/opt/stepforge/sdk`)
    to the one here whose files it has; PATH is left out, because `python` is the interpreter that runs the local AWS.
    Raises InvalidInput for a variable or a working directory that names a folder which is neither there nor /opt/ml.
    """
    found = read_dockerfile(dockerfile)
    if found.workdir != MOUNT:
        raise InvalidInput(f"{dockerfile}: WORKDIR {found.workdir!r} must be {MOUNT!r}: a job's folder is what it has")
    variables = {name: value for name, value in found.environment.items() if name != "PATH"}
    if paths := variables.get("PYTHONPATH"):
        unknown = [path for path in paths.split(":") if path not in sources]
        if unknown:
            raise InvalidInput(f"{dockerfile}: PYTHONPATH has {unknown[0]!r}, which is none of {sorted(sources)}")
        variables["PYTHONPATH"] = os.pathsep.join(str(sources[path]) for path in paths.split(":"))
    argv = {"argv_train": found.entrypoint} if role == "train" else {"argv_serve": found.entrypoint}
    return Image(**argv, environment=variables, pinned=pinned)
