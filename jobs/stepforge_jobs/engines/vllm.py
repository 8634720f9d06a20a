"""vLLM on the GPU that trains: a process beside this one, which has the memory while it samples and gives it back.

Why a process: vLLM and `stepforge[train]` want different versions of transformers, so vLLM lies in an environment of
its own, whose interpreter STEPFORGE_VLLM_PYTHON names; and nothing of vLLM's (its ranks, random numbers, compiled
kernels, signal handlers) is then in the process that trains. The weights go through files, in memory where /dev/shm has
room for them. One engine a rank, on that rank's GPU; a model that needs several GPUs is not covered.

Tests hold the calls to the names that vLLM 0.32 has; tests/benchmarks/vllm_engine.py runs all this on vLLM itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepforge.contracts.tools import VLLM_PYTHON
from stepforge.contracts.work import PolicyGradient, Vllm
from stepforge.errors import InvalidInput, SamplerFailed
from stepforge_jobs.engines import vllm_worker
from stepforge_jobs.engines.base import Completion, Request
from stepforge_jobs.training.models import Policy, without_bars

START_SECONDS = 1_800.0
"""Of a first start: vLLM reads the weights, compiles and records CUDA graphs."""
CALL_SECONDS = 7_200.0
"""Of one round of rollouts. What takes longer is taken to hang."""
MEMORY = Path("/dev/shm")
SPARE_BYTES = 64 << 20
TOLD_BYTES = 2_000
"""Of the engine's log, in the error that says how it ended."""
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OURS_BY_PREFIX = ("MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_")
"""What must not reach the engine: it would import our packages, or wait for ranks that are not its own."""


@contextmanager
def engine_of(work: PolicyGradient, policy: Policy, prompts: Sequence[Sequence[int]]) -> Iterator[VllmEngine | None]:
    """The engine that `work` asks for, None where that is our own sampler; `prompts` are all that it may be given.

    It starts with the first step. Raises InvalidInput where this machine has no GPU or no vLLM.
    """
    if work.vllm is None:
        yield None
        return
    if policy.device.type != "cuda":
        raise InvalidInput(
            f"{work.name!r} has vllm, which needs a CUDA device, and this job has none: leave vllm out to sample with "
            "stepforge's own sampler, or run it on an instance with a GPU"
        )
    longest = max(map(len, prompts)) + work.max_new_tokens
    with VllmEngine(work.vllm, python=interpreter(), context=min(policy.context, longest), seed=work.seed) as engine:
        yield engine


def interpreter(environment: Mapping[str, str] = os.environ) -> str:
    """The Python that has vLLM: of STEPFORGE_VLLM_PYTHON, or this one. Raises InvalidInput where there is none."""
    given = environment.get(VLLM_PYTHON)
    if given:
        if shutil.which(given) is None:
            raise InvalidInput(f"{VLLM_PYTHON}={given!r} is no program: name the python of an environment with vLLM")
        return given
    if find_spec("vllm") is None:
        raise InvalidInput(
            f"vllm needs the package vllm, and {VLLM_PYTHON} is not set: install it into an environment of its own "
            f"(python -m venv vllm && vllm/bin/pip install 'stepforge[vllm]') and set {VLLM_PYTHON} to its python, or "
            "leave vllm out"
        )
    return sys.executable


