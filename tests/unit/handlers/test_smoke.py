"""A version that does not answer as it did in its evaluation is not let through."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.contracts.base import canonical_json
from stepforge.contracts.serving import InvokeResponse
from stepforge.errors import InvalidInput, SmokeFailed
from stepforge.machines.deployment import (
    Deployment,
    Golden,
    golden,
    judge,
    smoke,
)

from .conftest import put_artifact
from .promoted import GROUP, ROWS

GOLDEN = Golden(prompts=tuple("abcdefgh"), completions=tuple("ABCDEFGH"), max_new_tokens=8)
SHA = "2" * 64


@given(st.sets(st.integers(0, 7)))
def test_all_but_one_recorded_answer_must_come_back(wrong: set[int]) -> None:
    said = tuple("?" if n in wrong else want for n, want in enumerate(GOLDEN.completions))
    response = InvokeResponse(completions=said, model_sha256=SHA)
    if len(wrong) <= 1:
        assert judge("e", GOLDEN, response, expected_sha256=SHA).equal == 8 - len(wrong)
    else:
        with pytest.raises(SmokeFailed, match=f"{len(wrong)} of 8"):
            judge("e", GOLDEN, response, expected_sha256=SHA)


def test_the_right_answers_of_other_weights_are_refused() -> None:
    response = InvokeResponse(completions=GOLDEN.completions, model_sha256="9" * 64)
    with pytest.raises(SmokeFailed, match="serves the weights 9999"):
        judge("e", GOLDEN, response, expected_sha256=SHA)
    with pytest.raises(SmokeFailed, match="1 answers to 8 prompts"):
        judge("e", GOLDEN, InvokeResponse(completions=("A",), model_sha256=SHA), expected_sha256=SHA)


def test_golden_prompts_are_greedy_and_spread_over_the_evaluation(s3: Any, deployment: Deployment) -> None:
    found = golden(s3, deployment.evaluation)
    assert found.prompts == ("p0", "p2", "p4", "p6", "p8", "p10", "p12", "p14")
    assert found.max_new_tokens == 20


@pytest.mark.parametrize(
    "row", [b"[]", b"{", b'{"decoding": "greedy", "prompt": "p"}'], ids=["list", "cut off", "short"]
)
def test_an_evaluation_with_a_malformed_row_is_refused_and_not_tried_again(s3: Any, row: bytes) -> None:
    evaluation = put_artifact(s3, "evaluate-" + "c" * 12 + "-a0", "evaluation", {"rows.ndjson": row + b"\n"})
    with pytest.raises(InvalidInput, match="has a malformed row"):
        golden(s3, evaluation)


def test_an_evaluation_without_greedy_rows_cannot_vouch_for_a_model(s3: Any) -> None:
    rows = (json.dumps({**ROWS[1]}) + "\n").encode()
    evaluation = put_artifact(s3, "evaluate-" + "b" * 12 + "-a0", "evaluation", {"rows.ndjson": rows})
    with pytest.raises(InvalidInput, match="no greedy row"):
        golden(s3, evaluation)


class Runtime:
    """InvokeEndpoint that answers with `body`."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.request = json.loads(request["Body"])
        return {"Body": io.BytesIO(self.body)}

    class exceptions:
        class ModelError(Exception):
            pass


def test_smoke_asks_greedily_for_as_much_as_the_evaluation_did(s3: Any, deployment: Deployment) -> None:
    want = tuple(f"c{n}" for n in range(0, 16, 2))
    runtime = Runtime(canonical_json(InvokeResponse(completions=want, model_sha256=deployment.artifact.sha256)))
    assert smoke(runtime, s3, deployment, GROUP).equal == 8
    assert (runtime.request["temperature"], runtime.request["max_new_tokens"]) == (0.0, 20)
    with pytest.raises(SmokeFailed, match="something else"):
        smoke(Runtime(b"<html>"), s3, deployment, GROUP)
