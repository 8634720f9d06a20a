"""Every machine, on failure: one error name and one sentence from what Catch holds."""

from __future__ import annotations

from _runtime import handles
from stepforge.attempts import CaughtError
from stepforge.failures import Failure
from stepforge.failures import explain as explain_error


@handles
def handler(request: CaughtError) -> Failure:
    return explain_error(request)
