"""Write an image's requirements.lock: everything that its extra of stepforge needs, at the versions installed here.

python containers/lock.py train > containers/train/requirements.lock

Not covered: hashes. The CPU build that a laptop installs and the build that an image gets differ in theirs.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def closure(requirements: list[str]) -> dict[str, str]:
    """Package name to installed version, for the requirements and all that they need on this platform."""
    found: dict[str, str] = {}
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = requirement.name.lower().replace("_", "-")
        first = name not in found
        try:
            # `2.13.0+cpu` is a local build of 2.13.0.
            found[name] = version(requirement.name).partition("+")[0]
        except PackageNotFoundError:
            sys.exit(f"{requirement.name} is not installed: install the extra first")
        for extra_name in ["", *requirement.extras] if first else requirement.extras:
            waiting += [(Requirement(line), extra_name) for line in requires(requirement.name) or []]
    return found


IMAGES: dict[str, tuple[str, ...]] = {"data": (), "serve": ("train",), "train": ("train",), "train-cuda": ("train",)}
"""Extras of each image. What two images have in common they have at one version, because it is installed once here."""
BESIDE = {"train-cuda": ("bitsandbytes==0.50.2",)}
"""What is not installed on a machine without a GPU: the frozen weights of `lora.bits = 4`."""


def locked(image: str) -> list[str]:
    """The lines of an image's lock. Raises KeyError for an image that there is none of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in IMAGES[image] for line in project["optional-dependencies"][extra]]
    lines = [f"{name}=={number}" for name, number in closure(["pydantic>=2", *extras]).items()]
    return sorted([*lines, *BESIDE.get(image, ())], key=lambda line: line.partition("==")[0])


def main(image: str) -> None:
    covered = "; the digest of a job's code covers this file." if image == "train" else "."
    print(f"# Written by containers/lock.py {image}{covered}")
    print("\n".join(locked(image)))


if __name__ == "__main__":
    main(sys.argv[1])
