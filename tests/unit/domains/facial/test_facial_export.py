"""Exported files hold the curves, frame by frame, under the names of the format."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest

from stepforge.contracts.domains.facial import FacialScenario
from stepforge.errors import InvalidInput, UnknownName
from stepforge_jobs.domains.facial import DOMAIN, grammar
from stepforge_jobs.domains.facial.expert import solve
from stepforge_jobs.domains.facial.export import weight_at
from stepforge_jobs.domains.facial.scenarios import retained, targets
from stepforge_jobs.domains.facial.tables import MAX_CHANGE, RIG_TABLES


def exported(scenario: FacialScenario, format: str) -> str:
    record = DOMAIN.record("rl", 0, seed=0).model_copy(update={"scenario": scenario.model_dump(mode="json")})
    return DOMAIN.export(record, grammar.render(solve(scenario)), format=format)


SMILE = FacialScenario(primary="happiness", level=3)


def test_arkit_json_holds_a_row_of_52_weights_for_each_frame():
    content = json.loads(exported(SMILE, "arkit-json"))
    assert content["exportFps"] == 60
    assert content["numFrames"] == len(content["weightMat"]) == len(content["timeCodes"]) == 4 + 60 + 8 + 1
    assert content["numPoses"] == len(content["facsNames"]) == {len(row) for row in content["weightMat"]}.pop() == 52
    smile = content["facsNames"].index("mouthSmileLeft")
    column = [row[smile] for row in content["weightMat"]]
    assert column[:6] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert column[64:68] == [0.5, 0.4375, 0.375, 0.3125]
    assert column[-1] == 0.0
    assert content["timeCodes"][6] == pytest.approx(0.1)


@pytest.mark.parametrize("format", ["arkit-json", "openxr-json"])
def test_both_rigs_are_carried_into_both_formats_without_loss_and_within_the_rate(format: str):
    for scenario in (*targets()[::97], *retained()[::9]):
        content = json.loads(exported(scenario, format))
        assert content["notCarried"] == []
        rows = content["weightMat"]
        assert rows[0] == rows[-1] == [0.0] * len(content["facsNames"])
        assert max(abs(a - b) for r, s in pairwise(rows) for a, b in zip(r, s, strict=True)) <= MAX_CHANGE + 1e-6
        expected = {
            n
            for u in solve(scenario).units
            for n in RIG_TABLES[content["rig"]].blendshapes(RIG_TABLES[content["rig"]].shapes[u])
        }
        assert {
            name for name, column in zip(content["facsNames"], zip(*rows, strict=True), strict=True) if max(column) > 0
        } == expected


def test_one_sided_contempt_stays_one_sided_in_the_other_rig():
    content = json.loads(exported(FacialScenario(primary="contempt", level=4, rig="openxr"), "arkit-json"))
    peaks = {
        name: max(column)
        for name, column in zip(content["facsNames"], zip(*content["weightMat"], strict=True), strict=True)
    }
    assert {name for name, weight in peaks.items() if weight} == {"mouthSmileRight", "mouthDimpleRight"}


def test_live_link_csv_has_its_header_61_values_and_timecodes_at_60_frames():
    rows = list(csv.reader(io.StringIO(exported(SMILE.model_copy(update={"rig": "openxr"}), "livelink-csv"))))
    header, first, last = rows[0], rows[1], rows[-1]
    assert header[:5] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft", "EyeLookDownLeft", "EyeLookInLeft"]
    assert header.index("JawRight") < header.index("JawLeft")
    assert header[-9:-6] == ["HeadYaw", "HeadPitch", "HeadRoll"]
    assert len(header) == 2 + 61
    assert {len(row) for row in rows} == {63}
    assert first[:2] == ["00:00:00:00.000", "61"]
    assert last[0] == "00:00:01:12.000"
    assert float(rows[10][header.index("MouthSmileRight")]) == 0.5


def test_a_curve_is_linear_between_keyframes_and_constant_outside():
    curve = ((2, 0.0), (4, 0.5), (6, 0.5), (16, 0.0))
    assert [weight_at(curve, frame) for frame in (0, 2, 3, 4, 5, 6, 11, 16, 99)] == [
        0,
        0,
        0.25,
        0.5,
        0.5,
        0.5,
        0.25,
        0,
        0,
    ]


def test_a_refused_completion_is_not_exported_and_an_unknown_format_is_named():
    record = DOMAIN.record("rl", 0, seed=0)
    with pytest.raises(InvalidInput, match="4 steps"):
        DOMAIN.export(record, "AU6", format="arkit-json")
    smile = record.model_copy(update={"scenario": SMILE.model_dump(mode="json")})
    with pytest.raises(InvalidInput, match=r"units\.intensity"):
        DOMAIN.export(
            smile, "AU6 AU12 ; AU6 C AU12 E ; cheekSquint mouthSmile ; on4 apex60 off8 ;", format="arkit-json"
        )
    with pytest.raises(UnknownName, match="fbx"):
        DOMAIN.export(record, "AU6", format="fbx")