class VllmEngine:
    """The Engine that asks vLLM. `context` is the longest sequence that it will be asked for, prompt included."""

    def __init__(self, settings: Vllm, *, python: str, context: int, seed: int) -> None:
        self._settings, self._python, self._context, self._seed = settings, python, context, seed
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._stream: Any = None
        self._version: str | None = None

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return "vllm" if self._version is None else f"vllm {self._version}"

    def renew(self, policy: Policy) -> None:
        """Hand over the policy's weights. The first call starts vLLM with them."""
        if policy.device.type == "cuda":
            # What torch keeps for itself would be missing on the other side.
            torch.cuda.empty_cache()
        dtype = torch.bfloat16 if policy.device.type == "cuda" else torch.float32
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="stepforge-vllm-", dir=_place(policy, dtype)))
        write_weights(policy, self._weights, dtype)
        if self._process is None:
            self._start(policy.device)
        else:
            self._ask("renew", CALL_SECONDS)

    def generate(self, requests: Sequence[Request], *, temperature: float, stops: Collection[int]) -> list[Completion]:
        """Raises SamplerFailed where vLLM fails, or leaves out how likely a token was."""
        parameters = [sampling_parameters(request, temperature=temperature, stops=stops) for request in requests]
        prompts = [list(request.prompt) for request in requests]
        answer = self._ask("generate", CALL_SECONDS, prompts=prompts, parameters=parameters)
        rows = answer["completions"]
        if any(logp is None for _, logps in rows for logp in logps):
            raise SamplerFailed("vLLM did not say how likely its tokens were: their gradient cannot be weighed")
        return [Completion(tokens, logps) for tokens, logps in rows]

    def rest(self) -> None:
        self._ask("rest", CALL_SECONDS)

    def close(self) -> None:
        """End vLLM, and remove the weights that it was given."""
        if self._process is not None:
            with suppress(OSError):  # what it was never sent
                self._stream.close()
            assert self._socket is not None
            self._socket.close()
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    @property
    def _weights(self) -> Path:
        assert self._folder is not None
        return self._folder / "weights"

    @property
    def _log(self) -> Path:
        assert self._folder is not None
        return self._folder / "log"

    def _start(self, device: torch.device) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._python, "-P", vllm_worker.__file__, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(os.environ, device),
                start_new_session=True,
            )
        self._stream = self._socket.makefile("rwb")
        begin = llm_arguments(self._weights, self._settings, context=self._context, seed=self._seed, device=device)
        self._version = self._exchange(begin, START_SECONDS)["version"]

    def _ask(self, call: str, seconds: float, **given: Any) -> dict[str, Any]:
        return self._exchange({"call": call, **given}, seconds)

    def _exchange(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a line, wait for the answer. Raises SamplerFailed where there is none, with the end of vLLM's log."""
        assert self._socket is not None
        self._socket.settimeout(seconds)
        try:
            self._stream.write(json.dumps(message).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline()
        except TimeoutError as error:
            raise SamplerFailed(f"vLLM took more than {seconds:g} s; its log ends: {self._last_words()}") from error
        except ConnectionError:
            line = b""
        if not line:
            raise SamplerFailed(f"vLLM's process ended; its log ends: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SamplerFailed(f"vLLM failed: {answer['error']}; its log ends: {self._last_words()}")
        return answer

    def _last_words(self) -> str:
        return self._log.read_bytes()[-TOLD_BYTES:].decode(errors="replace").strip() or "(nothing)"


def llm_arguments(folder: Path, settings: Vllm, *, context: int, seed: int, device: torch.device) -> dict[str, Any]:
    """Of `vllm.LLM`."""
    on_gpu = device.type == "cuda"
    # On a CPU vLLM 0.32 cannot go on with a prompt that it has read in part, where a request has a seed of its own.
    of_device: dict[str, Any] = {"gpu_memory_utilization": settings.memory, "enable_sleep_mode": True}
    if not on_gpu:
        of_device = {"enforce_eager": True, "enable_chunked_prefill": False, "enable_sleep_mode": False}
    return {
        "model": str(folder),
        # Prompts and completions are tokens; what ends one, each request says.
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": "bfloat16" if on_gpu else "float32",
        "max_model_len": context,
        "seed": seed,
        "enable_prefix_caching": True,
        # Of the distribution that is sampled from, after the temperature: what our own log-probabilities are.
        "logprobs_mode": "processed_logprobs",
        **of_device,
    }


def sampling_parameters(request: Request, *, temperature: float, stops: Collection[int]) -> dict[str, Any]:
    """Of `vllm.SamplingParams`."""
    return {
        "temperature": temperature,
        "max_tokens": request.max_new_tokens,
        "seed": request.seed,
        "stop_token_ids": sorted(stops),
        # A model's own end is no stop unless it is among these.
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }


def environment(ours: Mapping[str, str], device: torch.device) -> dict[str, str]:
    """The engine's environment variables, of which the rank's GPU is one."""
    kept = {name: value for name, value in ours.items() if name not in OURS and not name.startswith(OURS_BY_PREFIX)}
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        visible = [name for name in ours.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        kept["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    # In its one process, that the engine ends with it; nothing is sent, and nothing is fetched.
    told = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return {**kept, **told}


def write_weights(policy: Policy, folder: Path, dtype: torch.dtype) -> None:
    """A Hugging Face directory of the policy's weights, its adapters merged; the policy itself is not touched.

    On a CPU what is tied is written twice and told apart, because vLLM 0.32 keeps a repacked copy of the head there
    that it renews by its own name alone. On a GPU it stays tied: some of vLLM's models know no other way.
    """
    without_bars()
    network = policy.network.get_base_model() if hasattr(policy.network, "get_base_model") else policy.network
    weights = merged(network, dtype)
    if untied := policy.device.type == "cpu":
        seen: set[int] = set()
        for name, tensor in weights.items():
            weights[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
    network.save_pretrained(folder, state_dict=weights)
    if untied:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"tie_word_embeddings": False}))


@torch.no_grad()
def merged(network: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The network's weights in the computer's memory, by the names that they have without adapters.

    peft's own merging changes the weights in place, and taking it back leaves them rounded.
    """
    weights: dict[str, Tensor] = {}
    of: dict[int, Tensor] = {}
    """Tied weights stay one tensor."""
    layers = dict(network.named_modules())
    for name, tensor in network.state_dict().items():
        if "lora_" in name:
            continue
        if tensor.data_ptr() not in of:
            whole = tensor
            if name.endswith(".base_layer.weight"):
                layer = layers[name.removesuffix(".base_layer.weight")]
                whole = tensor + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
            of[tensor.data_ptr()] = whole.to(dtype).cpu()
        weights[name.replace(".base_layer.", ".")] = of[tensor.data_ptr()]
    return weights


def _place(policy: Policy, dtype: torch.dtype) -> Path | None:
    """Memory, where it has room for the weights; else wherever temporary files go."""
    needed = policy.parameters * dtype.itemsize + SPARE_BYTES
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > needed else None
