"""`python -m cdk.cli deploy --all -c env=dev`: the CDK CLI, at the version that goes with our library, on our app.

Needs Node.js: npx fetches the CLI once and keeps it. All arguments are the CLI's own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from stepforge.contracts.tools import CDK_CLI
from stepforge.errors import EnvironmentUnavailable

# Not that of cdk.code: importing it starts the library's own Node.js.
ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: str) -> list[str]:
    """The CLI's command line, to be run in `ROOT`. Raises EnvironmentUnavailable where there is no Node.js."""
    npx = shutil.which("npx")
    if npx is None:
        raise EnvironmentUnavailable("`npx` is not found: install Node.js 22 or newer, which brings it")
    # cdk.json names `python`, which need not be the one that has our library.
    app = [] if {"--app", "-a"} & set(arguments) else ["--app", f'"{sys.executable}" -m cdk.app']
    return [npx, "--yes", CDK_CLI, *app, *arguments]


if __name__ == "__main__":
    os.chdir(ROOT)
    try:
        line = command(*sys.argv[1:])
    except EnvironmentUnavailable as error:
        sys.exit(str(error))
    os.execv(line[0], line)
