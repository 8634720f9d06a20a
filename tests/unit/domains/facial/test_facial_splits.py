"""Splits hold by group, records are pure functions of (split, index, seed)."""

from __future__ import annotations

import pytest

from stepforge.contracts.records import SPLITS, TEST_SPLITS, Record
from stepforge_jobs.domains.base import Domain, Exportable, Previewable
from stepforge_jobs.domains.facial import DOMAIN
from stepforge_jobs.domains.facial.scenarios import NEW_PAIRS, PAIRS, displays_of, held_out_displays, targets
from stepforge_jobs.domains.facial.tables import ANTAGONISTS, PROTOTYPES


def records(split, seed=0, corpus=1_500) -> list[Record]:
    return [DOMAIN.record(split, index, seed=seed) for index in range(DOMAIN.size(split) or corpus)]


def test_the_domain_can_be_trained_on_looked_at_and_exported():
    assert isinstance(DOMAIN, Domain)
    assert isinstance(DOMAIN, Previewable)
    assert isinstance(DOMAIN, Exportable)


def test_splits_are_as_large_as_a_run_needs():
    assert DOMAIN.size("corpus") is None
    assert DOMAIN.size("train") >= 64
    assert DOMAIN.size("rl") >= 600
    assert DOMAIN.size("test_known") >= 200
    assert DOMAIN.size("test_new") >= 200
    assert DOMAIN.size("test_retained") >= 25


def test_no_group_and_no_prompt_stands_on_both_sides_of_train_and_test_for_any_seed():
    tests = [record for split in TEST_SPLITS for record in records(split)]
    held_groups, held_prompts = {r.group for r in tests}, {r.prompt for r in tests}
    assert len(held_prompts) == len(tests)
    for seed in (0, 1, 2):
        for split in ("corpus", "train", "rl"):
            for record in records(split, seed):
                assert record.group not in held_groups, record.id
                assert record.prompt not in held_prompts, record.id


def test_new_kinds_are_met_in_no_other_split_and_known_kinds_are_met_in_rl():
    def pair(record: Record) -> frozenset:
        return frozenset((record.scenario["primary"], record.scenario["secondary"]))

    assert {pair(record) for record in records("test_new")} == NEW_PAIRS
    known = {pair(record) for record in records("test_known")}
    assert not known & NEW_PAIRS
    assert known == {pair(record) for record in records("rl") if record.stratum == "target"}


def test_every_emotion_and_every_antagonism_of_a_new_pair_is_met_in_known_pairs():
    def clashes(pair) -> set[frozenset]:
        first, second = (PROTOTYPES[emotion] for emotion in pair)
        return {c for a in first for b in second if (c := frozenset((a, b))) in ANTAGONISTS}

    known = [pair for pair in PAIRS if frozenset(pair) not in NEW_PAIRS]
    for emotion in PROTOTYPES:
        assert sum(emotion in pair for pair in known) >= 4
    seen = set().union(*(clashes(pair) for pair in known))
    assert set().union(*(clashes(pair) for pair in NEW_PAIRS)) <= seen


def test_every_display_rule_stays_in_training_for_most_pairs():
    held = held_out_displays()
    assert all(len(displays_of(pair)) - 1 >= 2 for pair in PAIRS if frozenset(pair) in held)
    assert set(held.values()) == {"amplified", "deamplified", "simulated", "masked"}


def test_any_prefix_of_train_keeps_the_mix_of_three_to_one():
    strata = [record.stratum for record in records("train")]
    for count in range(4, len(strata) + 1, 4):
        assert strata[:count].count("retained") == count // 4


def test_rl_has_no_steps_and_holds_retained_records_to_rehearse_in_every_hundred():
    rl = records("rl")
    assert not any(record.steps or record.artifact for record in rl)
    for start in range(0, 800, 100):
        assert any(record.stratum == "retained" for record in rl[start : start + 100])
    assert len({record.prompt for record in rl}) == len(rl)


@pytest.mark.parametrize("split", SPLITS)
def test_a_record_is_a_pure_function_of_split_index_and_seed(split):
    for index in (0, 5, 17):
        first = DOMAIN.record(split, index, seed=3)
        assert first == DOMAIN.record(split, index, seed=3)
        assert first.id == f"facial-{split}-{index:06d}"
        assert first.split == split
        assert Record.model_validate_json(first.model_dump_json()) == first


def test_tests_are_the_same_for_every_seed_and_training_is_not():
    for split in TEST_SPLITS:
        assert [r.prompt for r in records(split, 0)] == [r.prompt for r in records(split, 9)]
    assert [r.prompt for r in records("train", 0)] != [r.prompt for r in records("train", 9)]


@pytest.mark.parametrize("split", ["train", "rl", "test_known", "test_new", "test_retained"])
def test_an_index_beyond_the_end_is_refused(split):
    for index in (-1, DOMAIN.size(split)):
        with pytest.raises(IndexError, match=f"{DOMAIN.size(split)} records"):
            DOMAIN.record(split, index, seed=0)


def test_train_records_carry_reasons_and_an_artifact_and_are_accepted():
    for record in records("train", seed=4):
        assert len(record.steps) == 4
        assert all(step.title and step.thought for step in record.steps)
        assert record.artifact is not None
        assert DOMAIN.verify(record, record.solution).reward == 1.0


def test_targets_are_all_different():
    assert len(set(targets())) == len(targets())
