"""Step Functions: a JSONPath that selects nothing is States.Runtime.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

from typing import Any

import ministack.services.stepfunctions as sfn

Json = Any
_evaluate_rule = sfn._evaluate_rule


def install() -> None:
    sfn._resolve_path = resolve_path
    sfn._evaluate_rule = evaluate_rule


def _missing(path: str, data: Json) -> sfn._ExecutionError:
    keys = f"; the input has {sorted(map(str, data))}" if isinstance(data, dict) else ""
    return sfn._ExecutionError("States.Runtime", f"The JSONPath '{path}' could not be found in the input{keys}")


def resolve_path(path: str, data: Json) -> Json:
    """Upstream answers None for what is not there, and a Choice or a job then goes on with null."""
    if not path or path == "$" or not path.startswith("$"):
        return data
    tokens = sfn._parse_jsonpath_tokens(path)
    if tokens is None:
        raise sfn._ExecutionError(
            "States.Runtime", f"The JSONPath '{path}' is not of the kind that runs here: names, indexes and [*]"
        )
    values, many = [data], False
    for kind, key in tokens:
        found: list[Json] = []
        for value in values:
            if kind == "wildcard":
                found.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
            elif (kind == "field" and isinstance(value, dict) and key in value) or (
                kind == "index" and isinstance(value, list) and key < len(value)
            ):
                found.append(value[key])
            elif not many:
                raise _missing(path, data)
        many = many or kind == "wildcard"
        values = found
    return values if many else values[0]


def evaluate_rule(rule: Json, data: Json, ctx: Json = None) -> bool:
    """Upstream calls a field that is null absent."""
    if "IsPresent" not in rule:
        return _evaluate_rule(rule, data, ctx)
    try:
        sfn._resolve_path_or_ctx(rule["Variable"], data, ctx)
    except sfn._ExecutionError:
        return not rule["IsPresent"]
    return bool(rule["IsPresent"])
