"""What an endpoint exports is the domain's export of the answer, or the reason why the rules refuse it."""

from __future__ import annotations

import json

import pytest

from stepforge_jobs.domains.facial import DOMAIN
from stepforge_jobs.serving.server import _export


@pytest.mark.parametrize("format", DOMAIN.export_formats)
def test_an_accepted_answer_is_exported_as_the_domain_exports_its_record(format: str) -> None:
    exported = 0
    for record in (DOMAIN.record("train", index, seed=0) for index in range(8)):
        found = _export(DOMAIN, "facial", record.prompt, record.solution, format=format)
        if found.content is not None:
            exported += 1
            assert found.content == DOMAIN.export(record, record.solution, format=format)
        else:
            with pytest.raises(ValueError, match=r".+"):
                DOMAIN.export(record, record.solution, format=format)
    assert exported > 0


def test_a_refused_answer_is_not_exported_and_says_why() -> None:
    record = DOMAIN.record("train", 0, seed=0)
    found = _export(DOMAIN, "facial", record.prompt, "AU1 ;", format=DOMAIN.export_formats[0])
    assert found.content is None
    assert "steps" in found.refusal


def test_an_exported_face_is_json_with_weights_between_0_and_1() -> None:
    record = next(r for i in range(20) if (r := DOMAIN.record("train", i, seed=0)).stratum == "retained")
    found = _export(DOMAIN, "facial", record.prompt, record.solution, format="arkit-json")
    plain = json.loads(found.content or "{}")
    assert all(0 <= weight <= 1 for row in plain["weightMat"] for weight in row)
