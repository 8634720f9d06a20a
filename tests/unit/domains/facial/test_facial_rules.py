"""The rules accept what is right, refuse what is wrong, and say why."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepforge.contracts.domains.facial import (
    DISPLAYS,
    EMOTIONS,
    GRADES,
    PACES,
    RIGS,
    BodyLanguage,
    FacialArtifact,
    FacialScenario,
)
from stepforge_jobs.domains.facial import DOMAIN, grammar
from stepforge_jobs.domains.facial.expectation import expect
from stepforge_jobs.domains.facial.expert import careless, least_onset, solve
from stepforge_jobs.domains.facial.mutants import MUTANTS, Mutant
from stepforge_jobs.domains.facial.rules import RULES, judge
from stepforge_jobs.domains.facial.scenarios import corpus_scenario, retained, targets
from stepforge_jobs.domains.facial.tables import ACTION_UNITS, MAX_CHANGE, RIG_TABLES, WEIGHTS

HARD = {rule.name: rule.hard for rule in RULES}
EVERY = (*targets(), *retained())


def verify(scenario: FacialScenario, text: str):
    record = DOMAIN.record("rl", 0, seed=0).model_copy(update={"scenario": scenario.model_dump(mode="json")})
    return DOMAIN.verify(record, text)


def failing(verdict) -> set[str]:
    return {result.rule for result in verdict.rules if result.score < 1}


def test_the_expert_earns_reward_1_on_every_target_and_retained_scenario_within_the_budgets():
    for scenario in EVERY:
        plan = solve(scenario)
        actions = grammar.render_steps(plan)
        verdict = judge(scenario, grammar.expand(plan, scenario))
        assert verdict.accepted, (scenario, verdict.rules)
        assert verdict.reward == verdict.partial == 1.0
        assert max(len(action.split()) for action in actions) <= 24
        assert sum(len(action.split()) for action in actions) <= 64


def test_the_expert_earns_reward_1_on_scenarios_of_the_corpus_too():
    rng = random.Random(11)
    for _ in range(2_000):
        scenario = corpus_scenario(rng)
        assert judge(scenario, grammar.expand(solve(scenario), scenario)).reward == 1.0, scenario


def test_careless_authors_are_right_on_every_retained_scenario_and_hardly_ever_on_a_target():
    rng = random.Random(3)
    accepted = sum(judge(s, grammar.expand(careless(s, rng, care=0.35), s)).accepted for s in targets())
    assert accepted / len(targets()) < 0.01
    assert all(judge(s, grammar.expand(careless(s, rng, care=0.35), s)).accepted for s in retained() for _ in range(5))


def test_a_careful_author_is_the_expert_but_for_the_lips_of_anger():
    for scenario in EVERY[::7]:
        plan = careless(scenario, random.Random(1), care=1.0)
        assert {"AU23" if unit == "AU24" else unit for unit in plan.units} == set(solve(scenario).units)


def test_the_answer_to_one_emotion_alone_is_refused_wherever_the_display_rule_lets_the_other_show():
    refused, hidden = 0, 0
    for scenario in targets():
        for one, other in ((scenario.primary, scenario.secondary), (scenario.secondary, scenario.primary)):
            alone = scenario.model_copy(update={"primary": one, "secondary": None})
            verdict = judge(scenario, grammar.expand(solve(alone), scenario))
            if other in expect(scenario).evidence:
                assert not verdict.accepted, (scenario, one)
                refused += 1
            else:
                hidden += 1
    assert refused == 2_780
    assert hidden == 340


def test_every_rule_names_a_source_and_has_a_mutant():
    assert set(MUTANTS) == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert len(rule.source) >= 4, rule.name
        assert MUTANTS[rule.name], rule.name


@pytest.mark.parametrize(
    ("rule", "mutant"), [(r, m) for r, ms in MUTANTS.items() for m in ms], ids=lambda x: getattr(x, "__name__", x)
)
def test_a_mutant_is_refused_by_the_rule_that_it_breaks(rule: str, mutant: Mutant):
    rng = random.Random(f"{rule}{mutant.__name__}")
    made = 0
    for scenario in rng.sample(EVERY, 150):
        spoilt = mutant(rng, scenario, grammar.expand(solve(scenario), scenario))
        if spoilt is None:
            continue
        made += 1
        verdict = judge(scenario, spoilt)
        assert rule in failing(verdict), (scenario, spoilt)
        assert verdict.reward < 1.0
        assert verdict.accepted is not HARD[rule] or failing(verdict) - {rule}
        if HARD[rule]:
            assert not verdict.accepted
            assert verdict.reward == 0.0
    assert made >= 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "4 steps"),
        ("{}", "rig"),
        ("[1, 2]", "4 steps"),
        ("{not json", "not a facial artifact"),
        (
            '{"rig": "arkit", "action_units": {}, "curves": {}, "body": {"posture": "neutral", "tempo": "even"}}',
            "needs",
        ),
        ("AU6 AU12 ; AU6 C AU12 C ; cheekSquint mouthSmile ; on4 apex60 off8", "4 steps"),
        ("AU6 AU99 ; AU6 C AU99 C ; cheekSquint ; on4 apex60 off8 ;", "'AU99' is no action unit"),
        ("AU6 AU6 ; AU6 C AU6 C ; cheekSquint ; on4 apex60 off8 ;", "twice"),
        ("; ; cheekSquint ; on4 apex60 off8 ;", "no action unit"),
        ("AU6 AU12 ; AU6 C ; cheekSquint mouthSmile ; on4 apex60 off8 ;", "a grade for each"),
        ("AU6 AU12 ; AU6 C AU15 C ; cheekSquint mouthSmile ; on4 apex60 off8 ;", "step 1 has AU6 AU12"),
        ("AU6 AU12 ; AU6 C AU12 F ; cheekSquint mouthSmile ; on4 apex60 off8 ;", "'F' is no grade"),
        ("AU6 ; AU6 C ; cheekSquint cheekSquint ; on4 apex60 off8 ;", "twice"),
        ("AU6 AU12 ; AU6 C AU12 C ; cheekSquint mouthSmile ; apex60 on4 off8 ;", "step 4"),
        ("AU6 AU12 ; AU6 C AU12 C ; cheekSquint mouthSmile ; on4 apex61 off8 ;", "step 4"),
    ],
)
def test_what_cannot_be_read_scores_0_with_the_reason(text: str, reason: str):
    verdict = verify(FacialScenario(primary="happiness", level=3), text)
    assert (verdict.accepted, verdict.reward, verdict.partial, verdict.rules) == (False, 0.0, 0.0, ())
    assert reason in verdict.reason


def test_no_blendshape_at_all_is_refused_not_raised():
    verdict = verify(FacialScenario(primary="happiness", level=3), "AU6 AU12 ; AU6 C AU12 C ; ; on4 apex60 off8 ;")
    assert not verdict.accepted
    assert "rig.mapping" in failing(verdict)


def test_the_whole_artifact_as_json_is_judged_like_its_text():
    for scenario in random.Random(5).sample(EVERY, 60):
        plan = careless(scenario, random.Random(scenario.level), care=0.5)
        as_json = grammar.expand(plan, scenario).model_dump_json()
        assert verify(scenario, as_json) == verify(scenario, grammar.render(plan))


def expert_json(scenario: FacialScenario, **curves: tuple[tuple[int, float], ...]) -> str:
    artifact = grammar.expand(solve(scenario), scenario)
    return artifact.model_copy(update={"curves": {**artifact.curves, **curves}}).model_dump_json()


def delayed(scenario: FacialScenario, name: str, frames: int) -> tuple[tuple[int, float], ...]:
    first, *rest = grammar.expand(solve(scenario), scenario).curves[name]
    return (first, (frames, 0.0), *((frame + frames, weight) for frame, weight in rest))


@pytest.mark.parametrize(
    "scenario", [s for s in EVERY[::40] if s.rig == "arkit"], ids=lambda s: f"{s.primary}-{s.level}"
)
@pytest.mark.parametrize("start", [1, 20])
def test_the_expert_may_blink(scenario: FacialScenario, start: int):
    blink = ((0, 0.0), (start, 0.0), (start + 7, 1.0), (start + 14, 0.0))
    verdict = verify(scenario, expert_json(scenario, eyeBlinkLeft=blink, eyeBlinkRight=blink))
    # A blink while the eyes are wide is refused, as ever.
    assert failing(verdict) <= ({"rig.lids"} if "AU5" in solve(scenario).units else set())


def test_sides_and_units_need_not_move_on_the_very_same_frame():
    scenario = FacialScenario(primary="happiness", level=3)
    smile = delayed(scenario, "mouthSmileRight", 5)
    assert verify(scenario, expert_json(scenario, mouthSmileRight=smile)).reward == 1.0
    late = {name: delayed(scenario, name, 15) for name in ("cheekSquintLeft", "cheekSquintRight")}
    assert verify(scenario, expert_json(scenario, **late)).reward == 1.0


def test_a_left_smile_after_the_right_one_is_refused_with_the_frame():
    scenario = FacialScenario(primary="happiness", level=3)
    verdict = verify(scenario, expert_json(scenario, mouthSmileLeft=delayed(scenario, "mouthSmileLeft", 150)))
    (symmetry,) = (result for result in verdict.rules if result.rule == "rig.symmetry")
    assert symmetry.message == "mouthSmileLeft and mouthSmileRight move more than 0.1 s apart, near frame 154"


def test_reward_is_the_weighted_mean_of_the_soft_rules_where_all_hard_ones_hold():
    scenario = FacialScenario(primary="sadness", level=3)
    verdict = verify(scenario, "AU4 AU15 ; AU4 C AU15 B ; browDown mouthFrown ; on4 apex60 off4 ;")
    # Du's sadness (4+15) is exact (weight 2); one of two grades is off (weight 1); the fade is too fast (weight 1).
    assert verdict.accepted
    assert failing(verdict) == {"units.intensity_exact", "time.fade"}
    assert verdict.reward == pytest.approx((2 * 1 + 1 * 0.5 + 1 * 0) / 4)
    assert verdict.partial == pytest.approx((len(RULES) - 1.5) / len(RULES))


def test_the_least_onset_is_the_smallest_that_keeps_the_rate():
    for weight in (*WEIGHTS.values(), 0.15, 0.3, 0.45, 0.6, 1.0):
        frames = least_onset(weight)
        assert weight / frames <= MAX_CHANGE + 1e-9
        assert frames == 1 or weight / (frames - 1) > MAX_CHANGE + 1e-9


keyframes = st.lists(st.tuples(st.integers(0, 400), st.floats(-2, 2)), max_size=4).map(tuple)
names = st.sampled_from([*RIG_TABLES["arkit"].names, *RIG_TABLES["openxr"].names, "unknown"])
artifacts = st.builds(
    FacialArtifact,
    rig=st.sampled_from(RIGS),
    action_units=st.dictionaries(st.sampled_from([*ACTION_UNITS, "AU99"]), st.sampled_from(GRADES), max_size=6),
    curves=st.dictionaries(names, keyframes, max_size=5),
    body=st.builds(BodyLanguage, posture=st.sampled_from(["expanded", "neutral", "contracted"]), tempo=st.just("even")),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(artifact=artifacts, scenario=st.sampled_from(EVERY))
def test_any_artifact_that_fits_the_schema_gets_a_verdict(artifact: FacialArtifact, scenario: FacialScenario):
    verdict = judge(scenario, artifact)
    assert len(verdict.rules) == len(RULES)
    assert all(0 <= result.score <= 1 for result in verdict.rules)
    assert all(result.message for result in verdict.rules if result.score < 1)
    assert 0 <= verdict.reward <= 1
    assert 0 <= verdict.partial <= 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(words=st.lists(st.sampled_from(DOMAIN.vocabulary), max_size=40), scenario=st.sampled_from(EVERY))
def test_any_words_get_a_verdict_and_a_preview(words: list[str], scenario: FacialScenario):
    record = DOMAIN.record("rl", 0, seed=0).model_copy(update={"scenario": scenario.model_dump(mode="json")})
    verdict = DOMAIN.verify(record, " ".join(words))
    assert verdict.rules or verdict.reason
    assert "<svg" in DOMAIN.preview(record, " ".join(words))


def test_a_scenario_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="blend another emotion"):
        FacialScenario(primary="fear", secondary="fear", level=2)
    with pytest.raises(ValueError, match="cannot be masked"):
        FacialScenario(primary="happiness", level=2, display="masked")


def test_the_scenario_is_read_from_the_prompt_where_the_record_has_none_and_a_broken_one_is_refused():
    record = DOMAIN.record("train", 0, seed=0)
    assert DOMAIN.verify(record.model_copy(update={"scenario": {}}), record.solution).reward == 1.0
    for broken in ({"primary": "joy", "level": 1}, {"primary": ["fear"], "level": 1}):
        with pytest.raises(ValueError, match="primary"):
            DOMAIN.verify(record.model_copy(update={"scenario": broken}), record.solution)


def test_the_schema_is_exported_as_json_schema():
    for model in (FacialArtifact, FacialScenario):
        schema = json.loads(json.dumps(model.model_json_schema()))
        assert schema["additionalProperties"] is False
    assert set(FacialScenario.model_json_schema()["properties"]["primary"]["enum"]) == set(EMOTIONS)
    assert set(FacialScenario.model_json_schema()["properties"]["display"]["enum"]) == set(DISPLAYS)
    assert set(FacialScenario.model_json_schema()["properties"]["pace"]["enum"]) == set(PACES)
