"""The spend ledger: what was asked for, what was sent, what it costs. Written to the disk before money is spent.

SQLite in WAL mode with synchronous=FULL: a transaction that returned survives a power cut, and processes on one machine
exclude each other. Not covered: several machines with a ledger each; they find each other's jobs at the provider
(`Provider.find`), but their budgets do not add up.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.errors import IdentityConflict, InvalidInput, LaunchUncertain, OverBudget, UnknownName
from stepforge.finetune.job import Estimate, Job, State
from stepforge.finetune.spec import ProviderName, TuneSpec

MICRO = Decimal(1_000_000)
Usd = Annotated[Decimal, Field(ge=0)]


class Stage(StrEnum):
    """Where a launch stands in our books."""

    NEEDS_APPROVAL = "needs approval"
    RESERVED = "reserved"
    SENDING = "sending"
    LAUNCHED = "launched"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REFUSED = "refused"

    @property
    def sent(self) -> bool:
        """Whether the provider has the job."""
        return self in (Stage.LAUNCHED, Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED, Stage.EXPIRED)


_ENDS = {
    State.SUCCEEDED: Stage.SUCCEEDED,
    State.FAILED: Stage.FAILED,
    State.CANCELLED: Stage.CANCELLED,
    State.EXPIRED: Stage.EXPIRED,
}


class Budgets(Contract):
    """What may be spent, in US dollars. Nothing has a default: a budget that nobody set is not unlimited."""

    job_usd: Usd
    day_usd: Usd
    """Of one environment, on one day in UTC."""
    environment_usd: Usd
    """Of one environment, ever."""
    approval_usd: Usd
    """A launch that may cost more than this waits for a person."""


class Entry(Contract):
    """One launch in the ledger."""

    key: str
    environment: str
    provider: ProviderName
    target: str
    base_model: str
    method: str
    stage: Stage
    estimate_usd: Usd
    actual_usd: Usd | None = None
    job_id: str | None = None
    raw_state: str = ""
    model: str | None = None
    reserved_at: datetime
    sent_at: datetime | None = None
    """When it may have been sent for the last time; None where that is certainly never."""
    approved_by: str | None = None
    note: str = ""

    @property
    def local_fake(self) -> bool:
        return self.job_id is not None and "localfake" in self.job_id


class Line(Contract):
    """One line of an entry's history: never changed, never deleted."""

    key: str
    at: datetime
    stage: Stage
    detail: str


_TABLES = """
CREATE TABLE IF NOT EXISTS launches (
    key TEXT PRIMARY KEY, environment TEXT NOT NULL, provider TEXT NOT NULL, target TEXT NOT NULL,
    base_model TEXT NOT NULL, method TEXT NOT NULL, stage TEXT NOT NULL,
    estimate_micro_usd INTEGER NOT NULL, actual_micro_usd INTEGER,
    job_id TEXT UNIQUE, raw_state TEXT NOT NULL DEFAULT '', model TEXT,
    reserved_at REAL NOT NULL, sent_at REAL, owner TEXT, lease_until REAL,
    approved_by TEXT, note TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS lines (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, at REAL NOT NULL, stage TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS lines_stay BEFORE UPDATE ON lines BEGIN SELECT RAISE(ABORT, 'lines stay'); END;
CREATE TRIGGER IF NOT EXISTS lines_are_kept BEFORE DELETE ON lines BEGIN SELECT RAISE(ABORT, 'lines stay'); END;
"""


