"""The committed JSON Schemas are those of the contracts, and they accept what the contracts write."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from stepforge.contracts.records import Provenance, Record, Step
from stepforge.contracts.schemas import MODELS, schema_text

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
RECORD = Record(
    id="r1",
    domain="demo",
    source="template",
    split="train",
    group="sums",
    prompt="1 + 1 =",
    steps=(Step(action="2"),),
    verifier="demo@1",
    provenance=Provenance(generator="demo@1"),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_committed_schema_is_fresh(model: type[BaseModel]) -> None:
    path = SCHEMAS / f"{model.__name__}.json"
    assert path.read_text() == schema_text(model), "run `make schemas`"


def test_no_schema_is_left_behind() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {model.__name__ for model in MODELS}


def test_a_record_is_valid_under_its_schema_and_a_broken_one_is_not() -> None:
    schema = json.loads((SCHEMAS / "Record.json").read_text())
    plain = json.loads(RECORD.model_dump_json())
    jsonschema.validate(plain, schema)
    with pytest.raises(jsonschema.ValidationError, match="prompt"):
        jsonschema.validate({**plain, "prompt": 7}, schema)
