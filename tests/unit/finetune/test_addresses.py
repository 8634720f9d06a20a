"""A key goes where it was stored for, whatever a request says."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from stepforge.contracts.registry import ExternalLineage, PackageMetadata
from stepforge.contracts.serving import InvokeRequest, Prompt
from stepforge.errors import AddressRefused, InvalidInput
from stepforge.finetune import TuneSpec, flow, serving
from stepforge.finetune.request import Request, Start, Tools, request_bytes
from stepforge.finetune.settings import Settings, hold_callers
from tests.unit.finetune.conftest import BUDGETS, PRICE

KEY, AZURE = "sk-THE-ENVIRONMENTS-KEY", "https://me.openai.azure.com/openai/v1"
NAMED = json.dumps({"api_key": KEY, "base_url": AZURE})
PROMPTS = {
    "budget_usd": 1, "input_usd": 1, "output_usd": 5, "as_of": "2026-11-01", "source": "s", "folder_uri": "s3://b/p",
}  # fmt: skip
GOOGLE = {"type": "vertex", "project": "p", "location": "us-central1", "folder_uri": "gs://b/t"}
TUNING = {"role_arn": "arn:aws:iam::1:role/r", "folder_uri": "s3://b/t", "region": "us-east-1"}


def provider(given: dict[str, Any], stored: str = KEY) -> Any:
    settings: Any = TypeAdapter(Settings).validate_python(given)
    return settings.provider(lambda name: stored)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "openai", "api_key_secret": "s", "base_url": "https://attacker.example/v1"},
        {"type": "anthropic", "api_key_secret": "s", "base_url": "https://attacker.example", **PROMPTS},
        {**GOOGLE, "credentials_secret": "s", "base_url": "https://attacker.example"},
        {**GOOGLE, "base_url": "https://attacker.example"},
        {"type": "bedrock", **TUNING, "endpoint_url": "https://attacker.example"},
        {"type": "sagemaker", **TUNING, "group_arn": "g", "endpoint_url": "https://attacker.example"},
    ],
    ids=["openai", "anthropic", "vertex", "vertex without a secret", "bedrock", "sagemaker"],
)
def test_no_address_of_a_request_gets_a_key(given: dict[str, Any]) -> None:
    stored = json.dumps({"type": "service_account", "private_key": KEY}) if given["type"] == "vertex" else KEY
    with pytest.raises(AddressRefused, match="leave base_url") as refused:
        provider(given, stored)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "openai", "base_url": AZURE},
        {"type": "openai", "base_url": "http://api.openai.com/v1"},
        {"type": "anthropic", "base_url": "https://attacker.example", **PROMPTS},
        {**GOOGLE, "base_url": "https://attacker.example"},
        {"type": "bedrock", **TUNING, "endpoint_url": "https://attacker.example"},
    ],
    ids=["openai", "not encrypted", "anthropic", "vertex", "bedrock"],
)
def test_a_model_of_somebody_else_does_not_get_a_persons_own_key_sent_to_any_address(
    given: dict[str, Any], spec: TuneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    data, sha256 = request_of(given, spec, {"plan": "dev", "spec": "dev"})
    properties = PackageMetadata(
        pipeline_sha256=sha256, model_sha256="1" * 64, evaluation_sha256="2" * 64, evaluation_uri="s3://bucket/e/",
        dataset_sha256="3" * 64, training_job_arn="arn:j", domain="records",
    ).properties() | ExternalLineage(
        external_provider=given["type"], external_job="j", external_model="m", external_handle="m",
        external_base="small", external_key="k", external_request_uri="s3://bucket/r", external_cost_usd="1",
    ).properties()  # fmt: skip
    asked = InvokeRequest(records=(Prompt(prompt="7"),))
    with pytest.raises(AddressRefused) as refused:
        serving.answer(holding(data), properties, asked, None)
    assert KEY not in str(refused.value)


def test_a_persons_own_key_goes_to_the_vendor_and_where_the_person_says(monkeypatch: pytest.MonkeyPatch) -> None:
    parse: Any = TypeAdapter(Settings).validate_python
    named, loopback = parse({"type": "openai", "base_url": AZURE}), {"base_url": "http://127.0.0.1:8080"}
    for own in ({"type": "openai"}, {"type": "anthropic", **PROMPTS}, {"type": "anthropic", **PROMPTS, **loopback}):
        hold_callers(parse(own))
    with pytest.raises(AddressRefused, match="set OPENAI_BASE_URL to it"):
        hold_callers(named)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{AZURE}/")
    hold_callers(named)


@pytest.mark.parametrize(
    "address",
    [
        "http://api.openai.com/v1",
        "https://api.openai.com@evil.example",
        "https://evil.example\\@127.0.0.1",
        "https://a b",
    ],
)
def test_what_is_no_plain_address_is_refused_before_the_secret_is_read(address: str) -> None:
    settings: Any = TypeAdapter(Settings).validate_python(
        {"type": "openai", "api_key_secret": "s", "base_url": address}
    )
    read: list[str] = []
    with pytest.raises(AddressRefused):
        settings.provider(read.append)
    assert read == []


def test_a_key_goes_to_its_vendor_and_one_that_names_an_address_there_alone() -> None:
    plain = {"type": "openai", "api_key_secret": "s"}
    assert provider(plain).target == "openai:https://api.openai.com/v1"
    assert provider({**plain, "base_url": f"{AZURE}/"}, NAMED).target.startswith(f"openai:{AZURE}")
    assert provider({"type": "anthropic", "api_key_secret": "s", **PROMPTS}).name == "anthropic"
    with pytest.raises(AddressRefused, match=r"was not stored for 'https://api\.openai\.com/v1'"):
        provider(plain, NAMED)


@pytest.mark.parametrize("stored", ['{"base_url": "https://api.openai.com/v1"}', '{"api_key": "sk-x"'])
def test_a_secret_that_is_malformed_is_refused_without_showing_it(stored: str) -> None:
    with pytest.raises(InvalidInput, match="secret 's'") as refused:
        provider({"type": "openai", "api_key_secret": "s"}, stored)
    assert "sk-x" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_location_cannot_become_another_host() -> None:
    with pytest.raises(ValidationError, match="location"):
        provider({**GOOGLE, "location": "evil.example/"})


def request_of(settings: dict[str, Any], spec: TuneSpec, environments: dict[str, str]) -> tuple[bytes, str]:
    plan = {"environment": environments["plan"], "base_model": "small", "method": "sft", "provider": settings}
    request = Request.model_validate(
        {
            "plan": {**plan, "budgets": BUDGETS},
            "spec": spec.model_copy(update={"environment": environments["spec"]}),
            "price": PRICE, "needed_until": "2026-12-01", "domain": "records", "heldout_sha256": "a" * 64,
        }
    )  # fmt: skip
    data, sha256 = request_bytes(request)
    assert hashlib.sha256(data).hexdigest() == sha256
    return data, sha256


def holding(data: bytes) -> Any:
    return SimpleNamespace(get_object=lambda **_: {"Body": SimpleNamespace(read=lambda: data)})


@pytest.mark.parametrize("field", ["plan", "spec"])
def test_a_request_of_another_environment_is_refused_before_anything_is_read(spec: TuneSpec, field: str) -> None:
    dev = {"plan": "dev", "spec": "dev", field: "prod"}
    data, sha256 = request_of({"type": "openai", "api_key_secret": "s"}, spec, dev)
    s3 = holding(data)
    read: list[str] = []
    tools = Tools(
        ledger=None, s3=s3, sagemaker=None, secrets=read.append, bucket="b", environment="dev",  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="--env"):
        flow.decide(tools, Start(request_uri="s3://bucket/r", request_sha256=sha256), lambda _: None)
    assert read == []
