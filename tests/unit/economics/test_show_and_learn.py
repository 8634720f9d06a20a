from __future__ import annotations

import math
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepforge.contracts.decisions import Decision, Gain
from stepforge.economics._paired import bootstrap, difference
from stepforge.economics.decide import decide
from stepforge.economics.experience import DEFAULT_PRIORS, Experience, MethodPrior, Observation, learn
from stepforge.economics.outcome import measured
from stepforge.economics.show import tornado, verdict_markdown, verdict_text
from stepforge.errors import InvalidInput, UnknownName
from tests.unit.economics.asking import arm, improved, pilot, question, scores

SVG = "{http://www.w3.org/2000/svg}"


# ── For people ───────────────────────────────────────────────────────────────────────────────────


def test_the_text_has_the_sentence_the_table_the_swings_and_the_refusals() -> None:
    verdict = decide(question(arm(), arm("slow", latency_ms=10), constraints={"latency_ms": 500}))
    said = verdict_text(verdict)
    assert said.splitlines()[0] == verdict.sentence
    assert "sft: its latency is not known" in said
    assert "what the value of slow hangs on" in said
    assert "gain in quality" in said


@pytest.mark.parametrize(
    ("asked", "begins"),
    [
        (question(), "Launch sft: it is expected to bring $"),
        (
            question(arm(gain=Gain(mean=-0.02, sd=0.01))),
            "Stay with the base: the best arm, sft, is expected to bring -$",
        ),
        (question(arm(gain=Gain(mean=0.04, sd=0.08), pilot=pilot(20))), "Try sft first: its pilot costs $20"),
        (question(arm(), constraints={"budget_usd": 1}), "Stay with the base: the one arm is refused."),
    ],
    ids=["launch", "stay", "pilot", "refused"],
)
def test_the_sentence_says_what_to_do_first(asked, begins: str) -> None:
    assert decide(asked).sentence.startswith(begins)


def test_the_tornado_is_one_svg_with_a_bar_at_both_sides_and_every_label() -> None:
    verdict = decide(question(arm(request_relative_sd=0.2)))
    root = ElementTree.fromstring(tornado(verdict))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    bars = [element for element in root.iter(f"{SVG}rect") if element.get("height") == "20"]
    assert len(bars) == 2 * len(verdict.swings)
    assert all(float(bar.get("width") or -1) >= 0 for bar in bars)
    assert {swing.input for swing in verdict.swings} <= set(texts)
    widths = [abs(swing.high_usd - swing.low_usd) for swing in verdict.swings]
    assert widths == sorted(widths, reverse=True)


def test_a_verdict_survives_json_and_its_page_has_a_row_for_each_arm() -> None:
    verdict = decide(question(arm(), arm("dear", fixed={"training_usd": 90_000})))
    assert Decision.model_validate_json(verdict.model_dump_json()) == verdict
    page = verdict_markdown(verdict, plot="plot.svg")
    assert page.count("\n| ") == 2 + 2
    assert "![What the value of sft hangs on](plot.svg)" in page


