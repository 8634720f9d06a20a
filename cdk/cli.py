"""`python -m cdk.cli deploy --all -c env=dev`: the CDK CLI, at the version that goes with our library, on our app.

Needs Node.js: npx fetches the CLI once and keeps it. All arguments are the CLI's own.
"""

from __future__ import annotations

import os
import shutil
import sys

from cdk.code import ROOT
from stepforge.errors import EnvironmentUnavailable

CLI = "aws-cdk@2.1148.1"
"""The CLI's versions are no longer the library's. Pinned, because npm's `latest` of aws-cdk is a release that does not
work with this library, and because what deploys in CI is what was tried before."""


def command(*arguments: str) -> list[str]:
    """The CLI's command line, to be run in `ROOT`. Raises EnvironmentUnavailable where there is no Node.js."""
    npx = shutil.which("npx")
    if npx is None:
        raise EnvironmentUnavailable("`npx` is not found: install Node.js 20 or newer, which brings it")
    # cdk.json names `python`, which need not be the one that has our library.
    return [npx, "--yes", CLI, "--app", f'"{sys.executable}" -m cdk.app', *arguments]


if __name__ == "__main__":
    os.chdir(ROOT)
    try:
        line = command(*sys.argv[1:])
    except EnvironmentUnavailable as error:
        sys.exit(str(error))
    os.execv(line[0], line)
