"""What the two tasks share: records of a split, made from the task's own problems."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from stepforge.contracts.records import Provenance, Record, Split, Step
from stepforge.contracts.rewards import RuleResult, Verdict

STEP_END = ";"
TARGET_EVERY = 4
"""In train and rl one record in four is retained."""


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the tests: one in eight, by its digest."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 8 == 0


class DigitTask:
    """A `Domain` of problems that end in an answer.

    `test_known` holds hard problems and `test_retained` easy ones. Every split is drawn anew for each seed.
    """

    name: str
    version = "1"
    vocabulary: tuple[str, ...]
    step_end = STEP_END

    def problem(self, rng: random.Random, *, hard: bool) -> str:
        raise NotImplementedError

    def author(self, rng: random.Random) -> tuple[str, list[str]]:
        """A prompt, and the steps of an author of the corpus, who is careless."""
        raise NotImplementedError

    def solve(self, prompt: str) -> list[str]:
        """The expert's steps, each with its end."""
        raise NotImplementedError

    def answer(self, steps: Sequence[str]) -> str | None:
        """What the steps come to; None where they cannot be read."""
        raise NotImplementedError

    def size(self, split: Split) -> int | None:
        return 0 if split == "test_new" else None

    def record(self, split: Split, index: int, *, seed: int) -> Record:
        rng = random.Random(f"{self.name}/{split}/{seed}/{index}")
        hard = split == "test_known" or (split in ("train", "rl") and index % TARGET_EVERY != TARGET_EVERY - 1)
        while True:
            prompt, written = self.author(rng) if split == "corpus" else (self.problem(rng, hard=hard), [])
            if is_held_out(prompt) == split.startswith("test"):
                break
        solution = self.solve(prompt)
        steps = written or (solution if split == "train" else [])
        return Record(
            id=f"{self.name}-{split}-{seed}-{index:06d}",
            domain=self.name,
            source="procedural",
            split=split,
            stratum="target" if hard or split == "corpus" else "retained",
            group=prompt,
            prompt=prompt,
            steps=tuple(Step(action=step) for step in steps),
            answer=self.answer(solution),
            verifier=f"{self.name}@{self.version}",
            provenance=Provenance(generator=f"{self.name}@{self.version}", seed=seed),
        )

    def verify(self, record: Record, completion: str) -> Verdict:
        """Accept the right answer, however it was reached."""
        parts = completion.split(STEP_END)
        found = None if parts[-1].strip() else self.answer([f"{part}{STEP_END}" for part in parts[:-1]])
        if found is None:
            return Verdict(accepted=False, reward=0.0, partial=0.0, reason=f"cannot be read: {completion!r}")
        right = found == record.answer
        message = "" if right else f"{found}, not {record.answer}"
        rule = RuleResult(rule="answer", score=float(right), hard=True, message=message)
        return Verdict(accepted=right, reward=float(right), partial=float(right), rules=(rule,))
