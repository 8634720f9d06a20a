"""Which code runs a type of job: a digest of its entry module, all of ours that it imports, and the lock.

After a change of code, the jobs that depend on it get another identity and run again; the others are adopted.
Modules are read, never imported. A module named in a string (`"stepforge_jobs.training.srl:run"`) counts as
imported, because that is how job types and domains are chosen. Not covered: imports by computed names.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from stepforge.contracts.base import digest
from stepforge.contracts.work import WORK_TYPES, WorkType
from stepforge.errors import InvalidInput, UnknownName

PACKAGES = ("stepforge", "stepforge_jobs")
DISPATCHER = "stepforge_jobs.main"
_NAMED_MODULE = re.compile(r"^stepforge_jobs(\.\w+)+(:\w+)?$")


def code_digests(roots: dict[str, Path], lock: Path) -> dict[WorkType, str]:
    """Digest for each type of job.

    `roots` maps each of PACKAGES to its folder; `lock` lists the versions that the image installs.
    Raises InvalidInput where the dispatcher has no entry for a type.
    """
    entries = _work_entries(roots)
    lock_sha256 = hashlib.sha256(lock.read_bytes()).hexdigest()
    if missing := [work for work in WORK_TYPES if work not in entries]:
        raise InvalidInput(f"{DISPATCHER} has no entry for {missing}: its WORK table has {sorted(entries)}")
    read = lru_cache(maxsize=None)(lambda name: _references(name, roots))
    dispatcher = _closure(DISPATCHER, lambda name: read(name)[0])
    result: dict[WorkType, str] = {}
    for work in WORK_TYPES:
        modules = dispatcher | _closure(entries[work], lambda name: read(name)[0] | read(name)[1])
        sources = {name: hashlib.sha256(_path(name, roots).read_bytes()).hexdigest() for name in sorted(modules)}
        result[work] = digest({"sources": sources, "lock": lock_sha256})
    return result


def _closure(entry: str, references: Callable[[str], set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = {entry}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= references(name) - seen
    return seen


def sources_of(entries: Iterable[str], roots: dict[str, Path]) -> dict[str, str]:
    """Source of these modules and of all of ours that they import, by name."""
    read = lru_cache(maxsize=None)(lambda name: _references(name, roots))
    modules = set().union(*(_closure(entry, lambda name: read(name)[0]) for entry in entries))
    return {name: _path(name, roots).read_text(encoding="utf-8") for name in sorted(modules)}


def is_package(name: str, roots: dict[str, Path]) -> bool:
    return _path(name, roots).name == "__init__.py"


def domain_module(domain: str, roots: dict[str, Path]) -> str:
    """The module of a domain that ships. Raises UnknownName."""
    known = _table("stepforge_jobs.domains", "DOMAINS", roots)
    if domain not in known:
        raise UnknownName("domain that ships", domain, known)
    return known[domain].partition(":")[0]


def _work_entries(roots: dict[str, Path]) -> dict[str, str]:
    """The literal table `WORK` of the dispatcher: type of job to module."""
    return {work: target.partition(":")[0] for work, target in _table(DISPATCHER, "WORK", roots).items()}


def _table(module: str, name: str, roots: dict[str, Path]) -> dict[str, str]:
    for node in ast.parse(_path(module, roots).read_text()).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(
            node, ast.Assign | ast.AnnAssign
        ):
            table: dict[str, str] = ast.literal_eval(node.value) if node.value else {}
            return table
    raise InvalidInput(f"{module} has no literal table {name}")


def _path(name: str, roots: dict[str, Path]) -> Path:
    package, *rest = name.split(".")
    base = roots[package].joinpath(*rest)
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _references(name: str, roots: dict[str, Path]) -> tuple[set[str], set[str]]:
    """Our modules that one module imports, and those that its strings name."""
    path = _path(name, roots)
    imported: set[str] = set()
    named: set[str] = set()

    def add(into: set[str], module: str) -> None:
        parts = module.split(".")
        if parts[0] not in roots or not _path(module, roots).is_file():
            return
        into.update(".".join(parts[:n]) for n in range(1, len(parts) + 1))

    module = ast.parse(path.read_text())
    # A package's lazy exports are left out: whoever wants one names its module.
    waiting: list[ast.AST] = [
        n for n in module.body if not (isinstance(n, ast.FunctionDef) and n.name == "__getattr__")
    ]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(imported, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*inside[: len(inside) - node.level + 1], *([node.module] if node.module else [])])
            add(imported, base)
            for alias in node.names:
                add(imported, f"{base}.{alias.name}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAMED_MODULE.match(node.value):
            add(named, node.value.partition(":")[0])
    # The dispatcher names every job: following it would make all of them one.
    return imported, set() if name == DISPATCHER else named
