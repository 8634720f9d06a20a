"""A domain's `verify` as a python grader of the OpenAI protocol: its modules packed into one source.

The sandbox has no network and no package of ours, so the modules travel inside and are imported from memory. Limits of
OpenAI's python graders (its guide to graders, read in autumn 2026): 256 kB of source, `grade(sample, item)`, 2 minutes.
The verifier needs pydantic 2 there; that the sandbox has it was not tried. For Bedrock and SageMaker
the same verifier is the function `finetune_grade`.
"""

from __future__ import annotations

import base64
import json
import zlib
from importlib.util import find_spec
from pathlib import Path

from stepforge.code_digest import PACKAGES, domain_module, is_package, sources_of
from stepforge.errors import InvalidInput
from stepforge.finetune.spec import PythonGrader

MOST_BYTES = 256_000
_GRADING = "stepforge_jobs.domains.grading"
_LOADER = '''"""The verifier of the domain {domain!r}, packed. Made by stepforge: change the domain, not this."""
import base64, importlib.abc, importlib.util, json, sys, zlib

_PACKED = "{packed}"
_SOURCES = json.loads(zlib.decompress(base64.b64decode(_PACKED)))


class _Packed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in _SOURCES:
            return importlib.util.spec_from_loader(name, self, is_package=_SOURCES[name][1])

    def exec_module(self, module):
        exec(compile(_SOURCES[module.__name__][0], module.__name__, "exec"), module.__dict__)


if not any(type(finder).__name__ == "_Packed" for finder in sys.meta_path):
    sys.meta_path.insert(0, _Packed())


def grade(sample, item):
    from stepforge_jobs.domains.grading import verdict_of

    return float(verdict_of(item, sample.get("output_text") or "").reward)
'''


def python_grader(domain: str) -> PythonGrader:
    """A grader whose score is the reward that the domain's `verify` gives, in [0, 1].

    Raises UnknownName for a domain that does not ship, InvalidInput where it is too large or stepforge_jobs is missing.
    """
    roots = {package: _root(package) for package in PACKAGES}
    sources = {
        name: (text, is_package(name, roots))
        for name, text in sources_of([_GRADING, domain_module(domain, roots)], roots).items()
    }
    packed = base64.b64encode(zlib.compress(json.dumps(sources).encode(), 9)).decode()
    source = _LOADER.format(domain=domain, packed=packed)
    if len(source.encode()) > MOST_BYTES:
        raise InvalidInput(
            f"the verifier of {domain!r} packs to {len(source.encode()):,} bytes, but a python grader has "
            f"{MOST_BYTES:,}: use a provider whose grader is a function (Bedrock), or a smaller verifier"
        )
    return PythonGrader(source=source)


def _root(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InvalidInput(f"package {package!r} is not installed, and the verifier is in it: install stepforge[train]")
    return Path(spec.origin).parent
