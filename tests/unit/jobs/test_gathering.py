"""Dynamic sampling: which groups stay, what takes the others' place, and that a step is a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.support.job_folders import TINY

from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Provenance, Record, Step
from stepforge.contracts.work import RlvrWork, SrlWork
from stepforge_jobs.rl.dynamic_sampling import informative
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.gathering import Judged, Pool, gather
from stepforge_jobs.training.models import Policy, from_scratch
from stepforge_jobs.training.srl import instances, trajectories

G = 2


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=0)


def work(**more: object) -> RlvrWork:
    given = {"batch_prompts": 4, "group_size": G, "max_new_tokens": 3, "dynamic_sampling": True, **more}
    return RlvrWork.model_validate(given)


def pools(policy: Policy, *counts: int) -> list[Pool[str]]:
    """20 problems each; their names tell pool and place."""
    prompts = policy.codec.contexts(f"n{n} up x1 :" for n in range(20))
    made = []
    for pool, count in enumerate(counts):
        items = [(prompt, f"{pool}-{place}") for place, prompt in enumerate(prompts)]
        made.append(Pool(items=items, count=count, seed=pool))
    return made


class Judge:
    """Gives a group a spread where its problem is among `good`."""

    def __init__(self, good: Sequence[str]) -> None:
        self.good, self.asked = set(good), []

    def __call__(self, problems: Sequence[str], completions: Sequence[Sequence[int]]) -> Judged:
        self.asked.append(list(problems[::G]))
        assert len(problems) == len(completions)
        rewards = [float(p in self.good and i % G) for i, p in enumerate(problems)]
        return Judged(rewards=rewards, metrics={Metric.ACCEPTED: 0.25})


def test_a_group_is_informative_where_the_population_deviation_exceeds_the_bound() -> None:
    rewards = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    rewards[3] = 0.1
    rewards[4] = torch.tensor([0.1] * 7 + [0.4])
    deviations = np.std(rewards.numpy().astype(np.float64), axis=1)
    for above in (1e-6, 0.1, 0.25):
        assert informative(rewards, above=above).tolist() == (deviations > above).tolist()
    assert not informative(torch.full((1, 8), 0.1), above=1e-6).item()


def test_groups_without_spread_are_replaced_by_whole_groups_of_fresh_prompts(policy: Policy) -> None:
    judge = Judge([f"0-{place}" for place in range(0, 20, 2)])
    found = gather(policy, work(sampling_rounds=10), pools(policy, 4), 3, judge=judge, stops={policy.codec.eos})
    asked = [name for part in judge.asked for name in part]
    assert len(set(asked)) == len(asked), "a refill asked the same problem again"
    kept = [name for name in asked if name in judge.good]
    assert len(kept) == 4
    assert found.rewards_PG.tolist() == [[0.0, 1.0]] * 4
    assert (len(found.prompts), len(found.completions)) == (8, 8)
    by_name = {f"0-{place}": item for place, (item, _) in enumerate(pools(policy, 4)[0].items)}
    assert found.prompts[::G] == [by_name[name] for name in kept]
    assert len(judge.asked[0]) == 4
    lacking = [
        4 - sum(name in judge.good for part in judge.asked[:r] for name in part) for r in range(len(judge.asked))
    ]
    assert [len(part) for part in judge.asked] == lacking
    assert found.metrics[Metric.KEPT_GROUPS] == 4 / len(asked)
    assert found.metrics[Metric.SAMPLING_ROUNDS] == len(judge.asked)
    # What is logged of rewards is of the prompts drawn first: a filter would flatter it.
    first = [name in judge.good for name in judge.asked[0]]
    assert found.metrics[Metric.REWARD] == pytest.approx(sum(first) / 8)
    assert found.metrics[Metric.ZERO_SPREAD] == 1 - sum(first) / 4


@pytest.mark.parametrize("share", [True, False], ids=["shared", "rows"])
def test_rollouts_that_are_alike_so_far_are_computed_as_one_unless_sharing_is_off(policy: Policy, share: bool) -> None:
    sizes: list[int] = []
    hook = policy.network.register_forward_pre_hook(
        lambda _network, _given, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    given = work(temperature=1e-3, group_size=6, share_prefixes=share, dynamic_sampling=False)
    gather(policy, given, pools(policy, 4), 0, judge=lambda problems, _: Judged([0.0] * len(problems), {}), stops=[-1])
    hook.remove()
    assert sizes[-1] == (4 if share else 4 * 6)


def test_rounds_are_bounded_and_a_step_may_find_nothing(policy: Policy) -> None:
    judge = Judge([])
    found = gather(policy, work(sampling_rounds=3), pools(policy, 4), 0, judge=judge, stops={policy.codec.eos})
    assert [len(part) for part in judge.asked] == [4, 4, 4]
    assert (found.prompts, found.rewards_PG.shape) == ([], (0, G))
    assert found.metrics[Metric.BATCH_GROUPS] == found.metrics[Metric.KEPT_GROUPS] == 0
    # 20 problems and no more: rounds beyond them ask nothing.
    judge = Judge([])
    gather(policy, work(sampling_rounds=50), pools(policy, 4), 0, judge=judge, stops={policy.codec.eos})
    assert sorted(name for part in judge.asked for name in part) == sorted(f"0-{place}" for place in range(20))


def test_a_pool_is_refilled_from_itself(policy: Policy) -> None:
    judge = Judge([f"1-{place}" for place in range(20)])
    gather(policy, work(sampling_rounds=3), pools(policy, 3, 2), 1, judge=judge, stops={policy.codec.eos})
    assert [[name[0] for name in part] for part in judge.asked] == [list("00011"), list("000"), list("000")]


def test_a_step_draws_the_same_whatever_came_before_it(policy: Policy) -> None:
    def once(step: int) -> tuple[object, ...]:
        judge = Judge([f"0-{place}" for place in range(0, 20, 3)])
        found = gather(policy, work(), pools(policy, 4), step, judge=judge, stops={policy.codec.eos})
        return judge.asked, found.prompts, found.completions, found.rewards_PG.tolist(), found.metrics

    alone = once(5)
    assert [once(step) for step in (2, 5)][1] == alone
    assert once(6) != alone


def test_without_dynamic_sampling_every_drawn_group_stays(policy: Policy) -> None:
    judge = Judge([])
    found = gather(policy, work(dynamic_sampling=False), pools(policy, 4), 0, judge=judge, stops={policy.codec.eos})
    assert found.rewards_PG.shape == (4, G)
    assert len(judge.asked) == 1
    assert Metric.KEPT_GROUPS not in found.metrics


def trajectory_pool(lengths: Sequence[int], count: int) -> Pool[int]:
    places = iter(range(sum(lengths)))
    runs = [[next(places) for _ in range(length)] for length in lengths]
    items = [([place], place) for run in runs for place in run]
    return Pool(items, count=count, seed=3, runs=runs)


@pytest.mark.parametrize("count", [3, 5, 12], ids=lambda count: f"{count} prompts")
def test_a_pass_over_trajectories_takes_each_step_once_and_those_of_one_side_by_side(count: int) -> None:
    lengths = (3, 1, 4, 2, 5)
    pool = trajectory_pool(lengths, count)
    assert pool.runs is not None
    drawn = [place for step in range(15 * 4) for place in pool.batch(step)]
    orders = []
    for start in range(0, len(drawn) - 14, 15):
        epoch = drawn[start : start + 15]
        assert sorted(epoch) == list(range(15)), "each step once in a pass"
        starts = {epoch[0], *(b for a, b in pairwise(epoch) if b != a + 1)}
        assert starts <= {run[0] for run in pool.runs}, "a trajectory is begun at its first step and gone through"
        orders.append(tuple(epoch))
    assert len(set(orders)) > 5, "passes differ in order"
    single = Pool(pool.items, count=count, seed=3)
    assert [single.batch(step) for step in range(5)] != [pool.batch(step) for step in range(5)]
    for step in range(5):
        fresh = list(pool.fresh(step))
        assert sorted([*fresh, *set(pool.batch(step))]) == list(range(15)), "and what is not drawn is fresh once"


def test_a_batch_of_trajectories_has_fewer_of_them_than_one_of_steps() -> None:
    pool = trajectory_pool([6] * 30, 18)
    single = Pool(pool.items, count=18, seed=3)
    of = {
        way: [len({place // 6 for place in p.batch(step)}) for step in range(40)]
        for way, p in (("runs", pool), ("steps", single))
    }
    assert max(of["runs"]) == 3, "18 steps are three whole trajectories of six"
    assert min(of["steps"]) > 6


def test_the_instances_of_a_record_are_a_trajectory_and_the_default_leaves_identities_alone() -> None:
    steps = tuple(Step(action=f"s{n}") for n in range(4))
    kinds = {"a": 4, "b": 1, "c": 3}
    base = {"source": "template", "verifier": "d@1", "provenance": Provenance(generator="d@1"), "domain": "d"}
    records = [
        Record.model_validate({**base, "id": n, "group": n, "split": "train", "prompt": "p", "steps": steps[:count]})
        for n, count in kinds.items()
    ]
    work = SrlWork(order="trajectories")
    assert trajectories(instances(records, work)) == [[0, 1, 2], [3, 4]], "one step alone is no instance of the paper's"
    assert "order" not in SrlWork().model_dump(mode="json")
    assert work.model_dump(mode="json")["order"] == "trajectories"
