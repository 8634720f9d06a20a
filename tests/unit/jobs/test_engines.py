"""Engines that sample for training: what is asked of them, and that one like our own network changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest
import torch
from tests.support.job_folders import TINY
from torch import Tensor

from stepforge.contracts.metrics import Metric
from stepforge.contracts.tools import VLLM_PYTHON
from stepforge.contracts.work import Lora, PolicyGradient, RlvrWork
from stepforge.errors import Diverged, InvalidInput, SamplerFailed
from stepforge_jobs.engines import base
from stepforge_jobs.engines.base import Completion, Request, check, complete
from stepforge_jobs.engines.vllm import engine_of, interpreter, merged
from stepforge_jobs.evaluation.sampling import sample, seed_of
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.gathering import ROLLOUTS, Judged, Pool, gather
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.models import Policy, from_scratch, with_lora
from stepforge_jobs.training.ppo import PpoStage
from stepforge_jobs.training.ranks import Ranks
from stepforge_jobs.training.rollouts import RolloutStage
from stepforge_jobs.training.sharing import Sharing
from stepforge_jobs.training.stage import Start

G, TOKENS = 4, 5
SETTINGS = {"batch_prompts": 4, "group_size": G, "max_new_tokens": TOKENS, "temperature": 0.8}


def fresh(seed: int = 0) -> Policy:
    torch.set_num_threads(1)
    return from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=seed)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return fresh()


class OwnNetwork:
    """Draws what our own sampler draws in step 0, and says how likely our own network finds it, `off` by so much."""

    name = "our own network"

    def __init__(self, work: PolicyGradient, off: float = 0.0) -> None:
        self._work, self._off = work, off
        self.calls: list[str] = []

    def renew(self, policy: Policy) -> None:
        self._policy = policy
        self.calls.append("renew")

    def rest(self) -> None:
        self.calls.append("rest")

    def generate(self, requests: Sequence[Request], *, temperature: float, stops: Collection[int]) -> list[Completion]:
        self.calls.append("generate")
        prompts = [list(request.prompt) for request in requests]
        given: dict[str, Any] = {"temperature": temperature, "stops": stops, "max_new_tokens": TOKENS}
        seed = seed_of(self._work.seed, 0, ROLLOUTS)
        tokens = sample(self._policy, prompts[::G], count=G, seed=seed, **given)
        network, device = self._policy.network, self._policy.device
        logps = Sharing(wanted=True).logps(network, prompts, tokens, temperature=temperature, device=device)
        return [Completion(row, (of - self._off).tolist()) for row, of in zip(tokens, logps, strict=True)]


def stage_of(policy: Policy, work: RlvrWork, engine: Any, said: list[str]) -> RolloutStage[int]:
    prompts = policy.codec.contexts(f"n{n} up x1 :" for n in range(6))
    pool = Pool([(prompt, place) for place, prompt in enumerate(prompts)], count=work.batch_prompts, seed=0)
    start = Start(policy, None, cast(Any, None), [], [], cast(Any, None), warn=said.append)

    def judge(problems: Sequence[int], completions: Sequence[Sequence[int]]) -> Judged:
        return Judged(rewards=[float(place % 3) for place in range(len(problems))], metrics={})

    made: type[RolloutStage[int]] = PpoStage if work.algorithm == "ppo" else GrpoStage
    return made(start, work, pools=[pool], judge=judge, stops={policy.codec.eos}, engine=engine)


def gradient(work: RlvrWork, *, off: float | None, said: list[str] | None = None) -> tuple[Tensor, dict[Metric, float]]:
    """Of both updates on step 0's batch, with an engine whose probabilities are `off`, or without one where None."""
    policy = fresh()
    if off is not None:
        work = RlvrWork.model_validate({**work.model_dump(exclude_unset=True), "vllm": {}})
    engine = None if off is None else OwnNetwork(work, off)
    stage = stage_of(policy, work, engine, [] if said is None else said)
    found, metrics = [], {}
    for update in range(work.updates_per_batch):
        policy.network.zero_grad()
        metrics |= stage.backward(0, update).metrics
        found += [p.grad.flatten().clone() for p in policy.network.parameters()]
        with torch.no_grad():
            for parameter in policy.network.parameters():
                parameter -= 0.01 * parameter.grad
    if engine is not None:
        assert engine.calls == ["renew", "generate", "rest"]
    return torch.cat(found), metrics


