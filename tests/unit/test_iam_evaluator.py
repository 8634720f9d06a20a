"""The evaluator of policies decides as IAM's documentation says. The examples are its own, shortened."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.iam import Request, allows, decide, like

Json = Any
ME = "arn:aws:iam::123456789012:role/me"
THING = "arn:aws:s3:::b/jobs/x"


def policy(*statements: Json) -> Json:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def statement(effect: str = "Allow", action: Json = "s3:*", resource: Json = "*", **more: Json) -> Json:
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


def asked(action: str = "s3:GetObject", resource: str = THING, **context: Any) -> Request:
    return Request(action, resource, {key.replace("__", ":").lower(): v for key, v in context.items()}, ME)


def test_nothing_is_allowed_that_nobody_allows_and_a_deny_wins_wherever_it_stands() -> None:
    allow, deny = policy(statement()), policy(statement("Deny", "s3:Get*"))
    assert decide(asked()) == "implicit deny"
    assert decide(asked(), identity=[allow]) == "allow"
    for both in ([allow, deny], [deny, allow]):
        assert decide(asked(), identity=both) == "deny"
    assert decide(asked(), identity=[allow], resource=[policy(statement("Deny", Principal="*"))]) == "deny"
    assert decide(asked("s3:PutObject"), identity=[allow, deny]) == "allow"


def test_actions_match_in_any_case_and_resources_do_not() -> None:
    only = policy(statement(action="S3:getobject", resource="arn:aws:s3:::b/jobs/*"))
    assert allows(only, "s3:GetObject", THING)
    assert not allows(only, "s3:GetObject", "arn:aws:s3:::b/JOBS/x")
    assert like("a?c*", "abcd")
    assert not like("a.c", "abc")


def test_everything_but_what_is_named() -> None:
    but = policy({"Effect": "Deny", "NotAction": ["iam:*", "sts:*"], "Resource": "*"}, statement(action="*"))
    assert decide(asked("iam:GetRole"), identity=[but]) == "allow"
    assert decide(asked("s3:GetObject"), identity=[but]) == "deny"
    elsewhere = policy({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::b/ledger/*"})
    assert allows(elsewhere, "s3:GetObject", THING)
    assert not allows(elsewhere, "s3:GetObject", "arn:aws:s3:::b/ledger/x")


@pytest.mark.parametrize(
    ("condition", "given", "holds"),
    [
        ({"StringEquals": {"k": ["a", "b"]}}, "b", True),
        ({"StringEquals": {"k": "a"}}, None, False),
        ({"StringEqualsIfExists": {"k": "a"}}, None, True),
        ({"StringEqualsIfExists": {"k": "a"}}, "b", False),
        ({"StringNotEquals": {"k": "a"}}, None, True),
        ({"StringNotEquals": {"k": ["a", "b"]}}, "b", False),
        ({"StringLike": {"K": "x-*"}}, "x-1", True),
        ({"StringNotLike": {"k": "x-*"}}, "x-1", False),
        ({"Null": {"k": "true"}}, None, True),
        ({"Null": {"k": "true"}}, "a", False),
        ({"Null": {"k": "false"}}, "a", True),
        ({"Bool": {"k": "true"}}, "True", True),
        ({"Bool": {"k": True}}, "true", True),
        ({"NumericLessThanEquals": {"k": "10"}}, "10", True),
        ({"NumericLessThan": {"k": "9"}}, "10", False),
        ({"IpAddress": {"k": "10.0.0.0/8"}}, "10.1.2.3", True),
        ({"NotIpAddress": {"k": "10.0.0.0/8"}}, "10.1.2.3", False),
        ({"ArnLike": {"k": "arn:aws:s3:::b*"}}, "arn:aws:s3:::bucket", True),
        ({"ArnLike": {"k": "arn:*:bucket"}}, "arn:aws:s3:::bucket", False),
        ({"ForAnyValue:StringEquals": {"k": "a"}}, ["a", "b"], True),
        ({"ForAllValues:StringEquals": {"k": "a"}}, ["a", "b"], False),
        ({"ForAllValues:StringEquals": {"k": "a"}}, None, True),
        ({"ForAnyValue:StringEquals": {"k": "a"}}, None, False),
        ({"ForAllValues:StringNotLike": {"k": "ml.g5.*"}}, ["ml.m5.large"], True),
        ({"StringEquals": {"k": "a", "other": "a"}}, "a", False),
    ],
)
def test_a_condition_holds_as_documented(condition: Json, given: Any, holds: bool) -> None:
    request = Request("s3:GetObject", THING, {} if given is None else {"k": given}, ME)
    assert (decide(request, identity=[policy(statement(Condition=condition))]) == "allow") is holds


# By https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html (a key that
# is not there) and .../reference_policies_condition-single-vs-multi-valued-context-keys.html (set operators).
@pytest.mark.parametrize(
    ("operator", "value", "holds"),
    [
        *((operator, "a", False) for operator in ("StringEquals", "StringEqualsIgnoreCase", "StringLike")),
        *((operator, "a", True) for operator in ("StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike")),
        *((f"{operator}IfExists", "a", True) for operator in ("StringEquals", "StringNotEquals", "StringLike")),
        *((operator, "1", False) for operator in ("NumericEquals", "NumericLessThan", "NumericGreaterThanEquals")),
        ("NumericNotEquals", "1", True),
        ("NumericGreaterThanIfExists", "1", True),
        ("Bool", "false", False),
        ("BoolIfExists", "false", True),
        ("ArnLike", "arn:aws:s3:::b", False),
        ("ArnNotLike", "arn:aws:s3:::b", True),
        ("ArnNotEquals", "arn:aws:s3:::b", True),
        ("IpAddress", "10.0.0.0/8", False),
        ("NotIpAddress", "10.0.0.0/8", True),
        *((f"ForAnyValue:String{test}", "a", False) for test in ("Equals", "Like", "NotEquals", "NotLike")),
        *((f"ForAllValues:String{test}", "a", True) for test in ("Equals", "Like", "NotEquals", "NotLike")),
        ("Null", "true", True),
        ("Null", "false", False),
    ],
)
@pytest.mark.parametrize("given", [None, []], ids=["missing", "empty"])
def test_of_a_key_that_is_not_there_a_condition_holds_as_documented(
    operator: str, value: str, holds: bool, given: Any
) -> None:
    request = Request("s3:GetObject", THING, {} if given is None else {"k": given}, ME)
    for effect, met in (("Allow", "allow"), ("Deny", "deny")):
        found = decide(request, identity=[policy(statement(effect, Condition={operator: {"k": value}}))])
        assert (found == met) is holds, effect


@pytest.mark.parametrize(
    ("operator", "given", "holds"),
    [
        ("ForAnyValue:StringNotLike", ["ml.m5.large", "ml.p5.48xlarge"], True),
        ("ForAnyValue:StringNotLike", ["ml.m5.large", "ml.m5.xlarge"], False),
        ("ForAllValues:StringNotLike", ["ml.m5.large", "ml.p5.48xlarge"], False),
        ("ForAllValues:StringNotLike", ["ml.p4d.24xlarge", "ml.p5.48xlarge"], True),
        ("ForAnyValue:StringLike", ["ml.p5.48xlarge", "ml.m5.large"], True),
        ("ForAllValues:StringLike", ["ml.m5.xlarge", "ml.m5.large"], True),
    ],
)
def test_of_several_values_a_set_operator_asks_each(operator: str, given: list[str], holds: bool) -> None:
    request = Request("s3:GetObject", THING, {"k": given}, ME)
    found = decide(request, identity=[policy(statement(Condition={operator: {"k": "ml.m5.*"}}))])
    assert (found == "allow") is holds


def test_a_misspelt_key_voids_a_deny_for_values_and_lets_a_null_test_deny_everything() -> None:
    """Why the policies' keys are held to a list: a mistyped key is no error to IAM."""
    right = policy(statement(action="*"), statement("Deny", Condition={"StringEquals": {"s3:prefix": "a"}}))
    wrong = policy(statement(action="*"), statement("Deny", Condition={"StringEquals": {"s3:prefixx": "a"}}))
    assert decide(asked(s3__prefix="a"), identity=[right]) == "deny"
    assert decide(asked(s3__prefix="a"), identity=[wrong]) == "allow"


