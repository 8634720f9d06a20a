"""The controllers and the guard, as functions of what was measured."""

from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from stepforge.contracts.work import KlControl, RlvrWork
from stepforge_jobs.rl.kl_control import Control, Guarded, begin, judge, update
from stepforge_jobs.training.hard import bound

PI = KlControl()
ZIEGLER = KlControl(controller="ziegler", beta_min=1e-6, beta_max=1e6)


def after(config: KlControl, kls: list[float], control: Control | None = None, *, rollouts: int = 128) -> Control:
    control = control or begin(config)
    for kl in kls:
        control = update(config, control, kl, rollouts=rollouts)
    return control


@pytest.mark.parametrize(("growth", "start"), [(0.02, 0.0), (0.05, 0.0), (0.01, 0.09)])
def test_pi_control_settles_a_drifting_kl_at_its_target(growth: float, start: float) -> None:
    """A policy that training pushes away by `growth` a step and beta pulls back by a tenth of itself."""
    kl, control, seen = start, begin(PI), []
    for _ in range(300):
        control = update(PI, control, kl, rollouts=128)
        kl = max(0.0, kl + growth - min(1.0, 0.3 * control.beta) * kl)
        seen.append(kl)
    assert seen[-1] == pytest.approx(PI.target, rel=0.1)
    assert max(seen[50:]) < PI.cap


def test_zieglers_controller_needs_68_updates_of_512_rollouts_to_double() -> None:
    once = after(ZIEGLER, [1.0], Control(beta=1.0), rollouts=512)
    assert once.beta == pytest.approx(1 + 0.2 * 512 / 10_000)
    assert after(ZIEGLER, [1.0] * 68, Control(beta=1.0), rollouts=512).beta < 2
    assert after(ZIEGLER, [1.0] * 69, Control(beta=1.0), rollouts=512).beta > 2
    assert after(ZIEGLER, [0.0], Control(beta=1.0), rollouts=512).beta == pytest.approx(1 - 0.2 * 512 / 10_000)


def test_beta_stays_in_its_bounds_and_leaves_them_at_once_when_the_kl_turns() -> None:
    high = after(PI, [5.0] * 200)
    assert high.beta == PI.beta_max
    low = after(PI, [1e-4] * 200, high)
    assert low.beta == PI.beta_min
    # Had the integral wound up at the bound, the first rise would not show.
    assert after(PI, [0.2], low).beta > 3 * PI.beta_min


def test_a_kl_of_zero_is_a_number_to_the_controller() -> None:
    assert math.isfinite(after(PI, [0.0, 0.0, 0.05]).beta)


def test_the_guard_keeps_what_is_at_the_cap_and_refuses_what_is_over_it() -> None:
    control = after(PI, [0.08] * 3)
    stays, guarded, same = judge(PI, Guarded(), control, PI.cap)
    assert (stays, guarded, same) == (True, Guarded(kl=PI.cap), control)
    stays, guarded, doubled = judge(PI, Guarded(kl=0.07), control, 0.1001)
    assert not stays
    assert guarded == Guarded(kl=0.07, refused=1, learning_rate_scale=0.5)
    assert doubled.beta == 2 * control.beta
    # The fall from the refused KL to the kept one is the guard's doing: it must not undo the doubling.
    assert after(PI, [0.07], doubled).beta >= doubled.beta


def test_states_survive_json_to_the_last_bit() -> None:
    control = after(PI, [0.013, 0.031, 0.077])
    _, guarded, control = judge(PI, Guarded(kl=1 / 3), control, 0.2)
    assert Control(**json.loads(json.dumps(control.state_dict()))) == control
    assert Guarded(**json.loads(json.dumps(guarded.state_dict()))) == guarded


def test_the_bound_on_hard_problems_is_that_of_the_bases_share_or_of_the_rule_of_three() -> None:
    assert bound(25, 100) == pytest.approx(math.log(4))
    assert bound(0, 300) == pytest.approx(math.log(100))
    assert bound(100, 100) == 0
    assert bound(0, 1) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ppo": {}}, "set algorithm to 'ppo'"),
        ({"algorithm": "ppo", "loss": "dapo"}, "loss 'dapo' changes nothing where algorithm is 'ppo'"),
        ({"algorithm": "dpo", "beta": 0.1, "clip": 0.1}, "clip 0.1 changes nothing where algorithm is 'dpo'"),
        ({"clip": 0.1}, "clip 0.1 changes nothing where updates_per_batch is 1"),
        ({"loss": "gspo", "clip_high": 0.1}, "clip_high 0.1 changes nothing where updates_per_batch is 1"),
        ({"kl_penalty": "k2_as_loss"}, "beta above 0, or kl.penalise 'rollouts'"),
        ({"kl_penalty": "k2_as_loss", "kl": {}}, "beta above 0, or kl.penalise 'rollouts'"),
        ({"sampling_rounds": 3}, "sampling_rounds 3 changes nothing where dynamic_sampling is off"),
        ({"kl": {"horizon": 5}}, "horizon 5 changes nothing where controller is 'pi'"),
        ({"kl": {"controller": "ziegler", "integral": 0.1}}, "where controller is 'ziegler'"),
        ({"algorithm": "ppo", "normalisation": "group"}, "'none', 'batch' or 'running'"),
        ({"algorithm": "dpo"}, "DPO needs beta > 0"),
        ({"algorithm": "dpo", "beta": 0.1, "kl": {"penalise": "rollouts"}}, "set kl.penalise to 'retained'"),
        ({"algorithm": "dpo", "beta": 0.1, "normalisation": "batch"}, "leave normalisation out"),
        ({"beta": 0.1, "kl": {"penalise": "rollouts"}}, "leave beta out, or set kl.penalise to 'retained'"),
        ({"kl": {"beta_min": 1.0, "beta_max": 0.5}}, "must be below beta_max"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_settings_that_contradict_each_other_are_refused_with_the_remedy(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace(".", r"\.")):
        RlvrWork.model_validate(given)