@pytest.mark.parametrize(
    "more",
    [{"loss": "gspo"}, {"updates_per_batch": 2}, {"algorithm": "ppo"}],
    ids=["one update", "two updates", "ppo"],
)
def test_an_engine_like_our_own_network_gives_the_very_gradients_that_there_are_without(more: dict[str, Any]) -> None:
    work = RlvrWork(**SETTINGS, **more)
    plain, _ = gradient(work, off=None)
    found, metrics = gradient(work, off=0.0)
    assert float(plain.norm()) > 0
    assert torch.equal(found, plain)
    assert metrics[Metric.SAMPLER_KL] == 0
    assert metrics[Metric.IMPORTANCE] == metrics[Metric.IMPORTANCE_LARGEST] == 1
    assert metrics[Metric.IMPORTANCE_CAPPED] == 0


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize(
    ("off", "weight", "kl"), [(0.5, 1.6487213, "0.149"), (1.0, 2.0, "0.718")], ids=["below the cap", "above"]
)
def test_weights_scale_the_gradient_as_far_as_the_cap_and_an_engine_far_off_is_told(
    algorithm: str, off: float, weight: float, kl: str
) -> None:
    said: list[str] = []
    work = RlvrWork.model_validate({**SETTINGS, "algorithm": algorithm})
    plain, _ = gradient(work, off=None)
    found, metrics = gradient(work, off=off, said=said)
    assert (found - weight * plain).norm() < 1e-4 * plain.norm()
    assert metrics[Metric.IMPORTANCE_CAPPED] == float(off > 0.7)
    assert len(said) == 1
    assert f"KL {kl} nats" in said[0]


def test_an_engine_far_off_is_told_once_and_a_near_one_not_at_all(policy: Policy) -> None:
    work = RlvrWork(**SETTINGS, vllm={})
    for off, times in ((0.5, 1), (0.01, 0)):
        said: list[str] = []
        stage = stage_of(policy, work, OwnNetwork(work, off), said)
        stage.backward(0, 0)
        stage.backward(0, 0)
        assert len(said) == times


def test_dropout_of_adapters_does_not_pass_for_a_difference_of_the_engine() -> None:
    policy = with_lora(fresh(), Lora(dropout=0.5), seed=0)
    for name, parameter in policy.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    policy.network.train()
    work = RlvrWork(**SETTINGS, vllm={})
    metrics = stage_of(policy, work, OwnNetwork(work), []).backward(0, 0).metrics
    assert metrics[Metric.IMPORTANCE_LARGEST] == 1


def test_run_json_says_who_sampled(policy: Policy) -> None:
    work = RlvrWork(**SETTINGS, vllm={"cap": 3, "weigh": "rollout"})
    choices = stage_of(policy, work, OwnNetwork(work), []).choices
    assert choices["sampler"].startswith("our own network, with the step's weights; ")
    assert "p of vLLM, 3), by rollout" in choices["sampler"]
    assert "sampling" not in choices["prefixes"]


ASKED = [Request([1, 2], 3, seed=0)]
GOOD = Completion([5, 6, 0], [-0.5, -0.5, -0.5])


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        ([], SamplerFailed, "gave 0 completions of 1"),
        ([GOOD, GOOD], SamplerFailed, "gave 2 completions of 1"),
        ([Completion([], [])], SamplerFailed, "has 0 tokens, where 1 to 3"),
        ([Completion([5, 5, 5, 0], [-1.0] * 4)], SamplerFailed, "has 4 tokens, where 1 to 3"),
        ([Completion([5, 6, 0], [-1.0])], SamplerFailed, "3 tokens and 1 log-probabilities"),
        ([Completion([5, 9, 0], [-1.0] * 3)], SamplerFailed, "token 9, and the model knows 0 to 8"),
        ([Completion([5, -1, 0], [-1.0] * 3)], SamplerFailed, "token -1"),
        ([Completion([5, 0, 5], [-1.0] * 3)], SamplerFailed, "goes on after a stop token"),
        ([Completion([5, 6], [-1.0] * 2)], SamplerFailed, "ends after 2 of 3 tokens without a stop"),
        ([Completion([5, 0], [-1.0, 0.5])], SamplerFailed, "log-probability 0.5, which is above 0"),
        ([Completion([5, 0], [-1.0, float("nan")])], Diverged, "log-probability nan.*lower learning_rate"),
        ([Completion([5, 0], [-1.0, float("-inf")])], Diverged, "log-probability -inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_no_engine_may_give_is_a_clear_error(
    found: list[Completion], error: type[Exception], said: str
) -> None:
    check(ASKED, [GOOD], stops={0}, vocabulary=9)
    with pytest.raises(error, match=said):
        check(ASKED, found, stops={0}, vocabulary=9)


class Recorder:
    name = "recorder"

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def renew(self, policy: Policy) -> None: ...

    def rest(self) -> None: ...

    def generate(self, requests: Sequence[Request], *, temperature: float, stops: Collection[int]) -> list[Completion]:
        self.requests += requests
        return [Completion([4] * request.max_new_tokens, [-1.0] * request.max_new_tokens) for request in requests]


