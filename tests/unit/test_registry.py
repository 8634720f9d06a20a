"""What is asked of a model is checked before an endpoint is."""

from __future__ import annotations

import boto3
import pytest

from stepforge.connection import Connection
from stepforge.errors import InvalidInput
from stepforge.registry import Registry


@pytest.mark.parametrize(
    ("prompts", "options", "field"),
    [
        ([""], {}, "prompt"),
        ([], {}, "records"),
        (["x"] * 257, {}, "records"),
        (["x"], {"temperature": 11.0}, "temperature"),
        (["x"], {"temperature": float("nan")}, "temperature"),
        (["x"], {"seed": -1}, "seed"),
        (["x"], {"seed": 2**40}, "seed"),
        (["x"], {"max_new_tokens": 0}, "max_new_tokens"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_no_endpoint_answers_is_refused_naming_the_field(prompts: list, options: dict, field: str) -> None:
    registry = Registry(Connection("test", boto3.Session(region_name="us-east-1")))
    with pytest.raises(InvalidInput, match=f"this cannot be asked: field '.*{field}"):
        registry.predict("facial", prompts, **options)
