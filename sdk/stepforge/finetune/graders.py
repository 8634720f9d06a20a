"""A verifier as a python grader of the OpenAI protocol: its modules packed into one source. Ours, or a user's own.

The sandbox has no network and no package of ours, so the modules travel inside and are imported from memory. Limits of
OpenAI's python graders (its guide to graders, read in autumn 2026): 256 kB of source, `grade(sample, item)`, 2 minutes.
The verifier needs pydantic 2 there; that the sandbox has it was not tried. For Bedrock, whose grader is a function, the
verifiers that ship are `finetune_grade`, and a user's own becomes a function with `function_zip`. Of a user's code only
Python travels: no data files, and no package but the standard library, pydantic and ours.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
import tempfile
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from stepforge.errors import InvalidInput, UnknownName
from stepforge.finetune.spec import PythonGrader
from stepforge.installation.code_digest import PACKAGES, domain_module, is_package, sources_of
from stepforge.installation.user_code import plugin_for

MOST_BYTES = 256_000
FUNCTION_MODULE = "grader"
_GRADING = "stepforge_jobs.domains.grading"
_USER = "stepforge_jobs.domains.user"
_FOR_PEOPLE = (".md", ".rst", ".typed")
_LOADER = '''"""The verifier {name!r}, packed. Made by stepforge: change the verifier, not this."""
import base64, importlib.abc, importlib.util, json, sys, zlib

_PACKED = "{packed}"
_SOURCES = json.loads(zlib.decompress(base64.b64decode(_PACKED)))


class _Packed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    packed = _PACKED

    def find_spec(self, name, path=None, target=None):
        if name in _SOURCES:
            return importlib.util.spec_from_loader(name, self, is_package=_SOURCES[name][1])

    def exec_module(self, module):
        exec(compile(_SOURCES[module.__name__][0], module.__name__, "exec"), module.__dict__)


if not any(getattr(finder, "packed", None) == _PACKED for finder in sys.meta_path):
    sys.meta_path.insert(0, _Packed())


def verdict(item, completion):
    from stepforge_jobs.domains.grading import verdict_of

{domain}
    return verdict_of(item, completion, domain=domain)


def grade(sample, item):
    return float(verdict(item, sample.get("output_text") or "").reward)
'''
_SHIPPED = "    domain = None"
_VERIFIER = """    from stepforge_jobs.domains.user import RECORDS, RecordsDomain, load_function

    domain = RecordsDomain(RECORDS, load_function({target!r}), version="packed")"""
_DOMAIN = """    from stepforge_jobs.domains import load_object
    from stepforge_jobs.domains.base import Domain

    domain = load_object({target!r}, Domain)"""
_HANDLER = '''

def handler(event, context):
    """As AWS wants a reward function (Implementing reward functions, Nova)."""
    found = []
    for sample in event if isinstance(event, list) else [event]:
        content = sample["messages"][-1]["content"]
        text = content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
        given = verdict(sample, text)
        metrics = [{"name": rule.rule, "value": rule.score, "type": "Metric"} for rule in given.rules]
        found.append({"id": sample["id"], "aggregate_reward_score": given.reward, "metrics_list": metrics})
    return found
'''


def is_own(verifier: str) -> bool:
    """Whether a verifier is a user's: `package.module:function`, or an installed domain."""
    return ":" in verifier or not _ships(verifier)


def python_grader(verifier: str) -> PythonGrader:
    """A grader whose score is the reward of a verifier, in [0, 1].

    `verifier` is a domain that ships, an installed domain, or a function as `package.module:function`.
    Raises UnknownName for another, InvalidInput where it is too large, needs what the sandbox lacks, or stepforge_jobs
    is missing.
    """
    source = _source(verifier)
    if len(source.encode()) > MOST_BYTES:
        raise InvalidInput(
            f"the verifier {verifier!r} packs to {len(source.encode()):,} bytes, but a python grader has "
            f"{MOST_BYTES:,}: use a provider whose grader is a function (Bedrock), or a smaller verifier"
        )
    return PythonGrader(source=source)


