"""The errors that stepforge raises, named after the boundary that was crossed.

StepforgeError
├── UserError                what was given cannot work: exit code 2, nothing was changed
│   ├── UnknownName          a domain, run, model or environment that does not exist
│   └── InvalidInput         a file, record or option that is malformed
├── IntegrityError           bytes differ from their recorded digest
├── IdentityConflict         a name is taken by something with another identity
├── JobFailed                a training job ended without success
├── RunFailed                an execution of a state machine ended without success
└── EnvironmentUnavailable   the cloud, the local server or a part of it cannot be reached
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StepforgeError(Exception):
    """The root of the hierarchy. `exit_code` is what the CLI ends with."""

    exit_code = 1


class UserError(StepforgeError, ValueError):
    exit_code = 2


class UnknownName(UserError):
    """A name that is not among those that exist.

    >>> str(UnknownName("domain", "facal", ["facial"]))
    "unknown domain 'facal': did you mean 'facial'? There are: facial"
    """

    def __init__(self, what: str, given: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(given, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listing = f"There are: {', '.join(names)}" if names else "There are none"
        super().__init__(f"unknown {what} {given!r}: {hint}{listing}")


class InvalidInput(UserError):
    pass


class IntegrityError(StepforgeError):
    exit_code = 3


class IdentityConflict(StepforgeError):
    exit_code = 3


class JobFailed(StepforgeError):
    exit_code = 4


class RunFailed(StepforgeError):
    exit_code = 4


class EnvironmentUnavailable(StepforgeError):
    exit_code = 5
