"""Every machine, on failure: one error name and one sentence from what Catch holds."""

from __future__ import annotations

from _runtime import handles
from stepforge.machines.attempts import CaughtError
from stepforge.machines.failures import Failure
from stepforge.machines.failures import explain as explain_error


@handles
def handler(request: CaughtError) -> Failure:
    return explain_error(request)
