"""What InvokeEndpoint takes and answers, as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepforge.contracts.base import Contract, Sha256


class InvokeRequest(Contract):
    """One completion for each prompt."""

    prompts: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    max_new_tokens: Annotated[int, Field(gt=0, le=4096)] = 64
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy decoding."""
    seed: int = 0


class InvokeResponse(Contract):
    model_sha256: Sha256
    """Digest of the manifest of the weights that answered."""
    completions: tuple[str, ...]
    """One for each prompt, in order."""