@pytest.mark.parametrize("operator", ["StringIs", "ForSome:StringEquals", "ForAnyValue:StringEqualsIfExists"])
def test_an_operator_that_is_not_known_is_an_error(operator: str) -> None:
    with pytest.raises(KeyError):
        decide(asked(k="a"), identity=[policy(statement(Condition={operator: {"k": "a"}}))])


def test_variables_are_those_of_the_request() -> None:
    own = policy(statement(resource="arn:aws:s3:::b/${aws:PrincipalTag/team}/*"))
    assert decide(asked(aws__PrincipalTag_team="x"), identity=[own]) == "implicit deny"
    request = Request("s3:GetObject", "arn:aws:s3:::b/red/x", {"aws:principaltag/team": "red"}, ME)
    assert decide(request, identity=[own]) == "allow"


def test_a_variable_that_the_request_lacks_is_its_default() -> None:
    own = policy(statement(resource="arn:aws:s3:::b/${aws:PrincipalTag/team, 'red'}/*"))
    for tags, decision in (({}, "allow"), ({"aws:principaltag/team": "blue"}, "implicit deny")):
        request = Request("s3:GetObject", "arn:aws:s3:::b/red/x", tags, ME)
        assert decide(request, identity=[own]) == decision


def test_a_resource_allows_whom_it_names_and_a_boundary_limits_what_others_allow() -> None:
    named = policy(statement(Principal={"AWS": ME}))
    assert decide(asked(), resource=[named]) == "allow"
    assert decide(asked(), resource=[policy(statement(Principal={"AWS": ME + "2"}))]) == "implicit deny"
    service = Request("s3:GetObject", THING, {}, "service:sagemaker.amazonaws.com")
    assert decide(service, resource=[policy(statement(Principal={"Service": "sagemaker.amazonaws.com"}))]) == "allow"
    refused = policy({**statement("Deny"), "NotPrincipal": {"AWS": ME}})
    assert decide(asked(), identity=[policy(statement())], resource=[refused]) == "allow"
    assert decide(asked(), identity=[policy(statement())], boundaries=[policy(statement(action="kms:*"))]) == (
        "implicit deny"
    )


