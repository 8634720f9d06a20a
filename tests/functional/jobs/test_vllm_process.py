"""The process that vLLM samples in, with a fake of vLLM that knows the names of its calls (support/fake_vllm)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.job_folders import TINY

from stepforge.contracts.work import Vllm
from stepforge.errors import SamplerFailed
from stepforge_jobs.engines import vllm, vllm_worker
from stepforge_jobs.engines.base import Request
from stepforge_jobs.engines.vllm import VllmEngine, environment, llm_arguments, sampling_parameters
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.models import Policy, from_scratch

FAKE = Path(__file__).resolve().parents[2] / "support" / "fake_vllm"
CUDA = torch.device("cuda", 1)


@pytest.fixture
def policy() -> Policy:
    torch.set_num_threads(1)
    return from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=0)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """What the fake was called with until now."""
    monkeypatch.setenv("FAKE_VLLM", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_VLLM_FAULT", "")
    return lambda: [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that has the fake, as that of another environment has vLLM."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={FAKE} exec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def requests() -> list[Request]:
    return [Request([3, 4], 2, seed=1), Request([5], 4, seed=2)]


def test_weights_are_handed_over_before_each_batch_and_nothing_is_left_behind(
    policy: Policy, fake: Callable[[], list[dict[str, Any]]], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "1")
    with VllmEngine(Vllm(), python=python, context=20, seed=3) as engine:
        assert engine.name == "vllm"
        engine.renew(policy)
        assert engine.name == "vllm 0.32.0"
        found = engine.generate(requests(), temperature=0.5, stops={8, 7})
        assert [completion.tokens for completion in found] == [[8], [7]]
        assert [completion.logps for completion in found] == [[-1.0], [-1.0]]
        engine.rest()
        with torch.no_grad():
            policy.network.get_input_embeddings().weight.add_(1)
        engine.renew(policy)
        found = engine.generate(requests(), temperature=0.5, stops={0})
        assert [completion.tokens for completion in found] == [[8, 8], [7, 7, 7, 7]]
        process, folder = engine._process, engine._folder
        assert process is not None
        assert folder is not None
    assert process.returncode is not None
    assert not folder.exists()
    start, first, reload, reset, second = fake()
    assert [call["call"] for call in (first, reload, reset, second)] == ["generate", "reload", "reset", "generate"]
    assert first["prompts"] == second["prompts"] == [[3, 4], [5]]
    assert (first["parameters"]["seed"], first["parameters"]["stop_token_ids"]) == (1, [7, 8])
    assert start["weights"] != reload["weights"]
    # The fake would find our packages, and vLLM would wait for ranks that are not its own.
    assert not {"WORLD_SIZE", "MASTER_PORT"} & set(start["environment"])
    assert start["tied"] is False
    assert start["given"]["max_model_len"] == 20


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("ends", "vLLM's process ended; its log ends: the fake has started"),
        ("raises", "vLLM failed: ValueError: no room for these; its log ends: the fake has started"),
        ("no logprobs", "did not say how likely its tokens were"),
        ("keeps its cache", "kept its prefix cache"),
    ],
)
def test_a_failure_of_vllm_is_told_with_its_reason(
    policy: Policy,
    fake: object,
    python: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    said: str,
) -> None:
    monkeypatch.setenv("FAKE_VLLM_FAULT", fault)
    with VllmEngine(Vllm(), python=python, context=20, seed=0) as engine:
        engine.renew(policy)
        failing = partial(engine.generate, requests(), temperature=1.0, stops={0})
        with pytest.raises(SamplerFailed, match=said):
            engine.renew(policy) if fault == "keeps its cache" else failing()


def test_an_interpreter_without_vllm_and_one_that_hangs_are_told(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(python: str) -> None:
        with VllmEngine(Vllm(), python=python, context=20, seed=0) as engine:
            engine.renew(policy)

    with pytest.raises(SamplerFailed, match="ModuleNotFoundError: No module named 'vllm'"):
        start(sys.executable)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho thinking\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(vllm, "START_SECONDS", 0.3)
    with pytest.raises(SamplerFailed, match=r"took more than 0\.3 s; its log ends: thinking"):
        start(str(slow))


def test_on_a_gpu_the_memory_is_taken_for_sampling_alone(
    tmp_path: Path, fake: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order matters: weights before the cache, and what the cache was made of forgotten."""
    monkeypatch.syspath_prepend(str(FAKE))
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    begin = llm_arguments(tmp_path, Vllm(memory=0.4), context=20, seed=0, device=CUDA)
    try:
        sampler = vllm_worker.Sampler(begin)
        sampler.rest()
        sampler.renew()
    finally:
        sys.modules.pop("vllm", None)
    start, *calls = fake()
    assert start["given"]["gpu_memory_utilization"] == 0.4
    assert start["given"]["dtype"] == "bfloat16"
    assert [(call["call"], call.get("tags") or call.get("level")) for call in calls] == [
        ("sleep", 2),
        ("wake", ["weights"]),
        ("reload", None),
        ("wake", ["kv_cache"]),
        ("reset", None),
    ]


def test_vllm_sees_the_ranks_own_gpu_alone() -> None:
    for visible, seen in (("", "1"), ("4,GPU-5", "GPU-5")):
        assert environment({"CUDA_VISIBLE_DEVICES": visible, "HOME": "/x"}, CUDA)["CUDA_VISIBLE_DEVICES"] == seen
    assert "CUDA_VISIBLE_DEVICES" not in environment({}, torch.device("cpu"))


def test_all_that_is_drawn_from_is_in_the_log_probabilities_and_only_our_stops_end_a_completion() -> None:
    given = sampling_parameters(Request([1], 5, 9), temperature=0.5, stops={4, 2})
    assert given == {
        "temperature": 0.5,
        "max_tokens": 5,
        "seed": 9,
        "stop_token_ids": [2, 4],
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }
    assert llm_arguments(Path("x"), Vllm(), context=8, seed=0, device=CUDA)["logprobs_mode"] == "processed_logprobs"


def test_weights_go_to_memory_where_it_has_room(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm, "MEMORY", tmp_path)
    assert vllm._place(policy, torch.float32) == tmp_path
    full = SimpleNamespace(free=policy.parameters * 4)
    monkeypatch.setattr(vllm.shutil, "disk_usage", lambda _: full)
    assert vllm._place(policy, torch.float32) is None
