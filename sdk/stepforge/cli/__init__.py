"""The command line. `stepforge --help` loads neither boto3 nor torch.

Every command takes --json: one JSON document on stdout, progress on stderr. Exit codes: docs/cli.md.
"""

from __future__ import annotations

import errno
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
        app(given)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except StepforgeError as error:
        return _fail(given, type(error).__name__, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(given, "Interrupted", "interrupted; what was submitted goes on (`stepforge runs`)", 130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" at {error.filename}" if error.filename else ""
        return _fail(given, "DiskFull", f"no space is left on the disk{where}: free some, and run it again", 6)
    except Exception as error:
        if not type(error).__module__.startswith("botocore"):
            raise
        return _fail(given, "AwsError", f"AWS answered: {error}", 5)
    return 0


def _fail(arguments: list[str], name: str, message: str, code: int) -> int:
    if "--json" in arguments:
        print(json.dumps({"error": name, "message": message, "exit_code": code}))
    else:
        print(f"error: {message}", file=sys.stderr)
    return code
