"""The preview is a face, whatever the completion; it holds no script and nothing of the completion unescaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from stepforge.contracts.domains.facial import EMOTIONS, FacialScenario
from stepforge_jobs.domains.facial import DOMAIN, grammar
from stepforge_jobs.domains.facial.drawing import NEUTRAL, draw, weights_of
from stepforge_jobs.domains.facial.expert import solve
from stepforge_jobs.domains.facial.scenarios import targets


def record_of(scenario: FacialScenario):
    return DOMAIN.record("rl", 0, seed=0).model_copy(update={"scenario": scenario.model_dump(mode="json")})


def peak(scenario: FacialScenario) -> dict:
    return weights_of(grammar.expand(solve(scenario), scenario))


def test_an_accepted_expression_is_shown_still_and_moving_and_said_to_be_accepted():
    scenario = FacialScenario(primary="fear", secondary="anger", level=4, display="masked", rig="openxr")
    html = DOMAIN.preview(record_of(scenario), grammar.render(solve(scenario)))
    assert html.count("<svg") == 2
    assert "<animate" in html
    assert 'repeatCount="indefinite"' in html
    assert "Accepted, reward 1.00" in html
    assert "AU12 lip corner puller <b>D</b>" in html
    assert "<script" not in html
    ET.fromstring(html)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AU6 AU12 ; AU6 C AU12 E ; cheekSquint mouthSmile ; on4 apex60 off8 ;", "units.intensity"),
        ("AU6 AU12 ; AU6 C AU12 <script>alert(1)</script>", "4 steps"),
        ("{}", "not a facial artifact"),
        ("", "4 steps"),
    ],
)
def test_a_refused_expression_is_drawn_with_the_reason_in_red(text: str, said: str):
    html = DOMAIN.preview(record_of(FacialScenario(primary="happiness", level=3)), text)
    assert html.count("<svg") == 2
    assert "#c62828" in html
    assert said in html
    assert "<script" not in html
    ET.fromstring(html)


def test_the_still_face_and_the_neutral_face_have_the_same_paths_so_that_one_moves_into_the_other():
    def skeleton(strokes):
        return [re.sub(r"-?[\d.]+", "#", stroke.d) for stroke in strokes]

    for scenario in targets()[::17]:
        assert skeleton(draw(peak(scenario))) == skeleton(draw(NEUTRAL))


def test_the_seven_emotions_are_drawn_as_seven_faces_none_of_them_neutral():
    faces = [tuple(draw(peak(FacialScenario(primary=emotion, level=4)))) for emotion in EMOTIONS]
    assert len({*faces, tuple(draw(NEUTRAL))}) == 8


def test_both_rigs_draw_the_same_face():
    for emotion in EMOTIONS:
        arkit = FacialScenario(primary=emotion, level=4)
        assert draw(peak(arkit)) == draw(peak(arkit.model_copy(update={"rig": "openxr"})))


def test_contempt_moves_the_right_side_alone():
    weights = peak(FacialScenario(primary="contempt", level=4))
    assert weights["AU12", "right"] > 0.5
    assert weights["AU12", "left"] == 0.0


def test_ids_of_two_previews_on_one_page_do_not_meet():
    scenario = FacialScenario(primary="anger", level=4)
    record = record_of(scenario)
    first, second = (
        set(re.findall(r' id="([^"]+)"', DOMAIN.preview(record, text)))
        for text in (grammar.render(solve(scenario)), "AU4")
    )
    assert first
    assert not first & second
