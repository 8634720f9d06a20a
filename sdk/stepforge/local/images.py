"""Which images may run here, and with which command: an image stands for the process that its ENTRYPOINT starts."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from stepforge.errors import InvalidInput
from stepforge.local.state import Layout, home, locked, write_private

Role = Literal["train", "serve"]


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
    """The exec-form ENTRYPOINT of a Dockerfile's last stage.

    Shell form is refused: a shell as process 1 does not forward SIGTERM, so a job could not save its checkpoint.
    Not covered: build arguments, `# escape`, heredocs. Raises InvalidInput.
    """
    found: str | None = None
    for line in re.sub(r"\\[ \t]*\n", " ", dockerfile.read_text()).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word.upper() == "FROM":
            found = None
        elif word.upper() == "ENTRYPOINT":
            found = rest.strip()
    if found is None:
        raise InvalidInput(
            f"{dockerfile} has no ENTRYPOINT in its last stage: add one in exec form, "
            'such as ENTRYPOINT ["python", "-m", "package"]'
        )
    try:
        argv = json.loads(found)
    except ValueError:
        argv = None
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        hint = json.dumps(shlex.split(found)) if not found.startswith("[") else "a JSON array of strings"
        raise InvalidInput(
            f"{dockerfile}: ENTRYPOINT {found} is not in exec form; write {hint} so that signals reach the process"
        )
    return argv