def test_a_key_is_used_by_those_whom_its_own_policy_lets() -> None:
    key, mine = "arn:aws:kms:us-east-1:123456789012:key/1", [policy(statement(action="kms:Decrypt"))]
    request = Request("kms:Decrypt", key, {}, ME)
    account = policy(statement(action="kms:*", Principal={"AWS": "arn:aws:iam::123456789012:root"}))
    another = policy(statement(action="kms:*", Principal={"AWS": ME + "2"}))

    def of(*policies: Json, identity: list[Json]) -> str:
        return decide(request, identity=identity, resource=policies, key_policy=True)

    assert of(account, identity=mine) == "allow"
    assert of(account, identity=[]) == "implicit deny"
    assert of(another, identity=mine) == "implicit deny"
    assert of(policy(statement(action="kms:*", Principal={"AWS": ME})), identity=[]) == "allow"


ROOT, OTHER = "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:role/other"


@pytest.mark.parametrize(
    ("named", "own", "decision"),
    [
        (ROOT, False, "implicit deny"),
        ("123456789012", False, "implicit deny"),
        ([ROOT, OTHER], False, "implicit deny"),
        (ROOT, True, "allow"),
        ([ROOT, ME], False, "allow"),
        (ME, False, "allow"),
        ("*", False, "allow"),
        (OTHER, False, "implicit deny"),
    ],
)
def test_a_resource_that_lets_the_account_in_leaves_it_to_the_callers_own_policies(
    named: Json, own: bool, decision: str
) -> None:
    bucket = policy(statement(Principal={"AWS": named}))
    assert decide(asked(), identity=[policy(statement())] if own else [], resource=[bucket]) == decision


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
@pytest.mark.parametrize("of", ["aws", "aws-cn", "aws-us-gov"])
def test_the_root_of_an_account_is_of_its_partition(partition: str, of: str) -> None:
    request = Request("kms:Decrypt", "key", {}, ME.replace("arn:aws:", f"arn:{partition}:"))
    key = policy(statement(action="*", Principal={"AWS": ROOT.replace("arn:aws:", f"arn:{of}:")}))
    found = decide(request, identity=[policy(statement(action="*"))], resource=[key], key_policy=True)
    assert (found == "allow") == (partition == of)


@pytest.mark.parametrize(
    ("pattern", "resource", "matches"),
    [
        ("a${*}b", "a*b", True),
        ("a${*}b", "axb", False),
        ("a${?}b", "a?b", True),
        ("a${?}b", "axb", False),
        ("a${$}b", "a$b", True),
        ("home/${aws:username}/*", "home/*/x", True),
        ("home/${aws:username}/*", "home/ann/x", False),
        ("home/${aws:absent}", "home/*", False),
    ],
)
def test_what_stands_for_itself_is_no_wildcard(pattern: str, resource: str, matches: bool) -> None:
    request = Request("s3:GetObject", resource, {"aws:username": "*"}, ME)
    assert (decide(request, identity=[policy(statement(resource=pattern))]) == "allow") is matches


@pytest.mark.parametrize(
    ("operator", "given", "holds"),
    [("StringLike", "*", True), ("StringLike", "a", False), ("StringEquals", "*", True), ("StringEquals", "a", False)],
)
def test_a_variable_in_a_condition_is_no_pattern_either(operator: str, given: str, holds: bool) -> None:
    condition = {operator: {"k": "${aws:username}"}}
    request = Request("s3:GetObject", THING, {"aws:username": "*", "k": given}, ME)
    assert (decide(request, identity=[policy(statement(Condition=condition))]) == "allow") is holds
