"""A registered tune answers as our own endpoints do: InvokeRequest in, InvokeResponse out, wherever the model is.

Not covered: exports, and verdicts on single answers; the domain's rules run in our containers, and over a provider's
model in its evaluation.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from stepforge.artifacts import read_bytes
from stepforge.contracts.base import Contract
from stepforge.contracts.registry import ExternalLineage, PackageMetadata
from stepforge.contracts.serving import InvokeRequest, InvokeResponse
from stepforge.errors import IntegrityError, InvalidInput, ProviderRefused, SmokeFailed
from stepforge.finetune.addresses import Secrets
from stepforge.finetune.evaluation import identity
from stepforge.finetune.job import Message, Tuned
from stepforge.finetune.plan import Plan
from stepforge.finetune.provider import Deployed
from stepforge.finetune.request import Request
from stepforge.finetune.settings import connect, hold_callers

PROBE = "1 + 1 ="


class Answered(InvokeResponse):
    """What a provider's model answered."""

    local_fake: bool = False
    """Whether a local server did: nothing was trained."""


class Tried(Contract):
    """What a promotion found of a model that its provider serves."""

    endpoint: str
    asked: int
    answered: int


def answer(s3: Any, properties: dict[str, str], asked: InvokeRequest, secrets: Secrets | None) -> Answered:
    """Ask a registered tune. `properties` are its package's; `secrets` as in `Settings.provider`.

    Raises InvalidInput for an export, IntegrityError where the request in S3 is not the registered one, AddressRefused
    where a key of the caller's own would go to an address that the request alone names, and what the provider raises.
    """
    if asked.export is not None:
        raise InvalidInput(f"export {asked.export!r}: a provider's model answers with text alone. Leave --export out")
    request, tuned = _reached(s3, properties)
    if secrets is None:
        hold_callers(request.plan.provider)
    provider = connect(request.plan.provider, secrets, s3)
    # A model that was registered before there was a choice answers on with what it was tuned with.
    said = request.plan.system_sent if request.plan.personal == "redact" else request.plan.system
    system = [Message(role="system", content=said)] if said else []
    completions = [
        provider.invoke(
            tuned,
            [*system, Message(role="user", content=record.prompt)],
            max_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
        )
        for record in asked.records
    ]
    return Answered(
        model_sha256=identity(tuned),
        completions=tuple(found.text for found in completions),
        local_fake=tuned.local_fake,
    )


def try_it(s3: Any, properties: dict[str, str], secrets: Secrets | None) -> Tried:
    """One question, so that nothing is promoted that does not answer.

    A model that answers only on an endpoint is deployed for it, and stays so. Raises SmokeFailed, and NotReady while an
    endpoint comes up.
    """
    request, tuned = _reached(s3, properties)
    provider = connect(request.plan.provider, secrets, s3)
    try:
        if isinstance(provider, Deployed):
            tuned = provider.deploy(tuned.job_id, trial=False, tags=request.cost_tags)
        found = provider.invoke(tuned, [Message(role="user", content=PROBE)], max_tokens=16)
    except ProviderRefused as error:
        raise SmokeFailed(f"{tuned.handle} does not answer: {error}") from error
    return Tried(endpoint=tuned.handle, asked=1, answered=int(bool(found.text)))


def secrets_for(plan: Plan, secretsmanager: Any) -> Secrets | None:
    """None where this machine's own environment has the key, else what reads the plan's secret."""
    variable = getattr(plan.provider, "api_key_env", None)
    secret = getattr(plan.provider, "api_key_secret", None) or getattr(plan.provider, "credentials_secret", None)
    if secret is None or (variable is not None and os.environ.get(variable)):
        return None
    return lambda name: str(secretsmanager.get_secret_value(SecretId=name)["SecretString"])


def request_of(s3: Any, properties: dict[str, str]) -> Request:
    """The request that a package was tuned by. Raises IntegrityError where it was altered."""
    return _reached(s3, properties)[0]


def _reached(s3: Any, properties: dict[str, str]) -> tuple[Request, Tuned]:
    metadata, lineage = PackageMetadata.of(properties), ExternalLineage.of(properties)
    if metadata is None or lineage is None:
        raise InvalidInput("this package is no tune that stepforge registered: it has no lineage at a provider")
    data = read_bytes(s3, lineage.external_request_uri)
    if hashlib.sha256(data).hexdigest() != metadata.pipeline_sha256:
        raise IntegrityError(f"{lineage.external_request_uri} is not what the package was tuned by: it was altered")
    request = Request.model_validate_json(data)
    tuned = Tuned(
        provider=request.spec.provider,
        job_id=lineage.external_job,
        model=lineage.external_model,
        handle=lineage.external_handle,
    )
    return request, tuned
