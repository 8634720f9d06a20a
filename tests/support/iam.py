"""IAM's decision on one request, of the policies of one account: explicit deny, then allow, then nothing.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html. A condition operator that is
not known here raises KeyError. Not covered: requests across accounts, session policies, policies of an organisation
but through `boundaries`, which limit as they do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Decision = Literal["allow", "deny", "implicit deny"]
Json = Any


@dataclass(frozen=True)
class Request:
    """One call. `context` has condition keys in lower case, as IAM compares them; a list is a key of many values."""

    action: str
    resource: str
    context: dict[str, str | list[str]] = field(default_factory=dict)
    principal: str = ""
    """ARN of who calls, or `service:lambda.amazonaws.com`; what policies of resources name."""

    def value(self, key: str) -> str | list[str] | None:
        return self.context.get(key.lower())


def listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


_LITERAL = str.maketrans({"*": "\ue000", "?": "\ue001"})
_WRITTEN = str.maketrans({"\ue000": "*", "\ue001": "?"})
"""A `*` that stands for itself is another character until patterns are compared."""


def like(pattern: str, value: str) -> bool:
    """IAM's wildcards: `*` for any number of characters, `?` for one."""
    parts = re.split(r"([*?])", pattern)
    text = "".join({"*": ".*", "?": "."}.get(part, re.escape(part.translate(_WRITTEN))) for part in parts)
    return re.fullmatch(text, value, flags=re.DOTALL) is not None


def _arn_like(pattern: str, value: str) -> bool:
    """Each of the six parts of an ARN is compared by itself: a `*` does not reach over a colon."""
    wanted, given = pattern.split(":", 5), value.split(":", 5)
    return len(wanted) == len(given) and all(map(like, wanted, given))


def _in_network(wanted: str, value: str) -> bool:
    return ipaddress.ip_address(value) in ipaddress.ip_network(wanted)


Test = Callable[[str, str], bool]
_OPERATORS: dict[str, Test] = {
    "StringEquals": str.__eq__,
    "StringEqualsIgnoreCase": lambda wanted, value: wanted.lower() == value.lower(),
    "StringLike": like,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": lambda wanted, value: wanted.lower() == value.lower(),
    "IpAddress": _in_network,
    "NumericEquals": lambda wanted, value: float(value) == float(wanted),
    "NumericLessThan": lambda wanted, value: float(value) < float(wanted),
    "NumericLessThanEquals": lambda wanted, value: float(value) <= float(wanted),
    "NumericGreaterThan": lambda wanted, value: float(value) > float(wanted),
    "NumericGreaterThanEquals": lambda wanted, value: float(value) >= float(wanted),
}
_NEGATED = {
    "StringNotEquals": "StringEquals", "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike", "ArnNotEquals": "ArnEquals", "ArnNotLike": "ArnLike", "NotIpAddress": "IpAddress",
    "NumericNotEquals": "NumericEquals",
}  # fmt: skip


