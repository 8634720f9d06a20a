"""What optimisers of prompts find, and with how many calls: `python tests/benchmarks/prompt_search.py`.

The model is made up: a prompt has words, each right one lets it solve one kind of problem, each wrong one breaks one
kind. Asked for a better prompt it keeps the words that it reads and adds one that it draws, without knowing which are
right. So this compares how the searches spend calls, and says nothing of what a real model or service would propose:
Bedrock's rewriting here draws like the others, but sees no example. dspy is left out where it is not installed.

Lines: `BENCH prompt_<task>_<optimiser>_at<calls> <mean held-out score>`, the first prompt's as `first`.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sdk"), str(ROOT / "jobs")]

from stepforge.finetune.job import Completion, Message  # noqa: E402
from stepforge.finetune.metering import Meter, TokenPrices  # noqa: E402
from stepforge.finetune.prompts import Example, Search, optimise  # noqa: E402
from stepforge.finetune.searches.dspy import Copro  # noqa: E402
from stepforge.finetune.searches.gepa import Gepa  # noqa: E402
from stepforge.finetune.searches.rewriting import Rewriting  # noqa: E402

KINDS, WRONG, SEEDS = 4, 4, 20
BUDGETS = (40, 80, 160, 320)
"""Calls, scoring included."""
FIRST = "Solve the problem."
EACH = TokenPrices(input_usd=Decimal(1_000_000), output_usd=Decimal(1_000_000))
"""A dollar a token, and each call books one: budgets are numbers of calls."""


class World:
    """One made-up model. `together`: a problem is solved where the first two words are there, and no word hurts."""

    local = True

    def __init__(self, seed: int, calls: int, *, together: bool) -> None:
        self.meter = Meter(EACH, budget_usd=Decimal(calls))
        self._together, self._seed = together, seed
        self._asked: Counter[str] = Counter()
        words = [f"w{n:02d}" for n in random.Random(seed).sample(range(100), KINDS + WRONG)]
        self._right, self._wrong = words[:KINDS], words[KINDS:]

    def examples(self, count: int, first: int) -> list[Example]:
        return [Example(prompt=f"kind {n % KINDS} number {n}", reference="yes") for n in range(first, first + count)]

    def solves(self, prompt: str, problem: str) -> bool:
        kind = int(problem.split()[1])
        if self._together:
            return all(w in prompt for w in self._right[:2])
        return self._right[kind] in prompt and self._wrong[kind] not in prompt

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        self.meter.room(0, 1)
        system = "\n".join(m.content for m in messages if m.role == "system")
        text = messages[-1].content
        if text.startswith("kind "):
            said = "yes" if self.solves(system, text) else "no"
        else:
            said = self._proposal(system + text)
            if "proposed_instruction" in system + text:
                said = (
                    f"[[ ## proposed_instruction ## ]]\n{said}\n\n[[ ## proposed_prefix_for_output_field ## ]]\nIs:\n"
                )
            elif "```" in text:
                said = f"```\n{said}\n```"
        self.meter.book(0, 1)
        return Completion(text=said, model="made-up", input_tokens=0, output_tokens=1)

    def _proposal(self, text: str) -> str:
        """The words that were read, and one more. The same question again draws another."""
        self._asked[text] += 1
        drawn = random.Random(sha256(f"{self._seed} {self._asked[text]} {text}".encode()).digest())
        known = self._right + self._wrong
        kept = [w for w in known if w in text]
        others = [w for w in known if w not in text]
        return " ".join([FIRST, *kept, *(drawn.sample(others, 1) if others else [])])


SEARCHES: dict[str, Callable[[World], Search]] = {
    "gepa": lambda world: Gepa(max_metric_calls=100_000),
    "dspy": lambda world: Copro(breadth=4, depth=10, validated=3),
    "rewriting": lambda world: Rewriting(world, times=10),
}


def score(name: str, *, seed: int, calls: int, together: bool) -> tuple[float, float, int]:
    """On 40 held-out problems, of the first prompt and of what was found; and the calls that were made."""
    world = World(seed, calls, together=together)
    training, validation, heldout = world.examples(8, 0), world.examples(8, 8), world.examples(40, 100)
    found = optimise(
        world,
        FIRST,
        training,
        validation,
        metric=lambda example, text: float(text == example.reference),
        search=SEARCHES[name](world),
        max_tokens=1,
    )
    assert found.score >= found.seed_score
    first, best = (sum(world.solves(p, e.prompt) for e in heldout) / len(heldout) for p in (FIRST, found.prompt))
    return first, best, found.calls


def main() -> None:
    there = [name for name in SEARCHES if name != "dspy" or find_spec("dspy")]
    print(f"{SEEDS} made-up models, {KINDS} right words and {WRONG} wrong ones; searches: {', '.join(there)}")
    firsts: tuple[float, ...] = ()
    for task, together in (("each", False), ("together", True)):
        for name in there:
            for calls in BUDGETS:
                runs = [score(name, seed=seed, calls=calls, together=together) for seed in range(SEEDS)]
                firsts, found, used = zip(*runs, strict=True)
                better = sum(score > 0 for score in found)
                print(f"{task} {name}: {statistics.mean(used):.0f} of {calls} calls, better in {better}")
                print(f"BENCH prompt_{task}_{name}_at{calls} {statistics.mean(found):.3f} score")
        print(f"BENCH prompt_{task}_first {statistics.mean(firsts):.3f} score")


if __name__ == "__main__":
    main()
