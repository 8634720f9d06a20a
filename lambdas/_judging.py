"""The verdicts of the domains that ship, for handlers that judge what a provider's model says.

With `finetune_grade` the one place where handlers import `stepforge_jobs`: its domains are pure and need no torch, and
rules must not be written twice. A user's own verifier is no part of them: it runs in a job's workers.
"""

from __future__ import annotations

from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.domains import load_domain

__all__ = ["load_domain", "verify"]


def verify(record: Record, completion: str) -> Verdict:
    """Raises UnknownName for a domain that does not ship."""
    return load_domain(record.domain).verify(record, completion)
