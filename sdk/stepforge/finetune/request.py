"""What the machine `finetune` is given, hands on, gives back and works with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stepforge.artifacts import read_bytes
from stepforge.contracts.base import Contract, S3Uri, Sha256, canonical_json
from stepforge.contracts.decisions import Question
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import DOMAIN_TAG, ENVIRONMENT_TAG, Keys
from stepforge.contracts.registry import Comparison, Registered
from stepforge.economics.catalogue import ModelPrice
from stepforge.economics.grounds import Grounds
from stepforge.errors import IntegrityError
from stepforge.finetune.addresses import Secrets
from stepforge.finetune.entries import Budgets, Entry, Stage
from stepforge.finetune.holding import Held, held, shipped
from stepforge.finetune.job import Tuned
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.plan import Plan
from stepforge.finetune.provider import Provider
from stepforge.finetune.settings import connect
from stepforge.finetune.spec import TuneSpec


class Request(Contract):
    """A paid tune as it was asked for. Its digest is its identity; no key stands in it.

    It is the caller's word, `price`, `question` and `grounds` too: with rows, priors or criteria of one's own any arm
    can be made to pay, as it can by asking nothing. The verdict guards the caller; the environment is guarded by its
    budgets and by the dearer price, which hold whatever stands here (`stepforge.finetune.holding`).
    """

    version: Literal[1] = 1
    plan: Plan
    spec: TuneSpec
    price: ModelPrice
    shutdown: date | None = None
    needed_until: date
    domain: str
    """Whose verifier judges the tuned model, and whose group it is registered in."""
    heldout_sha256: Sha256
    """Of the held-out records, a line each, at `Keys.finetune("heldout", ...)`."""
    max_tokens: int = Field(default=512, ge=1, le=8192)
    """Of one answer in the evaluation."""
    question: Question | None = None
    """With it, the launch depends on the evaluator's verdict: it has to choose `arm`."""
    arm: str | None = None
    grounds: Grounds | None = None
    """What that verdict rests on; None: on the catalogue that ships."""

    @model_validator(mode="after")
    def _asks(self) -> Request:
        if self.grounds is not None and self.question is None:
            raise ValueError("grounds belong to a question: leave them out, or give question and arm")
        return self

    @property
    def cost_tags(self) -> dict[str, str]:
        """By which the bill and the environment's budget know what is made of it."""
        return {ENVIRONMENT_TAG: self.spec.environment, DOMAIN_TAG: self.domain}


class Start(Contract):
    """Input of the machine."""

    request_uri: S3Uri
    request_sha256: Sha256


class Flow(Contract):
    """What the states hand on."""

    start: Start
    key: str
    stage: Stage
    estimate_usd: str
    wait_seconds: int
    tuned: Tuned | None = None
    asked: int = 0
    """Answers that the evaluation has so far."""
    evaluation: ArtifactRef | None = None
    releases: bool = False
    """Whether the model is evaluated on an endpoint that is removed afterwards, whatever came of it."""


class Output(Contract):
    """Output of the machine."""

    key: str
    registered: Registered
    comparison: Comparison
    cost_usd: str
    local_fake: bool


@dataclass(frozen=True)
class Ended:
    """A launch whose execution ended without success."""

    entry: Entry
    deploys: bool
    """Whether a step of it may just be making an endpoint for the evaluation."""


@dataclass(frozen=True)
class Tools:
    """What steps work with: the ledger, boto3 clients, and the environment's own settings."""

    ledger: Ledger
    s3: Any
    sagemaker: Any
    secrets: Secrets | None
    """None: keys are found as a person's are."""
    bucket: str
    environment: str
    first_seconds: int = 30
    most_seconds: int = 900
    """Between two looks. A look is 9 history events of at most 25,000: 900 s lasts for 28 days."""
    limits: Budgets | None = None
    """The environment's own, which hold whatever a request says; None on a person's machine."""

    def request(self, start: Start) -> Request:
        """Raises IntegrityError where it was altered."""
        data = read_bytes(self.s3, start.request_uri)
        if hashlib.sha256(data).hexdigest() != start.request_sha256:
            raise IntegrityError(f"{start.request_uri} is not what was asked for: its digest is another. Ask again")
        return Request.model_validate_json(data)

    def provider(self, request: Request) -> Provider:
        return connect(request.plan.provider, self.secrets, self.s3)

    def held(self, request: Request, provider: Provider, *, counts: bool = False) -> Held:
        """Price and budgets that a launch is held to; with `counts` the tokens of its data too."""
        training = request.spec.training
        data = (lambda: self.get("data", training.sha256)) if counts else None
        return held(request.plan, request.spec, request.price, provider, self.limits, shipped(), data=data)

    def get(self, kind: Literal["data", "heldout"], sha256: str) -> bytes:
        uri = f"s3://{self.bucket}/{Keys.finetune(kind, f'{sha256}.jsonl')}"
        data = read_bytes(self.s3, uri)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f"{uri} was altered: its digest is another. Upload it again")
        return data

    def put(self, key: str, data: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)


def request_bytes(request: Request) -> tuple[bytes, str]:
    """A request as it lies in S3, and its digest."""
    plain = request.model_dump(mode="json")
    if plain["grounds"] is None:
        del plain["grounds"]  # what was asked before there were any keeps its digest
    data = canonical_json(plain)
    return data, hashlib.sha256(data).hexdigest()


def submit(tools: Tools, request: Request, folder: Path, heldout: bytes) -> Start:
    """Upload what a request needs, the request last. `folder` holds the data as `datasets.write` left them."""
    for file in (request.spec.training, request.spec.validation):
        if file is not None:
            tools.put(Keys.finetune("data", file.filename), (folder / file.filename).read_bytes())
    tools.put(Keys.finetune("heldout", f"{request.heldout_sha256}.jsonl"), heldout)
    data, sha256 = request_bytes(request)
    key = Keys.finetune("requests", f"{sha256}.json")
    tools.put(key, data)
    return Start(request_uri=f"s3://{tools.bucket}/{key}", request_sha256=sha256)
