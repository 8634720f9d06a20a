"""IAM as far as the project's policies need it: explicit deny, then allow; wildcards; a few condition operators.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html. Not covered: NotAction,
NotResource, variables, boundaries; an operator that is not known here raises KeyError.
"""

from __future__ import annotations

import re
from typing import Any


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def like(pattern: str, value: str) -> bool:
    """IAM's wildcards: `*` for any number of characters, `?` for one."""
    parts = re.split(r"([*?])", pattern)
    text = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(text, value, flags=re.DOTALL) is not None


_OPERATORS = {
    "StringLike": like,
    "StringEquals": str.__eq__,
    "Bool": lambda wanted, value: wanted.lower() == value.lower(),
}


def _holds(conditions: dict[str, Any], context: dict[str, str]) -> bool:
    return all(
        key in context and any(_OPERATORS[operator](wanted, context[key]) for wanted in listed(values))
        for operator, keys in conditions.items()
        for key, values in keys.items()
    )


def allows(policy: dict[str, Any], action: str, resource: str, **context: str) -> bool:
    """Whether a policy lets `action` happen on `resource`; `context` has condition keys with `__` for `:`."""
    found = {key.replace("__", ":"): value for key, value in context.items()}
    effects = {
        statement["Effect"]
        for statement in policy["Statement"]
        if any(like(pattern.lower(), action.lower()) for pattern in listed(statement["Action"]))
        and any(like(pattern, resource) for pattern in listed(statement["Resource"]))
        and _holds(statement.get("Condition", {}), found)
    }
    return "Allow" in effects and "Deny" not in effects
