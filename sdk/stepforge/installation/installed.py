"""What is installed, read from the names of `*.dist-info` folders: nothing is imported, and no metadata is parsed.

`importlib.metadata` takes 120 ms for the 42 packages of the lock, and this 1. Not covered: packages in zip files, and
those whose folder ends in `.egg-info`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    folder: str
    """Its `.dist-info`."""

    @property
    def public_version(self) -> str:
        """`2.13.0+cpu` is a local build of 2.13.0."""
        return self.version.partition("+")[0]

    @property
    def whole(self) -> bool:
        """Whether its installation was finished: METADATA is there."""
        return os.path.isfile(os.path.join(self.folder, "METADATA"))


def packages(places: Sequence[str] | None = None) -> dict[str, Package]:
    """Package by its normalised name, as the first folder of `places` (`sys.path`) has it that has it."""
    found: dict[str, Package] = {}
    for place in dict.fromkeys(sys.path if places is None else places):
        try:
            names = [entry.name for entry in os.scandir(place or ".") if entry.name.endswith(".dist-info")]
        except OSError:
            continue
        # Of two versions, one is left over from an installation that was cut off: importlib has no better rule.
        for folder in sorted(names):
            name, _, version = folder.removesuffix(".dist-info").partition("-")
            key = normalised(name)
            if not name.startswith("~"):
                found.setdefault(key, Package(key, version.replace("_", "-"), os.path.join(place, folder)))
    return found


def normalised(name: str) -> str:
    """A package's name as indexes compare it.

    >>> normalised("MLflow_Skinny")
    'mlflow-skinny'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def module_folder(module: str) -> Path | None:
    """Where a module (`google.genai`) would be imported from, None where its files are not there. Imports nothing."""
    spec, above = None, None
    for depth in range(module.count(".") + 1):
        spec = PathFinder.find_spec(".".join(module.split(".")[: depth + 1]), above)
        if spec is None:
            return None
        above = spec.submodule_search_locations
    # A folder without __init__.py is found as a namespace, without an origin: what is left after an uninstallation.
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, zeros at the end left out; pre-releases count as their release.

    >>> release("2.13.0rc1+cpu"), release("2")
    ((2, 13), (2,))
    """
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is one of those that a requirement asks for: `>=1.43,<2`, `==2.13.0`, or nothing.

    >>> satisfies("1.43.106", ">=1.43,<2"), satisfies("2.0", ">=1.43,<2"), satisfies("2.13.0+cpu", "==2.13.0")
    (True, False, True)
    """
    given = release(version)
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(==|>=|<=|<|>|!=|~=)\s*([\w.+!-]+)", clause)
        if match is None:
            raise ValueError(f"{clause!r} is no version clause: use ==, !=, <, <=, >, >= or ~=")
        than = release(match[2])
        holds = {
            "==": given == than,
            "!=": given != than,
            ">=": given >= than,
            "<=": given <= than,
            ">": given > than,
            "<": given < than,
            "~=": given >= than and given[: max(1, match[2].count("."))] == than[: max(1, match[2].count("."))],
        }
        if not holds[match[1]]:
            return False
    return True
