"""The command line. `stepforge --help` loads neither boto3 nor torch.

Every command takes --json: one JSON document on stdout, progress on stderr. Exit codes: docs/cli.md.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

__all__ = ["main"]

_INTERRUPTED = 130
_NO_READER = 141
_LEAST_FREE_BYTES = 1 << 20
_NO_ACCESS = ("NoRegionError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
_NO_ANSWER = ("EndpointConnectionError", "ConnectionClosedError", "ConnectTimeoutError", "ReadTimeoutError")
"""botocore's names: their classes would have to be imported."""

_AGAIN = "Run it again: what was submitted is found, and goes on"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; the console script passes it to the shell.

    141, as of a process that SIGPIPE ends, where whoever reads stdout went away: `stepforge runs | head -1`.
    """
    stdout, stderr = sys.stdout, sys.stderr
    try:
        code = _run(arguments)
        stdout.flush()
    except BrokenPipeError:
        code = _NO_READER
    if sys.stdout is not stdout:  # typer has met it first, and put something in its place
        sys.stdout, sys.stderr, code = stdout, stderr, _NO_READER
    if code == _NO_READER:
        _let_go(stdout)
    return code


def _let_go(stdout: TextIO) -> None:
    """What is still buffered goes nowhere, and the interpreter's last flush finds nothing wrong."""
    try:
        stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)


def _run(arguments: Sequence[str] | None) -> int:
    from stepforge.cli._app import app
    from stepforge.errors import StepforgeError

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(given, standalone_mode=False, prog_name="stepforge")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except StepforgeError as error:
        if full := _full_disk():
            return _fail(given, "DiskFull", f"{_disk_full(full)}. What came of it: {_one_line(error)}", 6)
        return _fail(given, type(error).__name__, str(error), error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _fail(given, "DiskFull", _disk_full(error.filename), 6)
    except Exception as error:
        if type(error).__module__.startswith("typer."):
            return _misused(given, error)
        if not type(error).__module__.startswith("botocore"):
            raise
        if type(error).__name__ in _NO_ACCESS:
            from stepforge.connection import REMEDY

            return _fail(given, "EnvironmentUnavailable", f"AWS cannot be called: {error} {REMEDY}", 5)
        if type(error).__name__ in _NO_ANSWER:
            if full := _full_disk():
                return _fail(given, "DiskFull", f"{_disk_full(full)}. What came of it: {_one_line(error)}", 6)
            said = f"the environment stopped answering: {error} {_AGAIN}"
            return _fail(given, "EnvironmentUnavailable", said, 5)
        from stepforge.patience import hint, trouble

        advice = hint(error) or (_AGAIN if trouble(error) else "")
        return _fail(given, "AwsError", f"AWS answered: {error} {advice}".rstrip(), 5)
    if code == _INTERRUPTED:
        return _fail(given, "Interrupted", "interrupted; what was submitted goes on (`stepforge runs`)", code)
    return code if isinstance(code, int) else 0


def _misused(arguments: list[str], error: Any) -> int:
    """What typer raises: its classes are in a private module, so they are told by their names."""
    name = type(error).__name__
    if name == "Abort":
        return _fail(arguments, "Interrupted", "not confirmed: nothing was done", _INTERRUPTED)
    if name == "NoArgsIsHelpError":
        error.show()
        return 2
    message = " ".join(error.format_message().split())
    where = f" (see `{error.ctx.command_path} --help`)" if getattr(error, "ctx", None) else ""
    return _fail(arguments, "InvalidInput", f"{message.rstrip('.')}{where}", 2)


def _full_disk() -> Path | None:
    """Where the local AWS keeps its state, if no space is left there: its own errors do not say so."""
    from stepforge.installation.home import home
    from stepforge.local.state import Layout

    root = Layout.of(home()).root
    return root if root.is_dir() and shutil.disk_usage(root).free < _LEAST_FREE_BYTES else None


def _disk_full(where: object) -> str:
    return f"no space is left on the disk{f' at {where}' if where else ''}: free some, and run it again"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:300]}..."


def _fail(arguments: list[str], name: str, message: str, code: int) -> int:
    if "--json" in arguments:
        print(json.dumps({"error": name, "message": message, "exit_code": code}))
    else:
        print(f"error: {message}", file=sys.stderr)
    return code
