from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stepforge.contracts.decisions import (
    Amount,
    Arm,
    Constraints,
    Criterion,
    Decision,
    FixedCosts,
    Gain,
    JudgedArm,
    Pilot,
    Question,
    Risk,
    Traffic,
    TrainingPlan,
)
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.criteria import Advisor
from stepforge.economics.decide import decide
from stepforge.economics.quotes import quoted
from stepforge.errors import UnknownName, UnknownPrice
from tests.unit.economics.asking import TODAY, arm, improved, pilot, question, scores

SEEN = 'as_of = 2026-11-01, source = "a price page", confidence = "given"'
PER_MILLION = {"input": 2, "cached_input": 0.5, "output": 8}
FEW = settings(max_examples=12, deadline=None)


def judged(verdict: Decision, name: str = "sft") -> JudgedArm:
    return next(one for one in verdict.arms if one.name == name)


# ── The formula ──────────────────────────────────────────────────────────────────────────────────


def test_a_net_value_without_doubt_is_the_formula_by_hand() -> None:
    asked = question(
        arm(
            fixed=FixedCosts(data_usd=100, training_usd=400, people_usd=500, relative_sd=0),
            request_usd=0.003,
            request_relative_sd=0,
            month_usd=50,
            retrains=2,
            failure_rate=0.25,
            gain=Gain(mean=0.1, sd=1e-9),
        ),
        requests_month=Amount(mean=100_000),
        discount_year=0.0,
        prior_doubt=0.0,
    )
    # 12 months x (100,000 x (0.02 x 0.1 - 0.001) - 50) - 1,000 x (1 + 2 + 0.25)
    assert judged(decide(asked)).net_usd.mean == pytest.approx(12 * (100_000 * 0.001 - 50) - 3_250, abs=1e-3)
    # (1,000 x 3.25 + 12 x 50) / (0.02 x 0.1 - 0.001)
    assert judged(decide(asked)).break_even_requests == pytest.approx(3_850 / 0.001, rel=1e-6)


def test_a_discount_shrinks_later_months() -> None:
    sure = arm(fixed=FixedCosts(training_usd=0, relative_sd=0), gain=Gain(mean=0.1, sd=1e-9), request_relative_sd=0)
    each = [
        judged(decide(question(sure, discount_year=rate, requests_month=Amount(mean=1e5), prior_doubt=0))).net_usd.mean
        for rate in (0.0, 0.1)
    ]
    assert each[1] / each[0] == pytest.approx(sum(1.1 ** (-t / 12) for t in range(1, 13)) / 12)


def test_an_arm_that_saves_nothing_and_gains_nothing_never_pays_itself_back() -> None:
    verdict = decide(question(arm(gain=Gain(mean=-0.05, sd=0.001))))
    assert judged(verdict).break_even_requests is None
    assert verdict.action == "stay"
    assert verdict.arm is None


def test_the_mean_of_the_draws_is_the_closed_form() -> None:
    """Both are computed, by different code: the mean in closed form, interval and tail from draws."""
    from stepforge.economics._value import Offer, Stakes, draws, moments

    asked = question(arm(month_usd=40, failure_rate=0.3, request_relative_sd=0.3, gain=Gain(mean=0.1, sd=0.3)))
    offer = Offer.of(asked.arms[0], months=12, discount_year=0.1)
    values = draws(offer, Stakes.of(asked), 0.1, 0.09, 20_000)
    mean, sd = moments(offer, Stakes.of(asked), 0.1, 0.09)
    found = sum(values) / len(values)
    assert found == pytest.approx(mean, abs=0.02 * sd)
    assert math.sqrt(sum((v - found) ** 2 for v in values) / len(values)) == pytest.approx(sd, rel=0.03)


