"""From a completion's tokens to a verdict: the one way in which training and evaluation judge."""

from __future__ import annotations

from collections.abc import Sequence

from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.training.text import Codec

UNFINISHED = Verdict(accepted=False, reward=0.0, partial=0.0, reason="the completion did not end")


def verdict_of(domain: Domain, codec: Codec, record: Record, completion: Sequence[int]) -> Verdict:
    """Judge tokens: what does not end with the end of the text is refused unread."""
    if not completion or completion[-1] != codec.eos:
        return UNFINISHED
    return domain.verify(record, codec.decode(completion))
