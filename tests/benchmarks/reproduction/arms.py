"""The two designs and their arms as job specs: what starts from what, and with which budget.

Every arm runs the shipped jobs; there is no other training code. RLVR alone has as many steps as SRL and RLVR together;
SFT's shortest form has as many optimiser tokens as SRL, the others three and ten times as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepforge.contracts.work import DatasetWork, EvaluateWork, RlvrWork, ScratchModel, SftWork, SrlWork

RATES = (1e-4, 3e-4, 1e-3)
"""Learning rates among which each kind of stage chooses on a pilot seed of its own."""
SFT_LENGTHS = (1, 3, 10)
LABELS = {
    "base": "base",
    "rlvr": "RLVR alone",
    "sft-1": "SFT, tokens of SRL",
    "sft-3": "SFT, three times as long",
    "sft-10": "SFT, ten times as long",
    "sft-rlvr": "SFT -> RLVR",
    "srl": "SRL",
    "srl-2": "SRL, twice the steps",
    "srl-static": "SRL without dynamic sampling",
    "srl-whole": "one-step similarity",
    "srl-rlvr": "SRL -> RLVR",
}


@dataclass(frozen=True)
class Design:
    """A task with its budgets."""

    task: str
    title: str
    dataset: DatasetWork
    model: ScratchModel
    base: SftWork
    srl_steps: int
    rlvr_steps: int
    step_tokens: int
    """Most tokens of one step."""
    solution_tokens: int
    """Most tokens of a whole solution, its end included."""

    @property
    def evaluation(self) -> EvaluateWork:
        return EvaluateWork(samples=8, max_new_tokens=self.solution_tokens)


def _base(steps: int) -> SftWork:
    return SftWork(name="base", split="corpus", steps=steps, batch_size=64, learning_rate=4e-3, warmup_steps=20)


DESIGNS = {
    "chain": Design(
        task="chain",
        title="A: chains of operations whose names the base mixes up",
        dataset=DatasetWork(domain="chain", corpus=12_000, train=86, rl=2_000, test=100),
        model=ScratchModel(hidden_size=64, layers=3, heads=4, context=64),
        base=_base(1_200),
        srl_steps=100,
        rlvr_steps=100,
        step_tokens=6,
        solution_tokens=26,
    ),
    "carry": Design(
        task="carry",
        title="carry: column addition by a base that forgets to carry",
        dataset=DatasetWork(domain="carry", corpus=12_000, train=43, rl=2_000, test=100),
        model=ScratchModel(hidden_size=64, layers=3, heads=4, context=64),
        base=_base(400),
        srl_steps=80,
        rlvr_steps=100,
        step_tokens=5,
        solution_tokens=33,
    ),
}


@dataclass(frozen=True)
class Arm:
    """One training stage; `parent` is the arm that it starts from."""

    name: str
    parent: str | None
    work: SftWork | SrlWork | RlvrWork
    kind: str
    """Arms of one kind share a learning rate."""


def srl_work(design: Design, **changes: Any) -> SrlWork:
    given = {"steps": design.srl_steps, "max_new_tokens": design.step_tokens, "asking": "plain", "similarity": "words"}
    return SrlWork(**{**given, **changes})


def arms(design: Design, *, sft_steps: int | None) -> list[Arm]:
    """All arms, parents first. `sft_steps` are known once SRL's tokens are; until then the SFT arms are left out."""
    rlvr = RlvrWork(steps=design.rlvr_steps, max_new_tokens=design.solution_tokens)
    alone = rlvr.model_copy(update={"name": "rlvr-alone", "steps": design.srl_steps + design.rlvr_steps})
    whole = srl_work(design, name="srl-whole", instances="whole", max_new_tokens=design.solution_tokens)
    found = [
        Arm("base", None, design.base, "base"),
        Arm("srl", "base", srl_work(design), "srl"),
        Arm("srl-2", "base", srl_work(design, name="srl-twice", steps=2 * design.srl_steps), "srl"),
        Arm("srl-static", "base", srl_work(design, name="srl-static", dynamic_sampling=False), "srl"),
        Arm("srl-whole", "base", whole, "srl-whole"),
        Arm("srl-rlvr", "srl", rlvr, "rlvr"),
        Arm("rlvr", "base", alone, "rlvr"),
    ]
    if sft_steps is not None:
        found += [
            Arm(f"sft-{times}", "base", SftWork(name="sft", steps=sft_steps * times), f"sft-{times}")
            for times in SFT_LENGTHS
        ]
        found.append(Arm("sft-rlvr", "sft-1", rlvr, "rlvr"))
    return found


SEARCHED = {"srl": "srl", "srl-whole": "srl-whole", "rlvr": "srl-rlvr", **{f"sft-{n}": f"sft-{n}" for n in SFT_LENGTHS}}
"""Kind of stage to the arm whose sampled score on the hard problems of the pilot seed chooses the kind's rate."""