def function_zip(verifier: str) -> bytes:
    """The code of a Lambda function that Bedrock calls as its grader: handler `grader.handler`, `FUNCTION_RUNTIME`.

    It needs pydantic 2 from a layer. The same verifier gives the same bytes. Raises as `python_grader`.
    """
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        about = zipfile.ZipInfo(f"{FUNCTION_MODULE}.py", date_time=(1980, 1, 1, 0, 0, 0))
        about.external_attr = 0o644 << 16
        archive.writestr(about, _source(verifier) + _HANDLER)
    return memory.getvalue()


def _source(verifier: str) -> str:
    roots = {package: _root(package) for package in PACKAGES}
    if not is_own(verifier):
        return _pack(verifier, _ours([_GRADING, domain_module(verifier, roots)], roots), _SHIPPED)
    with tempfile.TemporaryDirectory() as temporary:
        domain, function = ("records", verifier) if ":" in verifier else (verifier, None)
        staged = plugin_for(domain, function, into=Path(temporary) / "plugin")
        if staged is None:
            domain_module(verifier, roots)
            raise UnknownName("domain", verifier, [])
        theirs = _theirs(staged.folder, verifier)
        wanted = {name for text, _ in theirs.values() for name in _imported(text) if name.partition(".")[0] in roots}
        plugin = staged.plugin
    template = _VERIFIER if plugin.domain is None else _DOMAIN
    glue = template.format(target=plugin.verifier or plugin.domain)
    return _pack(verifier, {**_ours([_GRADING, _USER, *sorted(wanted)], roots), **theirs}, glue)


def _pack(name: str, sources: dict[str, tuple[str, bool]], glue: str) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(sources, sort_keys=True).encode(), 9)).decode()
    return _LOADER.format(name=name, packed=packed, domain=glue)


def _ours(entries: list[str], roots: dict[str, Path]) -> dict[str, tuple[str, bool]]:
    return {name: (text, is_package(name, roots)) for name, text in sources_of(entries, roots).items()}


def _theirs(folder: Path, verifier: str) -> dict[str, tuple[str, bool]]:
    """A user's modules, by name. Raises InvalidInput for what cannot travel, or would be missing in the sandbox."""
    found: dict[str, tuple[str, bool]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = path.relative_to(folder)
        if path.suffix in _FOR_PEOPLE:
            continue
        if path.suffix != ".py":
            raise InvalidInput(
                f"the verifier {verifier!r} has the file {inside}, and a grader has no files: write what it reads into "
                "a module"
            )
        package = path.name == "__init__.py"
        parts = inside.parent.parts if package else inside.with_suffix("").parts
        found[".".join(parts)] = (path.read_text(encoding="utf-8"), package)
    for above in [".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 1)]:
        found.setdefault(above, ("", True))  # a folder without __init__.py
    there = {*sys.stdlib_module_names, *PACKAGES, "pydantic", *(name.partition(".")[0] for name in found)}
    for name, (text, _) in found.items():
        missing = sorted({imported.partition(".")[0] for imported in _imported(text)} - there)
        if missing:
            raise InvalidInput(
                f"the verifier {verifier!r} imports {missing[0]!r} in {name}, which a grader does not have: there is "
                "the standard library, pydantic and stepforge. Write a grader of your own (type 'python'), or do "
                "without it"
            )
    return found


def _imported(text: str) -> set[str]:
    """Modules that a source imports by their full names, those of our packages with what is taken from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def _ships(name: str) -> bool:
    try:
        domain_module(name, {package: _root(package) for package in PACKAGES})
    except UnknownName:
        return False
    return True


def _root(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InvalidInput(f"package {package!r} is not installed, and the verifier is in it: install stepforge[train]")
    return Path(spec.origin).parent