# ── What may not be launched ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "limits", "said"),
    [
        ({"privacy": "no_retention"}, {"privacy": "own_account"}, "'own_account' is required"),
        ({"latency_ms": 900}, {"latency_ms": 300}, "900 ms, and 300 ms is the limit"),
        ({}, {"latency_ms": 300}, "latency is not known"),
        ({}, {"budget_usd": 500}, "1,000.00 USD at once, and the budget is 500.00"),
        ({"shuts_down": date(2027, 6, 1)}, {}, "shuts down on 2027-06-01, within the horizon of 12 months"),
        ({"shuts_down": date(2026, 11, 1)}, {"on_shutdown": "cut"}, "shut down on 2026-11-01"),
    ],
    ids=["privacy", "latency", "unknown latency", "budget", "shutdown", "gone"],
)
def test_a_hard_limit_refuses_with_its_reason(changes: dict, limits: dict, said: str) -> None:
    verdict = decide(question(arm(**changes), constraints=Constraints(**limits)))
    assert verdict.action == "stay"
    assert said in " ".join(judged(verdict).refusals)
    assert "refused" in verdict.sentence


def test_a_model_of_the_catalogue_that_ends_within_the_horizon_is_refused_with_the_date() -> None:
    verdict = decide(question(arm(model="openai/gpt-4.1-mini-2025-04-14")))
    assert "2027-01-14" in judged(verdict).refusals[0]


def test_a_method_that_a_model_is_not_tuned_by_is_refused_with_those_that_it_is() -> None:
    verdict = decide(question(arm(method="rft", model="bedrock/amazon.nova-micro-v1:0")))
    assert "sft, distillation, managed" in judged(verdict).refusals[0]


def distillation(**changes: Any) -> Arm:
    given: dict[str, Any] = {
        "method": "distillation",
        "model": "bedrock/amazon.nova-micro-v1:0",
        "teacher": "bedrock/amazon.nova-pro-v1:0",
        "fixed": {"people_usd": 600},
        "job": {
            "tokens": 12_900_000,
            "epochs": 2,
            "teacher_prompt_tokens": 12 * 10**6,
            "teacher_response_tokens": 900_000,
        },
        "gain": None,
    }
    return arm("taught", **{**given, **changes})


def test_a_distillation_costs_its_teacher_s_words_beside_its_training() -> None:
    verdict = decide(question(distillation()))
    found = judged(verdict, "taught")
    assert (found.refusals, found.fixed_usd) == ((), pytest.approx(600 + 9.60 + 2.88 + 25.80))
    assert found.gain.mean == pytest.approx(0.05)  # what is believed of the method before anything is measured
    assert any("nova-pro-v1:0: the price of output is secondary" in line for line in verdict.warnings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": None, "fixed": {"training_usd": 40}}, "needs a teacher: the catalogue knows .*nova-pro"),
        ({"teacher": "bedrock/amazon.nova-2-lite-v1:0"}, "is not known to teach"),
        (
            {"teacher": "bedrock/amazon.nova-premier-v1:0", "fixed": {"training_usd": 40}},
            "shut down on 2026-09-14, and bedrock/amazon.nova-pro-v1:0 is left",
        ),
        (
            {"model": "bedrock/amazon.nova-2-lite-v1:0", "fixed": {"training_usd": 40}},
            "cannot be tuned by distillation",
        ),
    ],
    ids=["no teacher", "another", "gone", "no student"],
)
def test_a_distillation_is_an_arm_only_where_somebody_says_who_teaches_whom(changes: Any, said: str) -> None:
    refusals = judged(decide(question(distillation(**changes))), "taught").refusals
    assert re.search(said, " ".join(refusals)), refusals


def test_a_distillation_without_its_teacher_s_tokens_has_no_price() -> None:
    with pytest.raises(UnknownPrice, match=r"teacher_prompt_tokens and job\.teacher_response_tokens"):
        decide(question(distillation(job={"tokens": 1_000, "epochs": 1})))
    with pytest.raises(UnknownPrice, match="give teacher, whose prices"):
        decide(question(distillation(teacher=None)))
    with pytest.raises(ValidationError, match="has a teacher, and method 'sft' has none"):
        arm(teacher="bedrock/amazon.nova-pro-v1:0")


def test_a_shutdown_that_is_allowed_cuts_the_horizon() -> None:
    cut = Constraints(on_shutdown="cut")
    half = judged(decide(question(arm(shuts_down=date(2027, 5, 22)), constraints=cut)))
    assert half.months == 6
    assert half.refusals == ()
    assert half.net_usd.mean < judged(decide(question(arm()))).net_usd.mean


