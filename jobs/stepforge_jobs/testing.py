"""Fakes for tests of whoever trains: a domain that a tiny model learns in seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator

from stepforge.contracts.records import Provenance, Record, Split, Step
from stepforge.contracts.rewards import RuleResult, Verdict

NUMBERS = 30
LONGEST = 4
NUMBER_WORDS = frozenset(f"n{i}" for i in range(NUMBERS))


class CountingDomain:
    """Count up or down from a number, a step for each number: `n5 down x3 :` is `n4 ; n3 ; n2 ;`.

    The careless authors of the corpus count up correctly (`retained`) and get each step down wrong with p = .65 by
    counting up instead. Starts above 23 are in `test_new` alone.

    >>> domain = CountingDomain()
    >>> record = domain.record("train", 0, seed=0)
    >>> domain.verify(record, record.solution).accepted, domain.verify(record, "").accepted
    (True, False)
    """

    name = "counting"
    version = "1"
    step_end: str | None = ";"
    vocabulary = (*(f"n{i}" for i in range(NUMBERS)), *(f"x{i}" for i in range(1, LONGEST + 1)), "up", "down", ":", ";")

    def size(self, split: Split) -> int | None:
        return None if split == "corpus" else len(self._problems(split, 0))

    def record(self, split: Split, index: int, *, seed: int) -> Record:
        """Raises IndexError beyond `size`."""
        rng = random.Random(f"{split}:{index}:{seed}")
        if split == "corpus":
            start, down, count = rng.randrange(NUMBERS), rng.random() < 0.5, rng.randint(1, LONGEST)
        else:
            start, down, count = self._problems(split, seed)[index]
        steps, now = [], start
        for _ in range(count):
            careless = split == "corpus" and down and rng.random() < 0.65
            now = (now + (-1 if down and not careless else 1)) % NUMBERS
            steps.append(Step(action=f"n{now} ;", title="count", thought="one down" if down else "one up"))
        return Record(
            id=f"counting-{split}-{index}",
            domain=self.name,
            source="procedural",
            split=split,
            stratum="target" if down else "retained",
            group=f"{'down' if down else 'up'}-{start}-{count}",
            prompt=f"n{start} {'down' if down else 'up'} x{count} :",
            steps=() if split == "rl" else tuple(steps),
            scenario={"start": start, "down": down, "count": count},
            verifier=f"{self.name}@{self.version}",
            provenance=Provenance(generator="counting@1", seed=seed),
        )

    def verify(self, record: Record, completion: str) -> Verdict:
        words = completion.split()
        numbers, ends = words[::2], words[1::2]
        if not words or len(numbers) != len(ends) or set(ends) != {";"} or not set(numbers) <= NUMBER_WORDS:
            return Verdict(accepted=False, reward=0.0, partial=0.0, reason="not a row of 'number ;'")
        start, count = record.scenario["start"], record.scenario["count"]
        sign = -1 if record.scenario["down"] else 1
        right = [f"n{(start + sign * k) % NUMBERS}" for k in range(1, count + 1)]
        length = RuleResult(rule="length", score=float(len(numbers) == count), hard=True)
        hits = sum(given == wanted for given, wanted in zip(numbers, right, strict=False)) / max(count, len(numbers))
        rules = (length, RuleResult(rule="numbers", score=hits, hard=True))
        accepted = all(rule.score == 1 for rule in rules)
        return Verdict(accepted=accepted, reward=float(accepted), partial=sum(r.score for r in rules) / 2, rules=rules)

    def _problems(self, split: Split, seed: int) -> list[tuple[int, bool, int]]:
        """(start, down, count) of a split, shuffled by the seed."""
        known = [(s, True, c) for s in range(24) for c in range(1, LONGEST + 1)]
        up = [(s, False, c) for s in range(NUMBERS) for c in range(1, LONGEST + 1)]
        random.Random(f"known:{seed}").shuffle(known)
        random.Random(f"up:{seed}").shuffle(up)
        return {
            "train": [*interleave(known[:24], up[:12])],
            "rl": known[24:64],
            "test_known": known[64:],
            "test_new": [(s, True, c) for s in range(24, NUMBERS) for c in range(1, LONGEST + 1)],
            "test_retained": up[12:],
        }[split]


def interleave(
    first: list[tuple[int, bool, int]], second: list[tuple[int, bool, int]]
) -> Iterator[tuple[int, bool, int]]:
    """Two of the first, then one of the second."""
    for index, item in enumerate(second):
        yield from first[2 * index : 2 * index + 2]
        yield item
