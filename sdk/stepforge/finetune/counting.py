"""Tokens of a data set, of which the provider's own counter has counted some records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stepforge.economics.tokens import LEAST_SAMPLE, Calibration, TokenCount
from stepforge.errors import InvalidInput
from stepforge.finetune.spec import TokenRange


def calibrated(
    texts: Sequence[tuple[str, str]],
    counted: Mapping[str, int],
    *,
    elsewhere: Mapping[str, int] | None = None,
) -> TokenRange:
    """What is charged for one epoch: what was counted as it is, the rest by what a fit to it says.

    `texts` are ids of records with all text that is charged for, `counted` has tokens by id, `elsewhere` the tokens
    that another tokenizer makes of each text, with which the fit is closer.
    Raises InvalidInput for an id that is not there or there twice, and for fewer than 20 counted records, unless all
    are.
    """
    known = [(name, text) for name, text in texts if name in counted]
    if missing := sorted(counted.keys() - {name for name, _ in known}):
        raise InvalidInput(f"counted has the record {missing[0]!r}, which is not in the data: give ids of its records")
    if len(known) > len(counted):
        raise InvalidInput("counted has ids that two records share: count records whose ids are theirs alone")
    rest = [text for name, text in texts if name not in counted]
    if rest and len(known) < LEAST_SAMPLE:
        raise InvalidInput(
            f"counted has {len(known)} of {len(texts)} records, too few to say what the others come to: count "
            f"{LEAST_SAMPLE} or more, drawn at random"
        )
    total = sum(counted[name] for name, _ in known)
    tokens = TokenCount(total, total, total, f"{len(known)} records counted")
    if rest:
        proxy = None if elsewhere is None else elsewhere.__getitem__
        fit = Calibration.fit([text for _, text in known], [counted[name] for name, _ in known], proxy=proxy)
        tokens = tokens.plus(fit.estimate(rest))
    how = f"{len(known)} of {len(texts)} records counted, the rest calibrated on them"
    return TokenRange(low=tokens.low, expected=tokens.expected, high=tokens.high, method=how)
