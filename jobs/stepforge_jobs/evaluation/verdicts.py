"""From completions' tokens to verdicts: the one way in which training and evaluation judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.domains.judging import Judge
from stepforge_jobs.training.asking import Asker


def verdicts_of(
    judge: Judge,
    asker: Asker,
    records: Sequence[Record],
    completions: Sequence[Sequence[int]],
    *,
    told: Callable[[int, int, int], None] | None = None,
) -> list[Verdict]:
    """Judge the tokens of whole solutions, in their order; equal completions of a record once.

    What does not end with the end of the text, or has no answer after its thoughts, is refused unread. `told` is told
    after each call how many there were, of how many, and in how many the verifier itself failed.
    """
    # By the object: records of an endpoint's requests share one id.
    keys = [(id(record), tuple(completion)) for record, completion in zip(records, completions, strict=True)]
    known: dict[tuple[int, tuple[int, ...]], Verdict] = {}
    asked: dict[tuple[int, tuple[int, ...]], tuple[Record, str]] = {}
    for key, record, completion in zip(keys, records, completions, strict=True):
        if key in known or key in asked:
            continue
        refusal = asker.refusal(completion)
        if refusal is not None:
            known[key] = refusal
        else:
            asked[key] = record, asker.answer(completion) or ""
    count = None if told is None else partial(_in_order, told, len(asked))
    known |= zip(asked, judge.verdicts(list(asked.values()), told=count), strict=True)
    return [known[key] for key in keys]


def _in_order(told: Callable[[int, int, int], None], of: int, done: int, failed: int) -> None:
    told(done, of, failed)
