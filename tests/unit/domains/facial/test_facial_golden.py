"""Published faces are accepted, but for those of a blend that hold nothing by which one of its emotions is told."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from stepforge.contracts.domains.facial import FacialScenario
from stepforge_jobs.domains.facial import DOMAIN, grammar

LINES = files("stepforge_jobs.domains.facial").joinpath("golden.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [json.loads(line) for line in LINES]


def test_there_is_a_golden_case_for_each_emotion_and_rig_and_each_names_its_source():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 60
    assert {(case["scenario"]["primary"], case["scenario"]["rig"]) for case in CASES} == {
        (emotion, rig)
        for emotion in ("happiness", "sadness", "surprise", "fear", "anger", "disgust", "contempt")
        for rig in ("arkit", "openxr")
    }
    assert all(len(case["source"]) > 20 for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_published_face_is_accepted_unless_one_of_its_emotions_cannot_be_told(case: dict):
    scenario = FacialScenario.model_validate(case["scenario"])
    assert grammar.parse_prompt(case["prompt"]) == scenario
    plan = grammar.parse(case["completion"])
    printed = {
        ("R" if side else "AU") + number: grade
        for side, number, grade in re.findall(r"(R?)(\d+)([A-E]?)", case["units"])
    }
    # AU 25 is read as 26: see tables.ACTION_UNITS.
    printed = {("AU26" if unit == "AU25" else unit): grade for unit, grade in printed.items()}
    assert set(plan.units) == set(printed)
    for unit, grade in zip(plan.units, plan.grades, strict=True):
        assert printed[unit] in ("", grade), unit
    record = DOMAIN.record("rl", 0, seed=0).model_copy(update={"scenario": case["scenario"]})
    verdict = DOMAIN.verify(record, case["completion"])
    refusing = {rule.rule for rule in verdict.rules if rule.hard and rule.score < 1}
    assert refusing == ({case["refused_by"]} if "refused_by" in case else set())
