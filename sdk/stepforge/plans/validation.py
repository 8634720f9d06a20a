"""Every value of a request, checked against the service's own model before anything is sent.

botocore checks types and required fields alone; enumerations, patterns and upper limits are told only by the service,
one at a time, after the specs and the data were uploaded. All of them are in the model that botocore ships.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LISTED = 6
_CLASSES = {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": r"\s"}
"""Java's classes of characters, as near as Python has them."""
LONGEST_RUNTIME_SECONDS = 432_000
"""Five days: what the machine `run-job` waits for a job, and SageMaker's own limit without a higher quota."""


@dataclass(frozen=True)
class Problem:
    """One value that would be refused."""

    field: str
    given: str
    allowed: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: given {self.given}, allowed is {self.allowed}; {self.remedy}"


def check_request(shape: Any, request: Mapping[str, Any], *, at: str = "") -> list[Problem]:
    """What the service would refuse about a request. `shape` is botocore's input shape of the operation."""
    return list(_structure(shape, request, at))


def _structure(shape: Any, value: Mapping[str, Any], at: str) -> Iterator[Problem]:
    for name in shape.required_members:
        if name not in value:
            yield Problem(_join(at, name), "nothing", "a value", "give it")
    for name, inner in value.items():
        if name not in shape.members:
            near = difflib.get_close_matches(name, shape.members, n=1)
            yield Problem(
                _join(at, name), repr(name), ", ".join(near) or "no such field", "write it so, or leave it out"
            )
        else:
            yield from _value(shape.members[name], inner, _join(at, name))


def _value(shape: Any, value: Any, at: str) -> Iterator[Problem]:
    if shape.type_name == "structure":
        yield from _structure(shape, value, at)
    elif shape.type_name == "list":
        yield from _length(shape, value, at, "entries")
        for number, item in enumerate(value):
            yield from _value(shape.member, item, f"{at}[{number}]")
    elif shape.type_name == "map":
        yield from _length(shape, value, at, "entries")
        for key, item in value.items():
            yield from _value(shape.key, key, f"{at} (the key {key!r})")
            yield from _value(shape.value, item, _join(at, key))
    elif shape.type_name == "string":
        yield from _string(shape, value, at)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _number(shape, value, at)


def _string(shape: Any, value: Any, at: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem(at, repr(value), "text", "write it as text")
        return
    if shape.enum and value not in shape.enum:
        yield Problem(at, repr(value), *_choice(value, shape.enum))
        return
    yield from _length(shape, value, at, "characters")
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        yield Problem(at, repr(value), f"what matches {pattern}", "use these characters")


def _choice(value: str, allowed: Sequence[str]) -> tuple[str, str]:
    near = difflib.get_close_matches(value, allowed, n=_LISTED) or sorted(allowed)[:_LISTED]
    more = f" and {len(allowed) - len(near)} more" if len(allowed) > len(near) else ""
    return ", ".join(near) + more, f"{near[0]!r} is the nearest: use it, or another of them"


def _matches(pattern: str, value: str) -> bool:
    """Whether Java's pattern matches the whole value; a pattern that Python cannot read refuses nothing."""
    for java, python in _CLASSES.items():
        pattern = pattern.replace(java, python)
    try:
        return re.fullmatch(pattern, value, flags=re.DOTALL) is not None
    except re.error:
        return True


def _number(shape: Any, value: Any, at: str) -> Iterator[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield Problem(at, repr(value), "a number", "write it as a number")
        return
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < low:
        yield Problem(at, str(value), f"{low} or more", f"raise it to {low}")
    if high is not None and value > high:
        yield Problem(at, str(value), f"{high} or less", f"lower it to {high}")


def _length(shape: Any, value: Any, at: str, what: str) -> Iterator[Problem]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and len(value) < low:
        yield Problem(at, f"{len(value)} {what}", f"{low} or more", "add what is missing")
    if high is not None and len(value) > high:
        yield Problem(at, f"{len(value)} {what}", f"{high} at most", "shorten it")


def check_limits(request: Mapping[str, Any]) -> list[Problem]:
    """What the service's model does not say, and the service or our own machine refuses all the same."""
    limits = request["StoppingCondition"]
    runtime, wait = limits["MaxRuntimeInSeconds"], limits.get("MaxWaitTimeInSeconds")
    found = []
    if runtime > LONGEST_RUNTIME_SECONDS:
        found.append(
            Problem(
                "StoppingCondition.MaxRuntimeInSeconds",
                str(runtime),
                f"{LONGEST_RUNTIME_SECONDS} (five days) or less",
                "lower resources.max_runtime_seconds: a job goes on from its checkpoint when it is started again",
            )
        )
    if wait is not None and wait < runtime:
        found.append(
            Problem(
                "StoppingCondition.MaxWaitTimeInSeconds",
                str(wait),
                f"{runtime} (MaxRuntimeInSeconds) or more",
                "raise resources.max_wait_seconds",
            )
        )
    return found


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