def test_a_refused_arm_is_neither_chosen_nor_piloted_however_good_it_is() -> None:
    great = arm("great", gain=Gain(mean=0.3, sd=0.1), privacy="any", pilot=pilot(1))
    fair = arm("fair", privacy="own_account")
    verdict = decide(question(great, fair, constraints=Constraints(privacy="own_account")))
    assert (verdict.action, verdict.arm) == ("launch", "fair")
    assert judged(verdict, "great").pilot_worth_usd is None
    assert verdict.arms[-1].name == "great"


# ── Beliefs ──────────────────────────────────────────────────────────────────────────────────────


def test_a_measured_gain_lies_between_its_prior_and_what_was_measured() -> None:
    base = scores(0.6)
    gain = judged(decide(question(arm(scores=improved(base, 0.2)), base_scores=base))).gain
    assert 0.08 < gain.mean < 0.2
    assert gain.high - gain.low < 2 * 1.2816 * 0.05


def test_more_items_weigh_more() -> None:
    means = []
    for items in (40, 400):
        base = scores(0.6, items=items)
        means.append(judged(decide(question(arm(scores=improved(base, 0.2)), base_scores=base))).gain.mean)
    assert means[0] < means[1] < 0.2


def test_the_update_is_the_textbook_one_for_one_arm() -> None:
    from stepforge.economics._belief import Belief

    belief = Belief.of({"a": Gain(mean=0.1, sd=0.2)}, doubt=0.0, correlation=0.3).observed("a", 0.4, 0.01)
    weight = 0.04 / (0.04 + 0.01)
    assert belief.mean("a") == pytest.approx(0.1 + weight * 0.3)
    assert belief.variance("a") == pytest.approx(0.04 * (1 - weight))


def test_a_pilot_of_one_arm_moves_the_others_the_same_way() -> None:
    base = scores(0.6)
    tried = arm("tried", pilot=pilot(scores=improved(base, 0.25)))
    before = judged(decide(question(arm("tried", pilot=pilot()), arm("other"), base_scores=base)), "other").gain
    after = judged(decide(question(tried, arm("other"), base_scores=base)), "other").gain
    assert after.mean > before.mean
    assert after.high - after.low < before.high - before.low


