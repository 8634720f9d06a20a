"""Every AWS client is made of the caller's session: its region, its credentials, its profile."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import boto3
import pytest

from stepforge.connection import Connection, parse_environment
from stepforge.economics.prices import PRICE_LIST_REGION

SDK = Path(__file__).resolve().parents[2] / "sdk" / "stepforge"
SERVICES = ("sagemaker", "s3", "ssm", "iam", "service-quotas")
PROFILES = "[profile ci]\nregion = eu-central-1\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = s\n"


def calls(path: Path) -> list[tuple[str, int]]:
    """What a file makes clients and sessions with: `boto3.client`, `boto3.Session`, `something._session.client`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            makes = name in ("boto3.client", "boto3.resource", "boto3.Session", "boto3.session.Session")
            if makes or name.endswith(("session.client", "session.resource", "session.create_client")):
                found.append((name, node.lineno))
    return found


def test_only_the_connection_makes_clients_and_nobody_uses_the_default_session() -> None:
    found = {path.relative_to(SDK).as_posix(): [name for name, _ in calls(path)] for path in SDK.rglob("*.py")}
    makers = {path: names for path, names in found.items() if names and not path.startswith("local/")}
    assert set(makers.pop("connection.py")) <= {"boto3.Session", "self._session.client"}
    # Providers of paid fine-tunes are given a session; a plan from a file makes the caller's, in the plan's region.
    assert {path: set(names) for path, names in makers.items()} == {
        "cli/_decide.py": {"boto3.Session", "session.client"},  # the price list is of no environment
        "finetune/aws.py": {"boto3.Session", "session.client"},
        "finetune/settings.py": {"boto3.Session", "session.client"},
        "finetune/searches/rewriting.py": {"session.client"},
    }


def test_no_module_makes_a_client_when_it_is_imported() -> None:
    for path in SDK.rglob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                made = [ast.unparse(n.func) for n in ast.walk(statement) if isinstance(n, ast.Call)]
                assert not [name for name in made if name.startswith("boto3") or name.endswith(".client")], path


def signed_by(client: Any) -> tuple[str, str]:
    credentials = client._request_signer._credentials
    return client.meta.region_name, credentials.access_key


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose own credentials and region are others."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.mark.usefixtures("elsewhere")
def test_every_client_has_the_sessions_region_and_credentials() -> None:
    connection = Connection("dev", boto3.Session("AKIACALLER", "secret", region_name="eu-west-1"))
    found = {service: signed_by(connection.client(service)) for service in SERVICES if service != "iam"}
    assert set(found.values()) == {("eu-west-1", "AKIACALLER")}
    assert signed_by(connection.client("iam"))[1] == "AKIACALLER"
    assert signed_by(connection.client("pricing", region=PRICE_LIST_REGION)) == ("us-east-1", "AKIACALLER")
    assert connection.client("s3") is connection.client("s3")


def test_a_profile_of_the_session_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(PROFILES)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    connection = Connection("dev", boto3.Session(profile_name="ci"))
    assert signed_by(connection.client("s3")) == ("eu-central-1", "AKIAPROFILE")


def test_a_budget_of_the_environment_is_a_parameter_of_it() -> None:
    values = {
        "bucket": "b", "key-arn": "k", "training-role-arn": "r", "serving-role-arn": "s", "machines/train": "m",
        "images/train": "i", "code/sft": "c" * 64,
    }  # fmt: skip
    assert parse_environment("dev", values).budget_usd is None
    assert parse_environment("dev", {**values, "budget-usd": "12.5"}).budget_usd == 12.5
