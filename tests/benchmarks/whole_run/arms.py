"""What is compared: the same SRL -> RLVR chain at the rates that the reproduction published, by several ways.

Dynamic sampling is off everywhere, because TRL's trainer has none.
"""

from __future__ import annotations

from stepforge.contracts.work import RlvrWork, SrlWork
from tests.benchmarks.reproduction.arms import Design, srl_work

ARMS = {
    "trl": "TRL's GRPOTrainer",
    "rows": "row by row",
    "shared": "shared",
    "trajectories": "shared, trajectories side by side",
}
STAGES = ("srl", "rlvr")
RATE = 1e-3
"""What the reproduction's search chose for both stages in both tasks."""


def works(design: Design, arm: str, seed: int) -> dict[str, SrlWork | RlvrWork]:
    """The two stages of an arm."""
    given = {"seed": seed, "learning_rate": RATE, "share_prefixes": arm not in ("trl", "rows")}
    order = "trajectories" if arm == "trajectories" else "steps"
    return {
        "srl": srl_work(design, dynamic_sampling=False, order=order, **given),
        "rlvr": RlvrWork(steps=design.rlvr_steps, max_new_tokens=design.solution_tokens, **given),
    }