# ── Paired scores ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("grouped", [False, True], ids=["items", "groups"])
def test_the_variance_is_what_a_bootstrap_converges_to(grouped: bool) -> None:
    rng = random.Random(5)
    base = [float(rng.random() < 0.6) for _ in range(400)]
    ours = [float(rng.random() < 0.75) for _ in range(400)]
    groups = [str(i // 8) for i in range(400)] if grouped else None
    means = bootstrap(ours, base, groups=groups, resamples=4_000, seed=1)
    middle = sum(means) / len(means)
    spread = math.sqrt(sum((mean - middle) ** 2 for mean in means) / len(means))
    assert difference(ours, base, groups).sd == pytest.approx(spread, rel=0.06)
    assert difference(ours, base, groups).mean == pytest.approx(middle, abs=0.004)


def test_neighbours_that_go_together_count_as_fewer_items() -> None:
    rng = random.Random(6)
    families = [float(rng.random() < 0.5) for _ in range(20)]
    together = [families[i // 10] for i in range(200)]
    apart = random.Random(7).sample(together, 200)
    assert difference(together, [0.0] * 200).sd > 2 * difference(apart, [0.0] * 200).sd


def test_the_sd_of_independent_items_is_right_on_average() -> None:
    rng, sds, means = random.Random(8), [], []
    for _ in range(300):
        ours, base = ([float(rng.random() < q) for _ in range(120)] for q in (0.7, 0.6))
        found = difference(ours, base)
        sds.append(found.variance)
        means.append(found.mean)
    true = sum((mean - 0.1) ** 2 for mean in means) / len(means)
    assert sum(sds) / len(sds) == pytest.approx(true, rel=0.15)


def test_a_few_equal_items_are_not_certain() -> None:
    assert difference([1.0] * 5, [0.0] * 5).sd > 0.15


# ── Learning ─────────────────────────────────────────────────────────────────────────────────────

PRIOR = MethodPrior(mean=0.1, sd=0.05, weight=2, source="test")


def test_nothing_observed_changes_nothing() -> None:
    assert learn(PRIOR, ()) == PRIOR


def test_learning_is_the_conjugate_update() -> None:
    found = learn(PRIOR, [Observation(gain=0.0), Observation(gain=0.04)])
    assert found.weight == 4
    assert found.mean == pytest.approx((2 * 0.1 + 2 * 0.02) / 4)
    variance = (2 * 0.05**2 + 2 * 0.02**2 + (2 * 2 / 4) * 0.08**2) / 4
    assert found.sd == pytest.approx(math.sqrt(variance))


def test_many_outcomes_outweigh_the_prior_and_their_noise_is_not_taken_for_spread() -> None:
    rng = random.Random(9)
    seen = [Observation(gain=rng.gauss(0.02, math.hypot(0.03, 0.02)), sd=0.02) for _ in range(2_000)]
    found = learn(PRIOR, seen)
    assert found.mean == pytest.approx(0.02, abs=0.003)
    assert found.sd == pytest.approx(0.03, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(gains=st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_the_order_of_outcomes_does_not_matter(gains: list[float], seed: int) -> None:
    seen = [Observation(gain=gain, sd=0.03) for gain in gains]
    mixed = random.Random(seed).sample(seen, len(seen))
    assert learn(PRIOR, seen).mean == pytest.approx(learn(PRIOR, mixed).mean, abs=1e-12)
    assert learn(PRIOR, seen).sd == pytest.approx(learn(PRIOR, mixed).sd, abs=1e-12)


def test_what_came_of_an_arm_is_set_against_the_prediction_and_moves_the_next_verdict(tmp_path: Path) -> None:
    base = scores(0.6)
    asked = question(arm(gain=None), base_scores=base)
    verdict = decide(asked)
    outcome = measured(verdict, "sft", scores=improved(base, 0.01), base_scores=base, fixed_usd=1_400)
    assert not outcome.gain_inside or outcome.measured_gain.mean >= outcome.predicted_gain.low
    assert "it cost $1,400, and $1,000 was predicted" in outcome.sentence
    path = tmp_path / "experience.json"
    Experience.read(path).adding(outcome).write(path)
    learned = Experience.read(path)
    assert learned.adding(outcome) == learned
    assert learned.prior("sft").mean < DEFAULT_PRIORS["sft"].mean
    assert learned.prior("rft") == Experience().prior("rft")
    # Of a local fake, which trains nothing, no prior learns.
    assert learned.adding(outcome.model_copy(update={"local_fake": True})).prior("sft") == Experience().prior("sft")
    assert decide(asked, experience=learned).arms[0].net_usd.mean < verdict.arms[0].net_usd.mean


def test_a_gain_far_from_the_prediction_is_called_outside() -> None:
    base = scores(0.6)
    verdict = decide(question(arm(gain=Gain(mean=0.3, sd=0.02)), base_scores=base))
    outcome = measured(verdict, "sft", scores=base, base_scores=base)
    assert not outcome.gain_inside
    assert "outside the prediction" in outcome.sentence


def test_wrong_outcomes_are_refused(tmp_path: Path) -> None:
    verdict = decide(question())
    with pytest.raises(UnknownName, match="did you mean 'sft'"):
        measured(verdict, "stf", scores=[1, 1], base_scores=[0, 1])
    with pytest.raises(InvalidInput, match="3 scores of 'sft' and 2 of the base"):
        measured(verdict, "sft", scores=[1, 1, 0], base_scores=[0, 1])
    (tmp_path / "broken.json").write_text("[]")
    with pytest.raises(InvalidInput, match="holds no outcomes"):
        Experience.read(tmp_path / "broken.json")