class Ledger:
    """The book of one machine, at a path.

    >>> import tempfile
    >>> book = Ledger(Path(tempfile.mkdtemp()) / "spend.sqlite")
    >>> book.spent("dev")
    Decimal('0')
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time, busy_seconds: float = 30) -> None:
        self.path, self.clock = path, clock
        path.parent.mkdir(parents=True, exist_ok=True)
        self._busy_seconds = busy_seconds
        self._local = threading.local()
        with self._transaction() as db:
            for statement in _statements(_TABLES):
                db.execute(statement)
        path.chmod(0o600)

    # Reading

    def entry(self, key: str) -> Entry:
        """Raises UnknownName."""
        with self._transaction(writes=False) as db:
            return _entry(self._row(db, key))

    def entries(self, environment: str | None = None) -> tuple[Entry, ...]:
        """All of them, or one environment's; the oldest first."""
        with self._transaction(writes=False) as db:
            rows = db.execute("SELECT * FROM launches ORDER BY reserved_at, rowid").fetchall()
        return tuple(_entry(row) for row in rows if environment in (None, row["environment"]))

    def lines(self, key: str) -> tuple[Line, ...]:
        with self._transaction(writes=False) as db:
            rows = db.execute("SELECT * FROM lines WHERE key = ? ORDER BY number", (key,)).fetchall()
        return tuple(
            Line(key=row["key"], at=_time(row["at"]), stage=Stage(row["stage"]), detail=row["detail"]) for row in rows
        )

    def spent(self, environment: str, *, day: str | None = None) -> Decimal:
        """What is spent or promised, in US dollars: the actual cost where it is known, else the estimate's upper end.

        `day` is a date in UTC, `2026-11-22` say.
        """
        with self._transaction(writes=False) as db:
            return self._spent(db, environment, day, but="")

    # Writing

    def reserve(self, key: str, spec: TuneSpec, target: str, estimate: Estimate, budgets: Budgets) -> Entry:
        """Set the money aside, or find what was done with this key before.

        Raises OverBudget before anything is written. A launch that was refused may be reserved again.
        """
        amount = _micro(estimate.high_usd)
        with self._transaction() as db:
            row = db.execute("SELECT * FROM launches WHERE key = ?", (key,)).fetchone()
            if row is not None and row["stage"] != Stage.REFUSED:
                return _entry(row)
            self._check(db, key, spec.environment, amount, budgets)
            waits = estimate.high_usd > budgets.approval_usd
            stage = Stage.NEEDS_APPROVAL if waits else Stage.RESERVED
            db.execute(
                "INSERT OR REPLACE INTO launches (key, environment, provider, target, base_model, method, stage, "
                "estimate_micro_usd, reserved_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    spec.environment,
                    spec.provider,
                    target,
                    spec.base_model,
                    spec.method,
                    stage,
                    amount,
                    self.clock(),
                ),
            )
            self._line(db, key, stage, f"{estimate.low_usd} to {estimate.high_usd} USD")
            return _entry(self._row(db, key))

    def approve(self, key: str, *, by: str, budgets: Budgets) -> Entry:
        """A person agrees to the cost. Raises OverBudget where the budgets no longer have room for it."""
        if not by.strip():
            raise InvalidInput("an approval needs the name of who approves: by='...'")
        with self._transaction() as db:
            row = self._row(db, key)
            if row["stage"] != Stage.NEEDS_APPROVAL:
                return _entry(row)
            self._check(db, key, row["environment"], row["estimate_micro_usd"], budgets)
            db.execute(
                "UPDATE launches SET stage = ?, approved_by = ?, reserved_at = ? WHERE key = ?",
                (Stage.RESERVED, by, self.clock(), key),
            )
            self._line(db, key, Stage.RESERVED, f"approved by {by}")
            return _entry(self._row(db, key))

    def withdraw(self, key: str, why: str) -> Entry:
        """Give up what was never sent. Raises LaunchUncertain where it may have been."""
        with self._transaction() as db:
            row = self._row(db, key)
            if Stage(row["stage"]) not in (Stage.NEEDS_APPROVAL, Stage.RESERVED):
                if row["stage"] == Stage.SENDING:
                    raise LaunchUncertain(f"launch {key} may have been sent: launch it again, then cancel it")
                return _entry(row)
            self._set(db, key, Stage.REFUSED, why)
            return _entry(self._row(db, key))

    def claim(self, key: str, owner: str, lease_seconds: float) -> Literal["claimed", "reconcile", "busy", "done"]:
        """Become the one who sends. `reconcile` says that somebody else may have sent before, and did not say so."""
        now = self.clock()
        with self._transaction() as db:
            row = self._row(db, key)
            stage = Stage(row["stage"])
            if stage == Stage.SENDING and row["owner"] != owner and row["lease_until"] > now:
                return "busy"
            if stage not in (Stage.RESERVED, Stage.SENDING):
                return "done"
            before = row["sent_at"] is not None
            db.execute(
                "UPDATE launches SET stage = ?, owner = ?, lease_until = ? WHERE key = ?",
                (Stage.SENDING, owner, now + lease_seconds, key),
            )
            self._line(db, key, Stage.SENDING, "taken over" if before else "claimed")
            return "reconcile" if before else "claimed"

    def sending(self, key: str, owner: str, lease_seconds: float) -> None:
        """The last line before the call. Raises LaunchUncertain where someone else has taken over meanwhile."""
        now = self.clock()
        with self._transaction() as db:
            self._mine(db, key, owner)
            db.execute(
                "UPDATE launches SET sent_at = ?, lease_until = ? WHERE key = ?", (now, now + lease_seconds, key)
            )
            self._line(db, key, Stage.SENDING, "about to send")

    def not_sent(self, key: str, owner: str, why: str) -> None:
        """What was about to be sent certainly did not arrive: the money is set aside, and it may be tried again."""
        with self._transaction() as db:
            self._mine(db, key, owner)
            db.execute(
                "UPDATE launches SET stage = ?, sent_at = NULL, owner = NULL, lease_until = NULL WHERE key = ?",
                (Stage.RESERVED, key),
            )
            self._line(db, key, Stage.RESERVED, why)

    def refused(self, key: str, owner: str, why: str) -> None:
        """The provider said no: nothing is charged, and the money is free again."""
        with self._transaction() as db:
            self._mine(db, key, owner)
            db.execute("UPDATE launches SET sent_at = NULL, owner = NULL, lease_until = NULL WHERE key = ?", (key,))
            self._set(db, key, Stage.REFUSED, why)

    def record(self, key: str, job: Job, *, actual_usd: Decimal | None = None) -> Entry:
        """What the provider says about the job. Raises IdentityConflict where the launch has another job."""
        with self._transaction() as db:
            row = self._row(db, key)
            if row["job_id"] not in (None, job.id):
                raise IdentityConflict(
                    f"launch {key} is job {row['job_id']}, but the provider also has {job.id} with its key: cancel the "
                    "second one there, and find out who sent it"
                )
            stage = _ENDS.get(job.state, Stage.LAUNCHED)
            actual = row["actual_micro_usd"] if actual_usd is None else _micro(actual_usd)
            if (row["stage"], row["raw_state"], row["actual_micro_usd"], row["job_id"]) == (
                stage,
                job.raw_state,
                actual,
                job.id,
            ):
                return _entry(row)
            db.execute(
                "UPDATE launches SET stage = ?, job_id = ?, raw_state = ?, model = ?, actual_micro_usd = ?, "
                "owner = NULL, lease_until = NULL WHERE key = ?",
                (stage, job.id, job.raw_state, job.model, actual, key),
            )
            self._line(db, key, stage, f"{job.id} {job.raw_state}")
            return _entry(self._row(db, key))

    # Inside a transaction

    def _check(self, db: sqlite3.Connection, key: str, environment: str, amount: int, budgets: Budgets) -> None:
        day = _time(self.clock()).date().isoformat()
        held = (
            ("job", Decimal(0), budgets.job_usd),
            (f"day {day} in {environment!r}", self._spent(db, environment, day, but=key), budgets.day_usd),
            (f"environment {environment!r}", self._spent(db, environment, None, but=key), budgets.environment_usd),
        )
        usd = _usd(amount)
        for what, spent, most in held:
            if spent + usd > most:
                already = f", after {_money(spent)} that are spent or promised" if spent else ""
                raise OverBudget(
                    f"this may cost {_money(usd)}{already}, but the budget of the {what} is {_money(most)}: nothing "
                    "was sent. Use fewer examples or epochs, or have the budget raised"
                )

    @staticmethod
    def _spent(db: sqlite3.Connection, environment: str, day: str | None, *, but: str) -> Decimal:
        quiet = (Stage.NEEDS_APPROVAL, Stage.REFUSED)
        total = db.execute(
            "SELECT COALESCE(SUM(COALESCE(actual_micro_usd, estimate_micro_usd)), 0) FROM launches "
            "WHERE environment = ? AND stage NOT IN (?, ?) AND key != ? "
            "AND (? IS NULL OR date(reserved_at, 'unixepoch') = ?)",
            (environment, *quiet, but, day, day),
        ).fetchone()[0]
        return _usd(total)

    def _mine(self, db: sqlite3.Connection, key: str, owner: str) -> None:
        row = self._row(db, key)
        if row["stage"] != Stage.SENDING or row["owner"] != owner:
            raise LaunchUncertain(f"launch {key} was taken over by another process: launch it again to see its job")

    def _set(self, db: sqlite3.Connection, key: str, stage: Stage, note: str) -> None:
        db.execute("UPDATE launches SET stage = ?, note = ? WHERE key = ?", (stage, note, key))
        self._line(db, key, stage, note)

    def _line(self, db: sqlite3.Connection, key: str, stage: Stage, detail: str) -> None:
        db.execute("INSERT INTO lines (key, at, stage, detail) VALUES (?, ?, ?, ?)", (key, self.clock(), stage, detail))

    @staticmethod
    def _row(db: sqlite3.Connection, key: str) -> sqlite3.Row:
        row = db.execute("SELECT * FROM launches WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise UnknownName("launch", key, (found["key"] for found in db.execute("SELECT key FROM launches")))
        assert isinstance(row, sqlite3.Row)
        return row

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. It is on the disk when this returns."""
        db = self._connection()
        # IMMEDIATE takes the lock for writing at once: what was read cannot change before it is acted on.
        db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        """This thread's own, in this process: none is shared, and none crosses a fork."""
        found: tuple[int, sqlite3.Connection] | None = getattr(self._local, "connection", None)
        if found is None or found[0] != os.getpid():
            db = sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            self._local.connection = found = (os.getpid(), db)
        return found[1]

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        found = getattr(self._local, "connection", None)
        if found is not None:
            found[1].close()
            del self._local.connection


def _statements(script: str) -> Iterator[str]:
    """Whole statements of a script: `executescript` would commit the transaction that it stands in."""
    text = ""
    for line in script.splitlines():
        text += line + "\n"
        if sqlite3.complete_statement(text):
            yield text
            text = ""


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        key=row["key"],
        environment=row["environment"],
        provider=row["provider"],
        target=row["target"],
        base_model=row["base_model"],
        method=row["method"],
        stage=Stage(row["stage"]),
        estimate_usd=_usd(row["estimate_micro_usd"]),
        actual_usd=None if row["actual_micro_usd"] is None else _usd(row["actual_micro_usd"]),
        job_id=row["job_id"],
        raw_state=row["raw_state"],
        model=row["model"],
        reserved_at=_time(row["reserved_at"]),
        sent_at=None if row["sent_at"] is None else _time(row["sent_at"]),
        approved_by=row["approved_by"],
        note=row["note"],
    )


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def _micro(usd: Decimal) -> int:
    return int((usd * MICRO).to_integral_value())


def _usd(micro: int) -> Decimal:
    return Decimal(micro) / MICRO


def _money(usd: Decimal) -> str:
    return f"{usd:,.2f} USD"
