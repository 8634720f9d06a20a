"""What a Dockerfile's last stage says about the process that it starts: ENTRYPOINT, ENV, WORKDIR, USER.

Not covered: `# escape`, heredocs, ONBUILD, ARGs in what is read here. A stage's FROM names no other stage.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from stepforge.errors import InvalidInput


@dataclass(frozen=True)
class Dockerfile:
    """The last stage of a Dockerfile."""

    entrypoint: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str | None = None


def instructions(path: Path) -> list[tuple[str, str]]:
    """Every instruction in order: its name in capitals, and its arguments on one line. Comments are left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\[ \t]*\n", " ", "\n".join(lines))
    words = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in words]


def read_dockerfile(path: Path) -> Dockerfile:
    """The last stage. Raises InvalidInput where no ENTRYPOINT in exec form is in it.

    Shell form is refused: a shell as process 1 does not forward SIGTERM, so a job could not save its checkpoint.
    """
    found: str | None = None
    environment: dict[str, str] = {}
    workdir, user = "/", None
    for name, rest in instructions(path):
        if name == "FROM":
            found, environment, workdir, user = None, {}, "/", None
        elif name == "ENTRYPOINT":
            found = rest
        elif name == "ENV":
            environment |= _variables(path, rest)
        elif name == "WORKDIR":
            workdir = rest if rest.startswith("/") else f"{workdir.rstrip('/')}/{rest}"
        elif name == "USER":
            user = rest
    return Dockerfile(_exec_form(path, found), environment, workdir, user)


def _variables(path: Path, rest: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in shlex.split(rest)]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise InvalidInput(f"{path}: ENV {rest} has {wrong[0]!r} without a value: write ENV NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _exec_form(path: Path, found: str | None) -> tuple[str, ...]:
    if found is None:
        raise InvalidInput(
            f"{path} has no ENTRYPOINT in its last stage: add one in exec form, "
            'such as ENTRYPOINT ["python", "-m", "package"]'
        )
    try:
        argv = json.loads(found)
    except ValueError:
        argv = None
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        hint = json.dumps(shlex.split(found)) if not found.startswith("[") else "a JSON array of strings"
        raise InvalidInput(
            f"{path}: ENTRYPOINT {found} is not in exec form; write {hint} so that signals reach the process"
        )
    return tuple(argv)