def test_groups_of_items_make_a_result_less_sure() -> None:
    base = scores(0.6)
    better = arm(scores=improved(base, 0.2))
    alone = judged(decide(question(better, base_scores=base, item_groups=tuple(map(str, range(200)))))).gain
    # The improved items are the first wrong ones, so families of neighbours succeed together.
    families = judged(
        decide(question(better, base_scores=base, item_groups=tuple(str(i // 20) for i in range(200))))
    ).gain
    assert families.high - families.low > alone.high - alone.low


# ── Pilots ───────────────────────────────────────────────────────────────────────────────────────


def test_a_pilot_is_asked_for_only_where_it_is_worth_more_than_it_costs() -> None:
    cheap = decide(question(arm(gain=Gain(mean=0.04, sd=0.08), pilot=pilot(20))))
    dear = decide(question(arm(gain=Gain(mean=0.04, sd=0.08), pilot=pilot(5_000))))
    assert (cheap.action, cheap.arm) == ("pilot", "sft")
    assert judged(cheap).pilot_worth_usd == judged(dear).pilot_worth_usd
    assert 20 < (judged(cheap).pilot_worth_usd or 0) < 5_000
    assert dear.action != "pilot"


def test_a_pilot_that_could_change_nothing_is_worth_nothing() -> None:
    sure = arm(gain=Gain(mean=0.2, sd=0.001), pilot=pilot(1, fidelity_sd=0.0))
    assert (judged(decide(question(sure, prior_doubt=0, risk=Risk(aversion=0)))).pilot_worth_usd or 0) < 1e-6


def test_the_worth_of_perfect_information_is_the_closed_form() -> None:
    """One arm, a linear net value, no risk: E[max(0, NV)] - max(0, E NV) of a normal."""
    from stepforge.economics._belief import Belief
    from stepforge.economics._numbers import STANDARD
    from stepforge.economics._pilots import worth
    from stepforge.economics._value import Offer, Stakes, net_value

    asked = question(arm(gain=Gain(mean=0.05, sd=0.02), fixed=FixedCosts(training_usd=1_000, relative_sd=0)))
    offer, stakes = Offer.of(asked.arms[0], months=12, discount_year=0.1), Stakes.of(asked)
    belief = Belief.of({"sft": Gain(mean=0.05, sd=0.02)}, doubt=0, correlation=0)
    mean = net_value(offer, stakes, 0.05)
    sd = (net_value(offer, stakes, 0.06) - mean) / 0.01 * 0.02
    expected = mean * STANDARD.cdf(mean / sd) + sd * STANDARD.pdf(mean / sd) - max(0.0, mean)
    assert worth("sft", 0.0, belief, {"sft": offer}, stakes, Risk(aversion=0)) == pytest.approx(expected, rel=0.03)


def test_a_pilot_beyond_the_budget_is_not_asked_for() -> None:
    promising = arm(gain=Gain(mean=0.04, sd=0.08), fixed=FixedCosts(training_usd=300), pilot=pilot(320))
    assert decide(question(promising)).action == "pilot"
    assert decide(question(promising, constraints=Constraints(budget_usd=310))).action != "pilot"


# ── Invariances ──────────────────────────────────────────────────────────────────────────────────


def scaled(asked: Question, by: float) -> Question:
    arms = tuple(
        one.model_copy(
            update={
                "fixed": one.fixed.model_copy(update={"training_usd": (one.fixed.training_usd or 0) * by}),
                "request_usd": (one.request_usd or 0) * by,
                "month_usd": (one.month_usd or 0) * by,
                "pilot": one.pilot and one.pilot.model_copy(update={"usd": one.pilot.usd * by}),
            }
        )
        for one in asked.arms
    )
    worth = Amount(mean=asked.quality_usd.mean * by, relative_sd=asked.quality_usd.relative_sd)
    return asked.model_copy(
        update={"arms": arms, "quality_usd": worth, "base_request_usd": asked.base_request_usd * by}
    )


ARMS = st.builds(
    lambda name, gain, sd, usd, request, month, price: Arm(
        name=name,
        method="sft",
        fixed=FixedCosts(training_usd=usd),
        request_usd=request,
        month_usd=month,
        gain=Gain(mean=gain, sd=sd),
        pilot=Pilot(usd=price),
    ),
    st.just("a"),
    st.floats(-0.05, 0.2),
    st.floats(0.01, 0.15),
    st.floats(10, 9_000),
    st.floats(0.0005, 0.004),
    st.floats(0, 300),
    st.floats(5, 500),
)


@FEW
@given(first=ARMS, second=ARMS, by=st.sampled_from((0.01, 0.9, 7.0, 1_000.0)))
def test_scaling_all_money_changes_no_decision(first: Arm, second: Arm, by: float) -> None:
    asked = question(first, second.model_copy(update={"name": "b"}))
    one, other = decide(asked), decide(scaled(asked, by))
    assert (one.action, one.arm) == (other.action, other.arm)
    for a, b in zip(one.arms, other.arms, strict=True):
        assert b.net_usd.mean == pytest.approx(a.net_usd.mean * by, rel=1e-6, abs=1e-6)
        assert b.score_usd == pytest.approx(a.score_usd * by, rel=1e-6, abs=1e-6)
        assert (b.break_even_requests or -1) == pytest.approx(a.break_even_requests or -1, rel=1e-6)


@FEW
@given(first=ARMS, gain=st.floats(-0.1, 0.3), sd=st.floats(0.01, 0.2))
def test_an_arm_that_loses_whatever_it_gains_changes_nothing(first: Arm, gain: float, sd: float) -> None:
    """Even right answers to all requests are worth 24,000 dollars here."""
    hopeless = first.model_copy(
        update={
            "name": "hopeless",
            "fixed": FixedCosts(training_usd=1e6),
            "gain": Gain(mean=gain, sd=sd),
            "pilot": None,
        }
    )
    alone, both = decide(question(first)), decide(question(first, hopeless))
    assert (alone.action, alone.arm) == (both.action, both.arm)
    assert judged(alone, "a").net_usd == judged(both, "a").net_usd
    assert judged(alone, "a").score_usd == judged(both, "a").score_usd
    assert judged(both, "a").pilot_worth_usd == pytest.approx(judged(alone, "a").pilot_worth_usd, abs=1e-3)


@FEW
@given(first=ARMS, more=st.floats(1, 2_000), worse=st.floats(0, 0.05))
@example(first=arm("a", gain=Gain(mean=0.0, sd=0.01), fixed=FixedCosts(training_usd=229)), more=1.0, worse=0.0)
@example(first=arm("a", gain=Gain(mean=1e-304, sd=0.125), request_usd=0.002), more=294.0, worse=0.0)
def test_without_pilots_a_dominated_arm_changes_nothing(first: Arm, more: float, worse: float) -> None:
    """Dearer and no better. With a pilot it is an option for the case that the other one disappoints."""
    assert first.gain is not None
    first = first.model_copy(update={"pilot": None})
    dominated = first.model_copy(
        update={
            "name": "dominated",
            "fixed": FixedCosts(training_usd=(first.fixed.training_usd or 0) + more),
            "gain": Gain(mean=first.gain.mean - worse, sd=first.gain.sd),
        }
    )
    alone, both = decide(question(first)), decide(question(first, dominated))
    assert (alone.action, alone.arm) == (both.action, both.arm)
    assert judged(alone, "a").score_usd == judged(both, "a").score_usd


@FEW
@given(first=ARMS, low=st.floats(0.001, 0.05), factor=st.floats(1.01, 5))
def test_a_gain_is_worth_more_where_quality_is(first: Arm, low: float, factor: float) -> None:
    assert first.gain is not None
    # Cutting the gain to [-q, 1 - q] must not turn its sign: means of 0 and more, and little spread.
    better = first.model_copy(update={"gain": Gain(mean=abs(first.gain.mean), sd=0.05)})
    cheap = judged(decide(question(better, quality_usd=Amount(mean=low))), "a")
    dear = judged(decide(question(better, quality_usd=Amount(mean=low * factor))), "a")
    assert dear.net_usd.mean >= cheap.net_usd.mean - 1e-9
    assert (dear.break_even_requests or math.inf) <= (cheap.break_even_requests or math.inf)


def test_a_name_or_a_place_among_the_arms_changes_no_choice() -> None:
    arms = [arm("a", gain=Gain(mean=0.05, sd=0.02)), arm("b", gain=Gain(mean=0.12, sd=0.03)), arm("c")]
    forward, backward = decide(question(*arms)), decide(question(*reversed(arms)))
    assert forward.arms == backward.arms


def test_who_fears_loss_more_asks_for_more() -> None:
    risky = arm(gain=Gain(mean=0.07, sd=0.1))
    each = [judged(decide(question(risky, risk=Risk(aversion=a)))).score_usd for a in (0.0, 0.1, 1.0, 5.0)]
    assert each == sorted(each, reverse=True)
    assert each[0] == pytest.approx(judged(decide(question(risky))).net_usd.mean)


def test_the_same_question_has_the_same_verdict() -> None:
    assert decide(question()).model_dump_json() == decide(question()).model_dump_json()


# ── Prices and criteria from elsewhere ───────────────────────────────────────────────────────────


def test_prices_that_are_left_out_come_from_the_catalogue_with_a_warning_about_their_source() -> None:
    asked = question(
        Arm(
            name="nova",
            method="managed",
            model="bedrock/amazon.nova-micro-v1:0",
            job=TrainingPlan(tokens=1_600_000, epochs=5),
            traffic=Traffic(prompt_tokens=800, completion_tokens=60),
        )
    )
    verdict = decide(asked)
    assert judged(verdict, "nova").fixed_usd == pytest.approx(8.00)
    assert any("stale" in line and "2026-04-16" in line for line in verdict.warnings)


def test_a_price_that_nobody_knows_is_an_error_with_advice_and_never_zero() -> None:
    unpriced = arm(model="vertex/gemini-3.5-flash", fixed=FixedCosts(), job=TrainingPlan(tokens=10_000, epochs=3))
    with pytest.raises(UnknownPrice, match=r"no price of training_tokens is known for 'vertex/gemini-3.5-flash'.*give"):
        decide(question(unpriced))
    with pytest.raises(UnknownPrice, match=r"give fixed\.training_usd"):
        decide(question(arm(fixed=FixedCosts())))
    with pytest.raises(UnknownPrice, match=r"give request_usd"):
        decide(question(arm(request_usd=None)))


def test_a_training_of_nothing_is_not_free() -> None:
    with pytest.raises(ValueError, match="give tokens, or hours"):
        TrainingPlan()


def test_the_largest_amounts_have_a_verdict_and_larger_ones_are_refused() -> None:
    most = 1e12
    dear = arm(fixed=FixedCosts(training_usd=most, relative_sd=5), month_usd=most, request_usd=most, retrains=1000)
    amounts = {"requests_month": Amount(mean=most, relative_sd=5), "quality_usd": Amount(mean=most, relative_sd=5)}
    verdict = decide(question(dear, horizon_months=120, base_request_usd=most, **amounts))
    assert all(math.isfinite(one.net_usd.low) and math.isfinite(one.score_usd) for one in verdict.arms)
    for larger in (2 * most, 1e300):
        with pytest.raises(ValueError, match="less than or equal"):
            Amount(mean=larger)
        with pytest.raises(ValueError, match="less than or equal"):
            FixedCosts(training_usd=larger)


def test_caches_and_batches_lower_what_a_request_costs(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    rows = [f'{{ kind = "{kind}", usd = {usd}, unit = "1M tokens", {SEEN} }}' for kind, usd in PER_MILLION.items()]
    own.write_text(
        'version = 1\n[[models]]\nid = "openai/x"\nprovider = "openai"\nas_of = 2026-11-01\n'
        f'source = "a price page"\nprices = [{", ".join(rows)}]\n'
    )
    costs = []
    for share, paid in ((0.0, 1.0), (0.5, 1.0), (0.5, 0.5)):
        traffic = Traffic(prompt_tokens=1_000, completion_tokens=100, cached_share=share, price_share=paid)
        better = Arm(name="p", method="prompt", model="openai/x", traffic=traffic, gain=Gain(mean=0.1, sd=0.01))
        priced, _ = quoted(question(better), Catalogue.load(own))
        costs.append(priced.arms[0].request_usd)
    # 1,000 x 2 + 100 x 8; 500 x 2 + 500 x 0.5 + 100 x 8; half of that: in millionths of a dollar.
    assert costs == pytest.approx([2_800e-6, 2_050e-6, 1_025e-6])


class Fixed:
    """An advisor with one opinion."""

    def __init__(self, weight_usd: float, **of: float) -> None:
        self.given = Criterion(name="independence", weight_usd=weight_usd, scores=of, base_score=0.5)

    def criteria(self, question: Question) -> Sequence[Criterion]:
        return (self.given,)


def test_criteria_from_outside_are_pooled_by_median_and_can_turn_a_choice() -> None:
    arms = (arm("a"), arm("b", fixed=FixedCosts(training_usd=1_100)))
    advisors: list[Advisor] = [Fixed(2_000, b=1.0), Fixed(2_000, b=0.9), Fixed(900_000, b=0.0)]
    assert decide(question(*arms)).arm == "a"
    verdict = decide(question(*arms), advisors=advisors)
    assert verdict.arm == "b"
    assert judged(verdict, "b").criteria_usd == pytest.approx(2_000 * (0.9 - 0.5))
    assert judged(verdict, "a").criteria_usd == 0
    assert verdict.criteria == ("independence: 2,000 USD",)


def test_a_criterion_about_an_arm_that_is_not_asked_about_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'sft'"):
        decide(question(), advisors=[Fixed(10, sftt=1.0)])


def test_scores_of_other_items_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"3 items, base_scores has 200"):
        question(arm(scores=(1.0, 0.0, 1.0)))


def test_a_date_counts_in_whole_months() -> None:
    from stepforge.economics.decide import months_until

    assert [
        months_until(TODAY, end, 24) for end in (None, date(2027, 11, 22), date(2027, 11, 21), date(2020, 1, 1))
    ] == [
        24,
        12,
        11,
        0,
    ]