class Second(Ranks):
    def gather(self, items: list[Any]) -> list[Any]:
        return items


def test_a_rank_asks_its_engine_for_its_own_rows_with_the_seeds_that_one_process_would_give_them(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[4] * length for length in (2, 30, 3, 5, 2)]
    asked = {"count": 2, "max_new_tokens": 6, "temperature": 1.0, "seed": 7, "stops": {0}}
    alone, second = Recorder(), Recorder()
    complete(alone, policy, prompts, **asked)
    assert [request.max_new_tokens for request in alone.requests] == [6, 6, 2, 2, 6, 6, 6, 6, 6, 6]
    assert len({request.seed for request in alone.requests}) == 10
    monkeypatch.setattr(base, "ranks", lambda: Second(rank=1, world=2))
    complete(second, policy, prompts, **asked)
    assert second.requests == alone.requests[4:]


class Telling(Recorder):
    """Every completion has tokens and a log-probability of its own."""

    def generate(self, requests: Sequence[Request], *, temperature: float, stops: Collection[int]) -> list[Completion]:
        made = [[4 + request.seed % 7, 4 + request.seed % 11] for request in requests]
        return [Completion(row, [-row[0], -row[1] / 64]) for row in made]


def test_with_dynamic_sampling_each_completion_keeps_its_own_log_probabilities(policy: Policy) -> None:
    work = RlvrWork(**{**SETTINGS, "max_new_tokens": 2}, dynamic_sampling=True, vllm={})
    pool = Pool([([4, 5, 6], place) for place in range(20)], count=4, seed=0)

    def judge(problems: Sequence[int], completions: Sequence[Sequence[int]]) -> Judged:
        return Judged(rewards=[float(p % 2 and i % G) for i, p in enumerate(problems)], metrics={})

    found = gather(policy, work, [pool], 0, judge=judge, stops={0}, engine=Telling())
    assert found.sampled_logps is not None
    assert found.metrics[Metric.SAMPLING_ROUNDS] > 1
    assert len(found.completions) == found.metrics[Metric.BATCH_GROUPS] * G
    assert [row.tolist() for row in found.sampled_logps] == [[-a, -b / 64] for a, b in found.completions]
    assert len({tuple(row) for row in found.completions}) > G


def test_a_prompt_that_leaves_no_room_is_refused_before_the_engine_is_asked(policy: Policy) -> None:
    with pytest.raises(InvalidInput, match="32 tokens leaves no room in the model's context of 32"):
        complete(Recorder(), policy, [[4] * 32], count=1, max_new_tokens=1, temperature=1.0, seed=0, stops={0})


def test_merged_weights_are_those_of_the_network_with_adapters_and_leave_it_untouched() -> None:
    policy = with_lora(fresh(), Lora(), seed=0)
    policy.network.eval()
    for name, parameter in policy.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: tensor.clone() for name, tensor in policy.network.state_dict().items()}
    weights = merged(policy.network.get_base_model(), torch.float32)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.network.state_dict().items())
    plain = fresh(seed=1)
    plain.network.load_state_dict(weights)
    ids = torch.randint(0, 10, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (plain.network(ids).logits - policy.network(ids).logits).abs().max() < 1e-4
        assert (fresh().network(ids).logits - policy.network(ids).logits).abs().max() > 0.1


def test_vllm_is_refused_without_a_gpu_and_without_vllm(policy: Policy) -> None:
    with engine_of(RlvrWork(), policy, [[1]]) as none:
        assert none is None
    with (
        pytest.raises(InvalidInput, match="'rlvr' has vllm, which needs a CUDA device"),
        engine_of(RlvrWork(vllm={}), policy, [[1]]),
    ):
        pass
    with pytest.raises(InvalidInput, match=f"{VLLM_PYTHON} is not set: install it into an environment of its own"):
        interpreter({})
    with pytest.raises(InvalidInput, match=f"{VLLM_PYTHON}='/no/python' is no program"):
        interpreter({VLLM_PYTHON: "/no/python"})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"algorithm": "dpo", "beta": 0.1}, "DPO has no ratio"),
        ({"temperature": 0.001}, "temperature 0.001 is not one that vllm samples at, 0.01 to 2"),
        ({"temperature": 2.5}, "temperature 2.5"),
        ({"lora": {"bits": 4}}, "lora.bits 4 beside vllm"),
    ],
    ids=["dpo", "too cold", "too hot", "4 bits"],
)
def test_settings_that_vllm_cannot_bear_are_refused(more: dict[str, Any], said: str) -> None:
    RlvrWork.model_validate(more)
    with pytest.raises(ValueError, match=said):
        RlvrWork.model_validate({**more, "vllm": {}})
