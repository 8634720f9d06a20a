"""The beginning of a domain of one's own: a small installable package that passes its own tests.

The files of `template/` are filled in with `string.Template` and moved into place by one rename.
"""

from __future__ import annotations

import keyword
import re
import shutil
import sys
import tempfile
from importlib.machinery import PathFinder
from pathlib import Path
from string import Template

from stepforge.errors import InvalidInput
from stepforge.recipes import RECORDS_RECIPE, recipe_names

__all__ = ["write_domain"]

_TEMPLATE = Path(__file__).parent / "template"
_PACKAGE = "package"
"""The template's folder that becomes the package."""
_ENDING = ".tmpl"
_NAME = re.compile(r"(?=.{2,28}\Z)[a-z][a-z0-9]*(_[a-z0-9]+)*")
_OF_THE_PACKAGE = {"tests", "test"}


def write_domain(name: str, out: Path) -> Path:
    """Write the package `name` into the existing folder `out`, and return its new folder `out/name`.

    Raises InvalidInput where the name cannot be used, `out` is no folder, or `out/name` is there already. When it
    fails, nothing is left.
    """
    check_name(name)
    if not out.is_dir():
        raise InvalidInput(f"--out {str(out)!r} is not a folder: make it first, or give another")
    target = out / name
    if target.exists() or target.is_symlink():
        raise InvalidInput(f"{str(target)!r} exists already: give another name or another --out")
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
    try:
        # mkdtemp makes its folder private; the one inside gets the user's usual permissions.
        written = aside / name
        _fill(written, {"name": name, "distribution": name.replace("_", "-")})
        written.rename(target)
    finally:
        shutil.rmtree(aside)
    return target


def check_name(name: str) -> None:
    """Raises InvalidInput where a domain's package cannot have this name: what is wrong and what is allowed."""
    if not _NAME.fullmatch(name):
        near = re.sub(r"[\W_]+", "_", name.lower(), flags=re.ASCII).strip("_")
        hint = f", such as {near!r}" if _NAME.fullmatch(near) else ""
        raise InvalidInput(
            f"name {name!r} cannot be a domain's: use 2 to 28 lower-case letters, digits and single underscores, "
            f"a letter first and no underscore last{hint}"
        )
    if keyword.iskeyword(name):
        raise InvalidInput(f"name {name!r} is a keyword of Python: give another")
    if name in sys.stdlib_module_names:
        raise InvalidInput(f"name {name!r} is a module of Python's standard library, which it would hide: give another")
    taken = {*recipe_names(), RECORDS_RECIPE.stem}
    if name in taken:
        raise InvalidInput(f"name {name!r} is a domain already; there are: {', '.join(sorted(taken))}. Give another")
    if name in _OF_THE_PACKAGE or PathFinder.find_spec(name) is not None:
        raise InvalidInput(f"name {name!r} is a module that is installed here, which it would hide: give another")


def _fill(folder: Path, values: dict[str, str]) -> None:
    for source in sorted(_TEMPLATE.rglob(f"*{_ENDING}")):
        parts = [values["name"] if part == _PACKAGE else part for part in source.relative_to(_TEMPLATE).parts]
        path = folder.joinpath(*parts).with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
