"""The process in which vLLM samples: `python -P .../vllm_worker.py FD PARENT`, by an interpreter that has vLLM.

Imports nothing of stepforge, because that interpreter need not have it. One JSON line in, one out, over the socket FD;
the first says how to make the engine. See `vllm` beside this file, which is the other end.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Serve calls until the parent closes the socket. A call that fails is answered, and is the last."""
    descriptor, parent = int(arguments[0]), int(arguments[1])
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 1
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb") as stream:
        try:
            sampler = Sampler(json.loads(stream.readline()))
            _answer(stream, {"version": sampler.version})
            for line in stream:
                call = json.loads(line)
                _answer(stream, getattr(sampler, call.pop("call"))(**call))
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the parent reports it
            _answer(stream, {"error": f"{type(error).__name__}: {error}"})
            return 1
    return 0


class Sampler:
    """One `vllm.LLM`. It comes up awake, with the weights that its folder then has."""

    def __init__(self, begin: dict[str, Any]) -> None:
        import vllm

        self.version = vllm.__version__
        self._parameters = vllm.SamplingParams
        self._llm = vllm.LLM(**begin)
        self._sleeps = begin["enable_sleep_mode"]

    def renew(self) -> dict[str, Any]:
        """Read the weights from the folder again, and forget the keys and values that the old ones made."""
        if self._sleeps:
            # The cache's memory only after the weights are read: reading needs room of its own.
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights")
        if self._sleeps:
            self._llm.wake_up(tags=["kv_cache"])
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which the weights before these made")
        return {}

    def rest(self) -> dict[str, Any]:
        """Give up the memory of weights and cache."""
        if self._sleeps:
            self._llm.sleep(level=2)
        return {}

    def generate(self, prompts: list[list[int]], parameters: list[dict[str, Any]]) -> dict[str, Any]:
        """Tokens of each prompt's completion, with the log-probability of each; None for one that vLLM left out."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [self._parameters(**given) for given in parameters],
            use_tqdm=False,
        )
        rows = []
        for output in outputs:
            one = output.outputs[0]
            tokens = list(one.token_ids)
            found = one.logprobs or [{}] * len(tokens)
            rows.append([tokens, [at[t].logprob if t in at else None for t, at in zip(tokens, found, strict=True)]])
        return {"completions": rows}


def _answer(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
