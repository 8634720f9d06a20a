"""The user's own records, verifiers and domains, staged so that they can travel to a job as channels.

Nothing of the user's is imported here: the code runs in the job, as it does on AWS. What is staged depends on the
files' names and bytes alone, so the same code has the same digest wherever and whenever it is staged.
Not covered: modules that a verifier imports from beside its package; put them into the package.
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from stepforge.contracts.jobs import Plugin
from stepforge.contracts.manifests import sha256_of
from stepforge.contracts.records import Record
from stepforge.contracts.user_records import RecordsFile, read_user_files
from stepforge.errors import InvalidInput, UnknownName
from stepforge.recipes import domain_package

MOST_FILES = 2_000
MOST_BYTES = 64 * 2**20
"""More than this is no package of rules, but a folder that was meant to be left behind."""
RECORDS = "records.jsonl"
_OURS = ("stepforge", "stepforge_jobs")


@dataclass(frozen=True)
class StagedPlugin:
    plugin: Plugin
    folder: Path


def plugin_for(domain: str, verifier: str | None, *, into: Path) -> StagedPlugin | None:
    """The code that a pipeline needs beside ours, in the new folder `into`: a verifier, or an installed domain.

    None where the domain ships with stepforge. Raises InvalidInput where the code cannot be found or staged.
    """
    if verifier is not None:
        module, _, function = verifier.partition(":")
        if not module or not function:
            raise InvalidInput(f"--verifier {verifier!r} names no function: write it as package.module:function")
        return StagedPlugin(Plugin(verifier=verifier), stage_object(module, function, into=into))
    point = domain_package(domain)
    if point is None:
        return None
    if not point.attr:
        raise InvalidInput(f"the entry point of domain {domain!r} is {point.value!r}: write it as package.module:NAME")
    return StagedPlugin(Plugin(domain=point.value), stage_object(point.module, point.attr, into=into))


def stage_object(module: str, name: str, *, into: Path) -> Path:
    """Copy the top-level package (or the single file) of a module into the new folder `into`, and nothing else.

    `name` is what the job will take from the module. Raises InvalidInput where either is missing.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise InvalidInput(f"module {module!r} is no name of a module: write it as package.module, without .py")
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise InvalidInput(f"module {top!r} has the name of a module of Python's standard library: rename it")
    if top in _OURS:
        raise InvalidInput(f"module {module!r} is stepforge's own: write a module of yours that imports from it")
    root, code = _locate(module)
    _check_name(code, name, module)
    into.mkdir(parents=True)
    if root.is_file():
        shutil.copyfile(root, into / root.name)
        return into
    for path in _files(root):
        target = into / top / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, target)
        except PermissionError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    return into


def stage_records(path: Path, *, into: Path, domain: str, verifier: str | None) -> list[Record]:
    """Read the user's records and copy their file into the new folder `into`.

    `verifier` is the `name@version` that judges them, None where it is not known. Raises InvalidInput naming the first
    malformed line and its field.
    """
    return stage_parts([(path, into)], domain=domain, verifier=verifier)


def stage_parts(parts: Sequence[tuple[Path, Path]], *, domain: str, verifier: str | None) -> list[Record]:
    """As `stage_records`, of several files of one dataset, each into a folder of its own. No id may be in two files."""
    staged: dict[str, RecordsFile] = {}
    for path, into in parts:
        if not path.is_file():
            raise InvalidInput(f"data {str(path)!r} is not a file: give a file with one JSON record a line")
        into.mkdir(parents=True)
        # The copy is read, so that what was checked is what is sent.
        copy = Path(shutil.copyfile(path, into / RECORDS))
        sha256 = sha256_of(copy)
        if sha256 in staged:
            raise InvalidInput(f"data {str(path)!r} holds the same as {staged[sha256].name!r}: give each file once")
        staged[sha256] = RecordsFile(copy, path.name, sha256)
    return read_user_files(staged.values(), domain=domain, verifier=verifier)


def _locate(module: str) -> tuple[Path, Path]:
    """What to copy (a package's folder, or a single file), and the file of the module itself."""
    importlib.invalidate_caches()
    top, *rest = module.split(".")
    spec = _find_top(top)
    if spec is None:
        raise InvalidInput(f"module {top!r} was not found: run from its folder, or install it in this environment")
    if spec.submodule_search_locations is None:
        source = Path(spec.origin or "")
        if rest:
            raise InvalidInput(f"module {module!r} was not found: {top!r} is the single file {source}")
        if not source.is_file() or source.suffix != ".py":
            raise InvalidInput(f"module {top!r} is {spec.origin}, which cannot be copied: give a .py file or a package")
        return source, source
    # A package without __init__.py can lie in several folders; the one that has the module travels.
    for location in spec.submodule_search_locations:
        root = Path(location).resolve()
        code = _inside(root, rest)
        if code is not None:
            return root, code
    where = ", ".join(spec.submodule_search_locations)
    raise InvalidInput(f"module {module!r} was not found in {where}")


def _find_top(top: str) -> ModuleSpec | None:
    """As `python -m` would, with the current folder first. Nothing is imported."""
    on_path = PathFinder.find_spec(top, [os.getcwd(), *sys.path])
    if on_path is not None and on_path.origin is not None:
        return on_path
    try:
        # Editable installs are found by hooks of their own; they win over a folder that merely has the name.
        by_hook = find_spec(top)
    except ValueError:
        by_hook = None
    return by_hook if by_hook is not None and by_hook.origin is not None else on_path or by_hook


def _inside(folder: Path, parts: list[str]) -> Path | None:
    """The file of a module below a package's folder."""
    for number, part in enumerate(parts):
        spec = PathFinder.find_spec(part, [str(folder)])
        if spec is None:
            return None
        if spec.submodule_search_locations is None:
            return Path(spec.origin or "") if number == len(parts) - 1 else None
        folder = Path(next(iter(spec.submodule_search_locations)))
    init = folder / "__init__.py"
    return init if init.is_file() else None


def _files(root: Path) -> Iterator[Path]:
    """Files of a package in any order. Hidden ones and caches are left out, as artifacts leave them out."""
    count = size = 0
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        here = Path(folder)
        if links := [name for name in folders if (here / name).is_symlink()]:
            raise InvalidInput(f"{here / links[0]} is a link to a folder: put the folder itself into the package")
        for name in names:
            path = here / name
            if name.startswith(".") or name.endswith((".pyc", ".pyo")):
                continue
            if not path.is_file() or not path.resolve().is_relative_to(root):
                raise InvalidInput(f"{path} is no file of the package {root} (a link out of it?): put the file into it")
            count, size = count + 1, size + path.stat().st_size
            if count > MOST_FILES or size > MOST_BYTES:
                raise InvalidInput(
                    f"package {root} has more than {MOST_FILES:,} files or {MOST_BYTES // 2**20} MiB: "
                    "keep the verifier or domain in a small package of its own"
                )
            yield path


def _check_name(code: Path, name: str, module: str) -> None:
    """Raises InvalidInput where a module's source binds no such name; what only running it can tell is let pass."""
    if code.suffix != ".py":
        return
    try:
        tree = ast.parse(code.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InvalidInput(f"module {module!r} ({code}) is not Python: {error}") from error
    found: set[str] = set()
    for node in _top_level(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        else:
            found.update(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    if name.partition(".")[0] not in found and not found & {"*", "__getattr__"}:
        raise UnknownName(f"name in module {module!r}:", name, [n for n in found if not n.startswith("_")])


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import, those within if, try and with included."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from _top_level(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from _top_level(handler.body)
