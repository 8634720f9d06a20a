"""What a model answered in its evaluation, it must answer again."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stepforge.artifacts import folder, read_file
from stepforge.contracts.base import first_problem
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.serving import InvokeRequest, InvokeResponse, Prompt
from stepforge.errors import EnvironmentUnavailable, InvalidInput, SmokeFailed
from stepforge.machines.deployment._contracts import Deployment, Golden, SmokeResult
from stepforge.machines.invoking import Target, invoke
from stepforge.machines.packages import ROWS

GOLDEN = 8
"""Recorded greedy answers that a deployed model is asked for; all but one must come back."""


SMOKE_SECONDS = 600.0
"""How long an asynchronous endpoint may take for them."""


class _Row(BaseModel):
    """What is asked again of a line of rows.ndjson."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    decoding: str
    prompt: str
    completion: str
    tokens: int


def golden(s3: Any, evaluation: ArtifactRef, count: int = GOLDEN) -> Golden:
    """`count` recorded greedy answers, spread evenly over the evaluation.

    Raises InvalidInput where there is none, or a row is malformed.
    """
    where = f"{folder(evaluation.uri)}{ROWS}"
    try:
        rows = [_Row.model_validate_json(line) for line in read_file(s3, evaluation, ROWS).splitlines()]
    except ValidationError as error:
        raise InvalidInput(f"{where} has a malformed row: {first_problem(error)}") from error
    greedy = [row for row in rows if row.decoding == "greedy"]
    if not greedy:
        raise InvalidInput(f"{where} has no greedy row: there is nothing to smoke-test with")
    chosen = greedy[:: max(1, len(greedy) // count)][:count]
    return Golden(
        prompts=tuple(row.prompt for row in chosen),
        completions=tuple(row.completion for row in chosen),
        # What the evaluation cut off has this length, and what ended before it ends before it again.
        max_new_tokens=max(1, *(row.tokens for row in greedy)),
    )


def smoke(runtime: Any, s3: Any, deployment: Deployment, endpoint: str) -> SmokeResult:
    """Ask the candidate or the champion, named `endpoint`, what the evaluation asked.

    Raises SmokeFailed where the weights or the answers are others.
    """
    expected = golden(s3, deployment.evaluation)
    request = InvokeRequest(
        records=tuple(Prompt(prompt=prompt) for prompt in expected.prompts), max_new_tokens=expected.max_new_tokens
    )
    target = Target(
        deployment.endpoint if deployment.fleet.mode == "components" else endpoint,
        component=endpoint if deployment.fleet.mode == "components" else None,
        bucket=deployment.fleet.answers.bucket if deployment.fleet.answers else None,
    )
    try:
        answer = invoke(runtime, s3, target, request, timeout_seconds=SMOKE_SECONDS)
    except (InvalidInput, EnvironmentUnavailable) as error:
        raise SmokeFailed(f"{endpoint} failed to answer: {error}") from error
    try:
        response = InvokeResponse.model_validate_json(answer)
    except ValueError as error:
        raise SmokeFailed(f"{endpoint} answered something else than an InvokeResponse: {error}") from error
    return judge(endpoint, expected, response, expected_sha256=deployment.artifact.sha256)


def judge(endpoint: str, expected: Golden, response: InvokeResponse, *, expected_sha256: str) -> SmokeResult:
    """All but one recorded answer must come back from the expected weights. Pure.

    One may differ: a batch rounds otherwise than another batch does, which can flip a tie in greedy decoding.
    """
    asked = len(expected.prompts)
    if response.model_sha256 != expected_sha256:
        raise SmokeFailed(f"{endpoint} serves the weights {response.model_sha256}, not {expected_sha256}")
    if len(response.completions) != asked:
        raise SmokeFailed(f"{endpoint} gave {len(response.completions)} answers to {asked} prompts")
    triples = zip(expected.prompts, expected.completions, response.completions, strict=True)
    wrong = [(prompt, want, got) for prompt, want, got in triples if want != got]
    if len(wrong) > (1 if asked > 1 else 0):
        prompt, want, got = wrong[0]
        raise SmokeFailed(
            f"{endpoint} answered {len(wrong)} of {asked} golden prompts otherwise; {prompt!r}: {got!r}, not {want!r}"
        )
    return SmokeResult(endpoint=endpoint, asked=asked, equal=asked - len(wrong), model_sha256=response.model_sha256)
