"""The user's own records, verifiers and domains, staged so that they can travel to a job as channels.

Nothing of the user's is imported here: the code runs in the job, as it does on AWS.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from stepforge.contracts.jobs import Plugin
from stepforge.errors import InvalidInput
from stepforge.recipes import ENTRY_POINTS


@dataclass(frozen=True)
class StagedPlugin:
    plugin: Plugin
    folder: Path


def plugin_for(domain: str, verifier: str | None) -> StagedPlugin | None:
    """The code that a pipeline needs beside ours: a verifier, or the domain of an installed package.

    Raises InvalidInput where the module cannot be found.
    """
    if verifier is not None:
        module, _, function = verifier.partition(":")
        if not module or not function:
            raise InvalidInput(f"--verifier {verifier!r} names no function: write it as package.module:function")
        return StagedPlugin(Plugin(verifier=verifier), stage_module(module))
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == domain:
            return StagedPlugin(Plugin(domain=point.value), stage_module(point.module))
    return None


def stage_module(module: str) -> Path:
    """A new folder that holds the top-level package (or the single file) of a module, and nothing else."""
    top = module.partition(".")[0]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    spec = find_spec(top)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        raise InvalidInput(f"module {top!r} was not found: run from its folder, or install it in this environment")
    staged = Path(tempfile.mkdtemp(prefix="stepforge-plugin-"))
    if spec.submodule_search_locations:
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, staged / top, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
        wanted = source.joinpath(*module.split(".")[1:])
    else:
        assert spec.origin is not None
        source = wanted = Path(spec.origin)
        shutil.copyfile(source, staged / source.name)
    if not (wanted.is_dir() or wanted.is_file() or wanted.with_suffix(".py").is_file()):
        raise InvalidInput(f"module {module!r} was not found in {source}")
    return staged


def records_folder(path: Path) -> Path:
    """A new folder with the user's records as `records.jsonl`. Raises InvalidInput where there is no such file."""
    if not path.is_file():
        raise InvalidInput(f"data {str(path)!r} is not a file: give a file with one JSON record a line")
    staged = Path(tempfile.mkdtemp(prefix="stepforge-records-"))
    shutil.copyfile(path, staged / "records.jsonl")
    return staged
