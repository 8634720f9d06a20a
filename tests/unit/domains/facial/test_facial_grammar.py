"""The compact text and its inverses."""

from __future__ import annotations

import random

import pytest

from stepforge.contracts.domains.facial import FacialArtifact
from stepforge_jobs.domains.facial import DOMAIN, grammar
from stepforge_jobs.domains.facial.expert import careless, solve
from stepforge_jobs.domains.facial.scenarios import corpus_scenario, retained, targets

EVERY = (*targets(), *retained())


def test_parse_is_the_left_inverse_of_render():
    rng = random.Random(2)
    for scenario in EVERY:
        for plan in (solve(scenario), careless(scenario, rng, care=0.35)):
            assert grammar.parse(grammar.render(plan)) == plan
            assert grammar.parse(" ".join(grammar.render(plan).split())) == plan
        assert grammar.parse_prompt(grammar.render_prompt(scenario)) == scenario


def test_every_word_that_is_written_is_in_the_vocabulary_and_prompts_fit_the_context():
    rng, known = random.Random(4), set(DOMAIN.vocabulary)
    assert len(known) == len(DOMAIN.vocabulary)
    assert all(word == word.strip() and " " not in word for word in known)
    for _ in range(1_500):
        scenario = corpus_scenario(rng)
        words = f"{grammar.render_prompt(scenario)} {grammar.render(careless(scenario, rng, care=0.35))}".split()
        assert set(words) <= known
        assert len(words) < 64


def test_a_step_ends_in_the_terminator_and_nowhere_else():
    for scenario in EVERY[::11]:
        for action in grammar.render_steps(solve(scenario)):
            assert action.endswith(f" {DOMAIN.step_end}")
            assert action.count(DOMAIN.step_end) == 1


def test_the_expansion_fits_the_schema_and_survives_json():
    for scenario in EVERY[::13]:
        artifact = grammar.expand(solve(scenario), scenario)
        assert FacialArtifact.model_validate_json(artifact.model_dump_json()) == artifact


def test_a_shape_of_the_other_rig_is_expanded_under_its_own_name_so_that_the_fault_is_seen():
    scenario = next(s for s in targets() if s.rig == "openxr" and s.primary == "happiness")
    artifact = grammar.expand(grammar.parse("AU12 ; AU12 C ; mouthSmile ; on4 apex60 off8 ;"), scenario)
    assert set(artifact.curves) == {"mouthSmileLeft", "mouthSmileRight"}
    assert artifact.weight("mouthSmileLeft") == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("make her smile", r"word 1 is 'make', where one like 'feel:happiness' belongs"),
        ("feel:fear level4 felt sudden arkit :", r"word 2 is 'level4', where one like 'with:nothing' belongs"),
        ("feel:fear with:anger level9 felt sudden arkit :", r"word 3 is 'level9', where one like 'level1' belongs"),
        ("feel:fear with:anger level4 felt sudden arkit", r"word 7 is missing, where ':' belongs"),
        ("feel:fear with:anger level4 felt sudden arkit : AU1", r"'AU1' stands after its end"),
        ("", "word 1 is missing"),
    ],
)
def test_a_prompt_that_is_none_is_refused_with_the_word_an_example_and_the_words_there_are(text: str, reason: str):
    with pytest.raises(grammar.GrammarError, match=reason) as refused:
        grammar.parse_prompt(text)
    assert grammar.EXAMPLE in str(refused.value)
    assert "felt|amplified|deamplified|simulated|masked sudden|gradual arkit|openxr :" in str(refused.value)
    assert grammar.render_prompt(grammar.parse_prompt(grammar.EXAMPLE)) == grammar.EXAMPLE


def test_a_prompt_for_what_cannot_be_says_why():
    with pytest.raises(grammar.GrammarError, match="happiness cannot be masked by a smile"):
        grammar.parse_prompt("feel:happiness with:nothing level4 masked sudden arkit :")


@pytest.mark.parametrize("text", ["", "AU6", "; ; ; ;", "AU12 C mouthSmile on9 apex30", "off24 x 2 AU1 AU1 E"])
def test_whatever_can_be_read_of_broken_text_is_salvaged(text: str):
    plan = grammar.salvage(text)
    assert set(plan.units) == {word for word in text.split() if word in ("AU6", "AU12", "AU1")}
    assert len(plan.grades) == len(plan.units)
    assert plan.onset >= 1
