"""The arms of the held-out experiment as job specs: what starts from what, and with which budget.

Every arm runs the shipped jobs; there is no other training code. RLVR alone gets as many optimiser steps as SRL and
RLVR together; SFT as many optimiser tokens as SRL.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepforge.contracts.work import RlvrWork, SftWork, SrlWork
from stepforge.recipes import Recipe, load_recipe

ARMS = ("base", "rlvr", "rlvr-partial", "sft", "sft-rlvr", "srl", "srl-rlvr")
LABELS = {
    "base": "base",
    "rlvr": "RLVR alone, all or nothing",
    "rlvr-partial": "RLVR alone, partial credit",
    "sft": "SFT, equal tokens",
    "sft-rlvr": "SFT -> RLVR",
    "srl": "SRL",
    "srl-rlvr": "SRL -> RLVR",
}


@dataclass(frozen=True)
class Arm:
    """One training stage; `parent` is the arm that it starts from."""

    name: str
    parent: str | None
    work: SftWork | SrlWork | RlvrWork


def works(recipe: Recipe, *, seed: int) -> tuple[SftWork, SrlWork, RlvrWork]:
    """Base, SRL and RLVR of a recipe with the seed of this run."""
    by_name = {stage.name: stage.model_copy(update={"seed": seed}) for stage in recipe.stages}
    base, srl, rlvr = by_name["base"], by_name["srl"], by_name["rlvr"]
    assert isinstance(base, SftWork)
    assert isinstance(srl, SrlWork)
    assert isinstance(rlvr, RlvrWork)
    return base, srl, rlvr


def arms(domain: str, *, seed: int, sft_steps: int | None) -> list[Arm]:
    """All arms, parents first. `sft_steps` is known once SRL's tokens are; until then the SFT arms are left out."""
    base, srl, rlvr = works(load_recipe(domain), seed=seed)
    alone = rlvr.model_copy(update={"steps": srl.steps + rlvr.steps})
    found = [
        Arm("base", None, base),
        Arm("srl", "base", srl),
        Arm("srl-rlvr", "srl", rlvr),
        Arm("rlvr", "base", alone.model_copy(update={"name": "rlvr-alone"})),
        Arm("rlvr-partial", "base", alone.model_copy(update={"name": "rlvr-partial", "reward": "partial"})),
    ]
    if sft_steps is not None:
        sft = SftWork(name="sft", steps=sft_steps, seed=seed)
        found += [Arm("sft", "base", sft), Arm("sft-rlvr", "sft", rlvr)]
    return found
