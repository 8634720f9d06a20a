"""The user's own records and verifier as a domain, and the domain that a spec means.

A verifier is a function of (record, completion) that returns a Verdict, a bool, or a float in [0, 1] (accepted
where 1). Without one, a completion is right where its last line equals the record's answer.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable

from stepforge.contracts.records import Record, Split
from stepforge.contracts.rewards import RuleResult, Verdict
from stepforge.contracts.user_records import plugin_version
from stepforge.errors import InvalidInput
from stepforge_jobs.domains import load_domain, load_object
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.job import Job

RECORDS = "records"
"""Name of the domain of records that bring their answers."""

RAISED = "verifier: "
"""What the reason begins with where a verifier raised."""
LONGEST_REASON = 1_000
"""Characters of an error's text that are kept: it stands in every row of a refused completion."""
Verifier = Callable[[Record, str], Verdict | bool | float]
ADAPTERS = ("stepforge_jobs.domains.verifiers_env",)
"""Ours, but imported by users' verifiers alone: named here so that a change of them changes what jobs are called."""


def exact_answer(record: Record, completion: str) -> Verdict:
    """Accept where the last line is the record's answer, spaces at its ends aside."""
    if record.answer is None:
        raise InvalidInput(f"record {record.id!r} has no answer and there is no verifier: give answers, or --verifier")
    lines = completion.strip().splitlines()
    right = bool(lines) and lines[-1].strip() == record.answer.strip()
    return _verdict(right, rule="answer", message="" if right else "the last line is not the answer")


class RecordsDomain:
    """Records of the user's own, judged by the user's function.

    >>> DOMAIN.verify.__name__, DOMAIN.size("train")
    ('verify', 0)
    """

    vocabulary: tuple[str, ...] = ()
    """Unknown before the records are read: the dataset job counts their words."""
    step_end: str | None = None

    def __init__(self, name: str, verifier: Verifier, *, version: str) -> None:
        self.name = name
        self.version = version
        self._verifier = verifier

    def size(self, split: Split) -> int | None:
        return 0

    def record(self, split: Split, index: int, *, seed: int) -> Record:
        raise IndexError(f"domain {self.name!r} generates no records: they come from the user's files")

    def verify(self, record: Record, completion: str) -> Verdict:
        """A verifier that raises or exits refuses the completion with that as the reason.

        How long it takes is for `judging` to limit. Raises InvalidInput where what it returns is no verdict.
        """
        if not completion.strip():
            return Verdict(accepted=False, reward=0.0, partial=0.0, reason="the completion is empty")
        try:
            found = self._verifier(record, completion)
        except InvalidInput:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code: a failed rollout is data
            return refused(error)
        return found if isinstance(found, Verdict) else _verdict(found, rule="verifier")


def refused(error: BaseException) -> Verdict:
    """The verdict where a verifier raised."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - foreign code: an error that cannot even be told
        text = "its text cannot be read"
    reason = f"{RAISED}{type(error).__name__}: {text[:LONGEST_REASON]}"
    return Verdict(accepted=False, reward=0.0, partial=0.0, reason=reason)


def _verdict(score: bool | float, *, rule: str, message: str = "") -> Verdict:
    try:
        # float() would take text too, and what a person meant by "0.5" or "no" is not ours to guess.
        value = float("nan") if isinstance(score, str | bytes) else float(score)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        given = reprlib.repr(score)
        raise InvalidInput(f"a verifier returned {given}: it must return a Verdict, a bool, or a number from 0 to 1")
    accepted = value >= 1.0
    return Verdict(
        accepted=accepted,
        reward=value,
        partial=value,
        rules=(RuleResult(rule=rule, score=value, hard=True, message=message),),
    )


DOMAIN = RecordsDomain(RECORDS, exact_answer, version="1")


def domain_of(job: Job) -> Domain:
    """The domain that a job's spec means: the plugin's, the plugin's verifier over records, or one by name.

    The plugin's files are compared with their digests before they are imported. A user's verifier is not: it runs in
    processes of its own, so ask `judging.judge_of` for verdicts.
    """
    plugin = job.spec.plugin
    if plugin is None or (plugin.domain is None and plugin.verifier is None):
        return load_domain(job.spec.domain)
    manifest = job.artifact("plugin")
    if plugin.domain is None:
        return RecordsDomain(job.spec.domain, _elsewhere, version=plugin_version(manifest.sha256))
    # Compiled files would lie among those that the manifest vouches for, which a second look refuses.
    sys.dont_write_bytecode = True
    folder = str(job.channel("plugin"))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    domain: Domain = load_object(plugin.domain, Domain)
    return domain


def _elsewhere(_record: Record, _completion: str) -> bool:
    raise AssertionError("a user's verifier is called in workers alone: ask judging.judge_of(job)")


def load_function(target: str) -> Verifier:
    """Import `package.module:function`. Raises InvalidInput where there is none."""
    function: Verifier = load_object(target, Callable)  # type: ignore[arg-type]
    return function
