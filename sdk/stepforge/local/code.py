"""The code that the images stand for here: the sources that jobs on this machine run from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stepforge.contracts.base import digest
from stepforge.contracts.work import WorkType
from stepforge.errors import EnvironmentUnavailable
from stepforge.installation import assets
from stepforge.installation.code_digest import PACKAGES, code_digests


def roots() -> dict[str, Path]:
    """Package to folder. Raises EnvironmentUnavailable where one is not installed."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise EnvironmentUnavailable(f"package {package!r} is not installed: install stepforge again")
        found[package] = Path(spec.origin).parent
    return found


def codes() -> dict[WorkType, str]:
    """Digest of the code and lock behind each type of job, as the sources are now. Takes about .1 s."""
    return code_digests(roots(), assets.folder("containers") / "train" / "requirements.lock")


def image_digest(found: dict[WorkType, str]) -> str:
    """What stands behind `@sha256:` in an image's address."""
    return digest(found)
