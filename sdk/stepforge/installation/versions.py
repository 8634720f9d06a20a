"""Whether what is installed is what the digests of jobs stand for: a digest covers the lock, not the installation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stepforge.installation import assets
from stepforge.installation.installed import normalised, packages


@dataclass(frozen=True)
class Difference:
    """A package whose version is not the locked one. `installed` is None where it is absent."""

    package: str
    locked: str
    installed: str | None

    def __str__(self) -> str:
        return f"{self.package} {self.installed or 'is not installed'} (lock: {self.locked})"


def lock_file() -> Path:
    """The lock of the image that trains."""
    return assets.folder("containers") / "train" / "requirements.lock"


def locked(lock: Path) -> dict[str, str]:
    """Package to version, from lines such as `torch==2.13.0`."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text().splitlines())
    return {name: number for name, _, number in (line.partition("==") for line in lines if line)}


def differences(lock: Path | None = None) -> list[Difference]:
    """Packages of the lock that are installed in another version, or not at all."""
    installed = packages()
    found = []
    for package, wanted in locked(lock or lock_file()).items():
        here = installed.get(normalised(package))
        number = None if here is None else here.public_version
        if number != wanted:
            found.append(Difference(package, wanted, number))
    return found
