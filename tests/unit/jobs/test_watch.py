"""Signs of reward hacking, and that a better answer never earns less."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.job_folders import TINY

from stepforge.contracts.hacking import signs
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.contracts.rewards import RuleResult, Verdict
from stepforge.contracts.work import RlvrWork
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.facial import DOMAIN, read, scenario_of
from stepforge_jobs.domains.facial.mutants import MUTANTS
from stepforge_jobs.domains.facial.rules import judge as facial_judge
from stepforge_jobs.domains.user import exact_answer
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.models import from_scratch
from stepforge_jobs.training.rlvr import judged, problems, reward_of
from stepforge_jobs.training.stage import frozen
from stepforge_jobs.training.validation import some_groups
from stepforge_jobs.training.watch import Measured, Watch, changes, repetition

COUNTING = CountingDomain()
OUTCOME = RlvrWork()


def measured(*, accepted: list[float], reward: list[float], tokens: float = 10.0, repeated: float = 0.0) -> Measured:
    return Measured(accepted=accepted, reward=reward, tokens=tokens, repetition=repeated)


def seen(before: tuple[Measured, Measured | None], now: tuple[Measured, Measured | None]) -> list[str]:
    return signs({str(name): value for name, value in changes(before, now).items()})


BEFORE = measured(accepted=[0.5] * 8, reward=[0.5] * 8)


@pytest.mark.parametrize(
    ("now", "held", "words"),
    [
        (BEFORE, BEFORE, []),
        (measured(accepted=[1.0] * 8, reward=[1.0] * 8), measured(accepted=[1.0] * 8, reward=[1.0] * 8), []),
        (measured(accepted=[0.5] * 8, reward=[0.5] * 8, tokens=16.0), BEFORE, ["1.6 times as long"]),
        (measured(accepted=[0.5] * 8, reward=[0.5] * 8, tokens=5.0), BEFORE, ["0.5 times as long"]),
        (measured(accepted=[0.5] * 8, reward=[0.5] * 8, repeated=0.3), BEFORE, ["+30% of the completions'"]),
        (
            measured(accepted=[1.0] * 8, reward=[0.9] * 8),
            measured(accepted=[0.1] * 8, reward=[0.0] * 8),
            ["reward rose by 0.40 on trained problems, but 40% fewer held-out ones are right"],
        ),
        (
            measured(accepted=[1.0] * 8, reward=[0.9] * 8),
            measured(accepted=[0.0] + [0.5] * 7, reward=[0.5] * 8),
            [],
        ),
        (BEFORE, measured(accepted=[0.1] * 8, reward=[0.0] * 8), []),
    ],
    ids=["same", "better", "longer", "shorter", "repeats", "games", "one-problem-is-noise", "no-gain"],
)
def test_each_sign_has_a_sentence_and_noise_has_none(now: Measured, held: Measured, words: list[str]) -> None:
    found = seen((BEFORE, BEFORE), (now, held))
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_without_measurements_there_are_no_signs() -> None:
    assert signs({"loss": 0.5}) == []
    assert seen((BEFORE, None), (BEFORE, None)) == []


def test_repetition_is_the_share_of_windows_that_came_before() -> None:
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4] * 3) == pytest.approx(1 - 4 / 9)


def test_a_policy_that_was_not_trained_shows_no_change_and_one_that_was_does() -> None:
    torch.set_num_threads(1)
    policy = from_scratch(TINY, COUNTING.vocabulary, step_end=";", seed=0)
    records = [COUNTING.record("rl", index, seed=0) for index in range(6)]
    warned: list[str] = []

    def verdicts(asked: list[Record], completions: list[list[int]]) -> list[Verdict]:
        # Games the length: the more tokens, the better.
        return [Verdict(accepted=False, reward=len(c) / 8, partial=0.0) for c in completions]

    watch = Watch(
        policy,
        frozen(policy),
        trained=records[:3],
        held_out=records[3:],
        judge=verdicts,  # type: ignore[arg-type]
        reward=lambda verdict: verdict.reward,
        seed=0,
        max_new_tokens=8,
        warn=warned.append,
    )
    same = watch(1)
    assert (same[Metric.LENGTH_RATIO], same[Metric.TRAINED_REWARD_CHANGE], same[Metric.HACKING_SIGNS]) == (1.0, 0.0, 0)
    assert watch(1) == same
    with torch.no_grad():
        policy.network.get_output_embeddings().weight[policy.codec.eos] += 20.0
    changed = watch(2)
    assert changed[Metric.LENGTH_RATIO] != 1.0
    assert changed[Metric.HACKING_SIGNS] == len(warned) >= 1
    assert "step 2" in warned[0]


def test_problems_that_are_held_out_are_whole_groups_whatever_else_there_is() -> None:
    rows = [COUNTING.record("rl", index, seed=0) for index in range(40)]
    rows = [row.model_copy(update={"group": f"g{index // 2}"}) for index, row in enumerate(rows)]
    held = some_groups(rows, 7)
    assert len(held) == 6
    assert not {row.group for row in held} & {row.group for row in rows if row not in held}
    assert held == [row for row in rows if row in held]
    assert some_groups(rows, 1) == some_groups([], 7) == []


def test_the_best_weights_are_not_chosen_by_nothing() -> None:
    with pytest.raises(ValueError, match="held_out is 0: set held_out to 1 or more"):
        RlvrWork(keep="best", held_out=0)


def test_rlvr_trains_on_demonstrations_only_where_there_are_no_other_problems() -> None:
    rows = [COUNTING.record("rl", index, seed=0) for index in range(9)]
    shown = [COUNTING.record("train", index, seed=0) for index in range(9)]
    demonstrated = [row for row in shown if row.stratum == "target"]
    assert problems([*rows, *shown]) == (rows, demonstrated)
    assert problems(shown) == (demonstrated, [])
    with pytest.raises(InvalidInput, match="no target records"):
        problems([])


def test_reward_components_are_logged_apart() -> None:
    rules = (RuleResult(rule="a", score=1.0, hard=True), RuleResult(rule="b", score=0.0, hard=True))
    found = judged(
        RlvrWork(reward="reward"),
        [
            Verdict(accepted=True, reward=0.8, partial=0.9, rules=rules[:1]),
            Verdict(accepted=False, reward=0.0, partial=0.5, rules=rules),
            Verdict(accepted=False, reward=0.0, partial=0.0, reason="the completion did not end"),
            Verdict(accepted=False, reward=0.0, partial=0.0, reason="timeout: the verifier took more than 10 s"),
            Verdict(accepted=False, reward=0.0, partial=0.0, reason="not a row of 'number ;'"),
        ],
    )
    assert found.rewards == [0.8, 0.0, 0.0, 0.0, 0.0]
    assert {str(name): round(value, 3) for name, value in found.metrics.items()} == {
        "format_failures": 0.6,
        "unreadable": 0.4,
        "verifier_failures": 0.2,
        "accepted": 0.2,
        "graded": 0.16,
        "partial": 0.28,
        "hard_rules": 0.667,
    }


# ── Outcome is monotone: who violates more hard rules never earns more ───────────────────────────


def violated(verdict: Verdict) -> set[str]:
    return {"unreadable"} if verdict.reason else {rule.rule for rule in verdict.rules if rule.hard and rule.score < 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 47), st.lists(st.sampled_from(sorted(MUTANTS)), min_size=1, max_size=4), st.integers(0, 2**20))
def test_of_faces_that_are_spoilt_further_and_further_none_earns_more_for_more_faults(
    index: int, names: list[str], seed: int
) -> None:
    record = DOMAIN.record("train", index, seed=0)
    scenario, rng = scenario_of(record), random.Random(seed)
    artifact = read(scenario, record.solution)
    verdicts = [facial_judge(scenario, artifact)]
    assert reward_of(OUTCOME, verdicts[0]) == 1.0
    for name in names:
        try:
            spoilt = rng.choice(MUTANTS[name])(rng, scenario, artifact)
        except (LookupError, ArithmeticError, ValueError):
            # A mutant of an expert's face may find nothing left to spoil in one that is spoilt already.
            continue
        if spoilt is not None:
            artifact = spoilt
            verdicts.append(facial_judge(scenario, artifact))
    for one in verdicts:
        for other in verdicts:
            if len(violated(one)) > len(violated(other)):
                assert reward_of(OUTCOME, one) <= reward_of(OUTCOME, other)
            if violated(one) > violated(other):
                assert one.reward <= other.reward or not other.accepted
        assert one.accepted == (not violated(one))
        assert one.accepted or one.reward < 1.0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 23), st.lists(st.integers(0, 29), max_size=6))
def test_of_rows_of_numbers_more_violated_rules_never_earn_more(index: int, numbers: list[int]) -> None:
    record = COUNTING.record("train", index, seed=0)
    expert = COUNTING.verify(record, record.solution)
    mutant = COUNTING.verify(record, " ".join(f"n{number} ;" for number in numbers))
    assert reward_of(OUTCOME, expert) == 1.0
    assert reward_of(OUTCOME, mutant) == float(not violated(mutant))
    assert reward_of(OUTCOME, mutant) <= reward_of(OUTCOME, expert)


@given(st.text(max_size=20), st.text(max_size=20))
def test_of_answers_only_the_right_one_earns_the_outcome(answer: str, given_text: str) -> None:
    record = COUNTING.record("rl", 0, seed=0).model_copy(update={"answer": answer or "42"})
    verdict = exact_answer(record, given_text)
    assert reward_of(OUTCOME, verdict) == float(not violated(verdict))
