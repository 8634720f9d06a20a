"""As much of vLLM as the engine's process calls, without torch. Knows the names that vLLM 0.32 has, and no others.

It draws token (sum of the prompt + seed) % VOCABULARY until a stop token or the end, each with log-probability -1, and
writes what it was asked for to the file FAKE_VLLM, a JSON line a call. FAKE_VLLM_FAULT makes it fail.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NAMES = json.loads((Path(__file__).resolve().parents[3] / "unit" / "jobs" / "vllm_names.json").read_text())
VOCABULARY = 16
__version__ = NAMES["version"]


def known(given: dict[str, Any], names: list[str]) -> None:
    if unknown := set(given) - set(names):
        raise TypeError(f"unexpected keyword arguments {sorted(unknown)}")


def say(call: str, **values: Any) -> None:
    with Path(os.environ["FAKE_VLLM"]).open("a") as stream:
        stream.write(json.dumps({"call": call, **values}) + "\n")


class SamplingParams(SimpleNamespace):
    def __init__(self, **given: Any) -> None:
        known(given, NAMES["sampling"])
        super().__init__(**given)


class LLM:
    def __init__(self, **given: Any) -> None:
        known(given, NAMES["llm"])
        self._folder = Path(given["model"])
        config = json.loads((self._folder / "config.json").read_text())
        say(
            "start",
            given=given,
            weights=self._digest(),
            environment=sorted(os.environ),
            tied=config["tie_word_embeddings"],
        )
        print("the fake has started", flush=True)

    def collective_rpc(self, method: str) -> None:
        assert method == "reload_weights"
        say("reload", weights=self._digest())

    def reset_prefix_cache(self) -> bool:
        say("reset")
        return os.environ.get("FAKE_VLLM_FAULT") != "keeps its cache"

    def wake_up(self, tags: list[str] | None = None) -> None:
        say("wake", tags=tags)

    def sleep(self, level: int = 1) -> None:
        say("sleep", level=level)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *, use_tqdm: bool
    ) -> list[Any]:
        fault = os.environ.get("FAKE_VLLM_FAULT")
        if fault == "ends":
            os._exit(3)
        if fault == "raises":
            raise ValueError("no room for these")
        say("generate", prompts=[prompt["prompt_token_ids"] for prompt in prompts], parameters=vars(sampling_params[0]))
        found = []
        for prompt, asked in zip(prompts, sampling_params, strict=True):
            token = (sum(prompt["prompt_token_ids"]) + asked.seed) % VOCABULARY
            tokens = [token] if token in asked.stop_token_ids else [token] * asked.max_tokens
            logps = None if fault == "no logprobs" else [{token: SimpleNamespace(logprob=-1.0)} for token in tokens]
            found.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, logprobs=logps)]))
        return found[1:] if fault == "one short" else found

    def _digest(self) -> str:
        return hashlib.sha256((self._folder / "model.safetensors").read_bytes()).hexdigest()
