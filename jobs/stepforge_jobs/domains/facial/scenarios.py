"""Which scenario stands where in which split.

A target asks for a blend of two emotions under a display rule on the OpenXR rig; a retained scenario for one felt
emotion on ARKit. Tests are held out by group, whatever the seed, so that models of different seeds are compared on the
same records: whole pairs of emotions (`test_new`), one display rule of each other pair (`test_known`), an emotion at a
level (`test_retained`). The corpus holds none of their groups either.
"""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import combinations

from stepforge.contracts.domains.facial import DISPLAYS, EMOTIONS, PACES, RIGS, Display, Emotion, FacialScenario
from stepforge.contracts.records import Split

LEVELS = range(1, 6)
PAIRS: tuple[tuple[Emotion, Emotion], ...] = tuple(combinations(EMOTIONS, 2))
NEW_PAIRS: frozenset[frozenset[Emotion]] = frozenset(
    frozenset(pair)
    for pair in (
        ("happiness", "sadness"),
        ("happiness", "surprise"),
        ("sadness", "fear"),
        ("surprise", "disgust"),
        ("anger", "contempt"),
        ("disgust", "contempt"),
    )
)
"""Kinds that no model has seen. Each emotion is left with at least four other pairs, and each antagonism that a new
pair needs is met in a known one."""
DISPLAY_RULES_ASKED: tuple[Display, ...] = tuple(display for display in DISPLAYS if display != "felt")


def displays_of(pair: tuple[Emotion, Emotion]) -> tuple[Display, ...]:
    return tuple(d for d in DISPLAY_RULES_ASKED if not (d == "masked" and "happiness" in pair))


@lru_cache(maxsize=1)
def held_out_displays() -> dict[frozenset[Emotion], Display]:
    """For each known pair the display rule that only tests ask for."""
    known = [pair for pair in PAIRS if frozenset(pair) not in NEW_PAIRS]
    return {frozenset(pair): (options := displays_of(pair))[place % len(options)] for place, pair in enumerate(known)}


def group_of(scenario: FacialScenario) -> str:
    """The unit of splitting: the pair, in either order, with the display rule; a felt emotion with its level."""
    if scenario.secondary is None:
        what = f"level{scenario.level}" if scenario.display == "felt" else scenario.display
        return f"{scenario.primary}/{what}"
    return f"{'+'.join(sorted((scenario.primary, scenario.secondary)))}/{scenario.display}"


def is_held_out(scenario: FacialScenario) -> bool:
    """Whether the scenario's group belongs to a test split."""
    if scenario.secondary is None:
        return scenario.display == "felt" and (EMOTIONS.index(scenario.primary) + 2 * scenario.level) % 5 < 2
    pair = frozenset((scenario.primary, scenario.secondary))
    return pair in NEW_PAIRS or held_out_displays()[pair] == scenario.display


@lru_cache(maxsize=1)
def targets() -> tuple[FacialScenario, ...]:
    return tuple(
        FacialScenario(primary=first, secondary=second, level=level, display=display, pace=pace, rig="openxr")
        for pair in PAIRS
        for first, second in (pair, pair[::-1])
        for display in displays_of(pair)
        for level in LEVELS
        for pace in PACES
    )


@lru_cache(maxsize=1)
def retained() -> tuple[FacialScenario, ...]:
    return tuple(
        FacialScenario(primary=emotion, level=level, pace=pace)
        for emotion in EMOTIONS
        for level in LEVELS
        for pace in PACES
    )


@lru_cache(maxsize=32)
def ordered(split: Split, seed: int) -> tuple[FacialScenario, ...]:
    """All scenarios of a split in its order; empty for the corpus, which has no end.

    In `train` every fourth is retained, so that any prefix keeps the mix of 3 to 1; in `rl` they are spread evenly.
    """
    if split == "corpus":
        return ()
    if split in ("train", "rl"):
        rng = random.Random(f"facial/{split}/{seed}")
        hard = [scenario for scenario in targets() if not is_held_out(scenario)]
        easy = [scenario for scenario in retained() if not is_held_out(scenario)]
        rng.shuffle(hard)
        rng.shuffle(easy)
        every = 3 if split == "train" else len(hard) // len(easy)
        mixed: list[FacialScenario] = []
        for place, scenario in enumerate(easy):
            mixed += [*hard[place * every : (place + 1) * every], scenario]
        return tuple(mixed if split == "train" else mixed + hard[len(easy) * every :])
    pool = retained() if split == "test_retained" else targets()
    rng = random.Random(f"facial/{split}")
    chosen = [s for s in pool if is_held_out(s) and (split == "test_retained" or _is_new(s) == (split == "test_new"))]
    rng.shuffle(chosen)
    return tuple(chosen)


def _is_new(scenario: FacialScenario) -> bool:
    return frozenset((scenario.primary, scenario.secondary)) in NEW_PAIRS


def corpus_scenario(rng: random.Random) -> FacialScenario:
    """Any scenario whose group no test has: one emotion or two, with and without display rules, on both rigs."""
    while True:
        primary = rng.choice(EMOTIONS)
        secondary = rng.choice([e for e in EMOTIONS if e != primary]) if rng.random() < 0.6 else None
        display: Display = "felt"
        if rng.random() >= 0.3:
            display = rng.choice(displays_of((primary, secondary or primary)))
        rig = RIGS[0] if rng.random() < 0.4 else RIGS[1]
        scenario = FacialScenario(
            primary=primary,
            secondary=secondary,
            level=rng.choice(LEVELS),
            display=display,
            pace=rng.choice(PACES),
            rig=rig,
        )
        if not is_held_out(scenario):
            return scenario
