"""The command line. `stepforge --help` loads neither boto3 nor torch.

Every command takes --json: one JSON document on stdout, progress on stderr. Exit codes: docs/cli.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; the console script passes it to the shell."""
    from stepforge.cli._app import app
    from stepforge.errors import StepforgeError

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app(given, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except StepforgeError as error:
        return _fail(given, type(error).__name__, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(given, "Interrupted", "interrupted; what was submitted goes on (`stepforge runs`)", 130)
    except Exception as error:
        shown = _known(error)
        if shown is None:
            raise
        return _fail(given, *shown)


def _known(error: Exception) -> tuple[str, str, int] | None:
    """Errors of the libraries below that are the user's or the cloud's: name, message, exit code."""
    import click

    if isinstance(error, click.exceptions.Exit):
        return "Exit", "", error.exit_code
    if isinstance(error, click.ClickException):
        return type(error).__name__, error.format_message(), 2
    if isinstance(error, click.exceptions.Abort):
        return "Aborted", "aborted", 130
    if isinstance(error, OSError) and error.errno == 28:
        return "DiskFull", f"no space is left on the disk: {error.filename or error}; free some and run it again", 6
    if type(error).__module__.startswith("botocore"):
        return "AwsError", f"AWS answered: {error}", 5
    return None


def _fail(arguments: list[str], name: str, message: str, code: int) -> int:
    if message:
        if "--json" in arguments:
            print(json.dumps({"error": name, "message": message, "exit_code": code}))
        else:
            print(f"error: {message}", file=sys.stderr)
    return code