def _holds(operator: str, key: str, wanted: Json, request: Request) -> bool:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html"""
    values = [_filled(str(item).lower() if isinstance(item, bool) else str(item), request) for item in listed(wanted)]
    found = request.value(key)
    absent = found is None or found == []
    if operator == "Null":
        return any(absent == (value.lower() == "true") for value in values)
    quantifier, _, rest = operator.rpartition(":")
    if quantifier not in ("", "ForAllValues", "ForAnyValue") or (quantifier and rest.endswith("IfExists")):
        raise KeyError(f"{operator} is no operator, or one whose meaning is not documented")
    rest, optional = rest.removesuffix("IfExists"), rest.endswith("IfExists")
    negated = rest in _NEGATED
    test = _OPERATORS[_NEGATED.get(rest, rest)]
    if test not in (like, _arn_like):
        values = [value.translate(_WRITTEN) for value in values]
    if absent:
        # Every one of no values holds, and none of them does: a set operator comes before what it quantifies.
        if quantifier:
            return quantifier == "ForAllValues"
        # What is not there differs from everything.
        return optional or negated

    def one(value: str) -> bool:
        return any(test(item, value) for item in values) != negated

    given = [str(value) for value in listed(found)]
    return any(map(one, given)) if quantifier == "ForAnyValue" else all(map(one, given))


def _filled(text: str, request: Request) -> str:
    """Variables such as `${aws:PrincipalTag/team}`, of which those that are not in the request match nothing, but for
    their default: `${aws:PrincipalTag/team, 'all'}`.

    `${*}`, `${?}` and `${$}` are these characters, and what stands in a variable is no pattern:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """

    def value(match: re.Match[str]) -> str:
        found = match[1] if match[1] in ("*", "?", "$") else request.value(match[1])
        found = match[2] if found is None else found
        return found.translate(_LITERAL) if isinstance(found, str) else "\0"

    return re.sub(r"\$\{([^},]+)(?:,\s*'([^']*)')?\}", value, text)


def _names(statement: Json, request: Request, *, by_account: bool = True) -> bool:
    """Whether a statement of a resource's policy names who calls, `by_account` or itself; one of an identity names
    nobody."""
    if "Principal" not in statement and "NotPrincipal" not in statement:
        return True
    given = statement.get("Principal", statement.get("NotPrincipal"))
    by_kind = {"AWS": "*"} if given == "*" else given
    parties = [
        f"service:{party}" if kind == "Service" else party for kind, named in by_kind.items() for party in listed(named)
    ]
    parts = request.principal.split(":")
    account = parts[4] if len(parts) > 5 and by_account else ""
    whole = {f"arn:{parts[1]}:iam::{account}:root", account} if account else set()
    met = any(party == "*" or party == request.principal or party in whole for party in parties)
    return met != ("NotPrincipal" in statement)


def applies(statement: Json, request: Request) -> bool:
    """Whether a statement speaks about a request: its principal, action, resource and every condition match."""
    action = any(
        like(pattern.lower(), request.action.lower())
        for pattern in listed(statement.get("Action", statement.get("NotAction")))
    )
    if action == ("NotAction" in statement):
        return False
    resource = any(
        like(_filled(pattern, request), request.resource)
        for pattern in listed(statement.get("Resource", statement.get("NotResource", "*")))
    )
    if resource == ("NotResource" in statement):
        return False
    return _names(statement, request) and all(
        _holds(operator, key, wanted, request)
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def _effects(policies: Iterable[Json], request: Request) -> set[str]:
    return {
        statement["Effect"]
        for policy in policies
        for statement in listed(policy["Statement"])
        if applies(statement, request)
    }


def decide(
    request: Request,
    *,
    identity: Iterable[Json] = (),
    resource: Iterable[Json] = (),
    boundaries: Iterable[Json] = (),
    key_policy: bool = False,
) -> Decision:
    """The decision within one account. With `key_policy` the resource is a KMS key, whose own policy has to let the
    account's identities use it: https://docs.aws.amazon.com/kms/latest/developerguide/key-policies.html"""
    identity, resource = list(identity), list(resource)
    by_identity, by_resource = _effects(identity, request), _effects(resource, request)
    limits = [_effects([boundary], request) for boundary in boundaries]
    if any("Deny" in effects for effects in (by_identity, by_resource, *limits)):
        return "deny"
    if any("Allow" not in effects for effects in limits):
        return "implicit deny"
    if key_policy and "Allow" not in by_resource:
        return "implicit deny"
    return "allow" if "Allow" in by_identity or _allowed_itself(resource, request) else "implicit deny"


def _allowed_itself(policies: list[Json], request: Request) -> bool:
    """A resource's policy names the caller itself; the account leaves the rest to the caller's own policies."""
    return any(
        statement["Effect"] == "Allow"
        and applies(statement, request)
        and ("NotPrincipal" in statement or _names(statement, request, by_account=False))
        for policy in policies
        for statement in listed(policy["Statement"])
    )


def allows(policy: Json, action: str, resource: str, **context: str) -> bool:
    """Whether a policy of an identity allows it; `context` has condition keys with `__` for `:`."""
    found = {key.replace("__", ":").lower(): value for key, value in context.items()}
    return decide(Request(action, resource, dict(found)), identity=[policy]) == "allow"
