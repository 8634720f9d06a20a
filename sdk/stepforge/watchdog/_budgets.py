"""Time budgets from the environment."""

from __future__ import annotations

import math
import os
import re

from stepforge.errors import InvalidInput

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
LONGEST_SECONDS = 30 * 86_400.0


def is_number(given: object) -> bool:
    """Whether it is a finite number, which a text of digits, True and nan are not."""
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def budget_variable(name: str) -> str:
    """The environment variable that sets the budget of a watchdog.

    >>> budget_variable("mlflow-log")
    'STEPFORGE_BUDGET_MLFLOW_LOG_SECONDS'
    """
    return f"STEPFORGE_BUDGET_{name.upper().replace('-', '_')}_SECONDS"


def budget_of(name: str, default: float | None) -> float | None:
    """Seconds that the environment gives to a watchdog, else `default`. Raises InvalidInput for what is none."""
    variable = budget_variable(name)
    given = os.environ.get(variable)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_SECONDS:
        usual = "there is no limit" if default is None else f"it is {default:g}"
        raise InvalidInput(
            f"{variable}={given!r} is no time budget: give seconds above 0 and at most {LONGEST_SECONDS:.0f}, such as "
            f"2.5, or unset it ({usual} then)"
        )
    return seconds
