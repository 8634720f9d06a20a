"""The spend ledger of one machine, in a file.

SQLite with synchronous=FULL: a transaction that returned survives a power cut, and processes on one machine
exclude each other. Not covered: several machines with a ledger each; they find each other's jobs at the provider
(`Provider.find`), but their budgets do not add up. For those there is `ledger_dynamodb`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from stepforge.errors import IdentityConflict
from stepforge.finetune.entries import Line, Row, Stage, micro, shares, time_of, usd_of
from stepforge.finetune.ledger import Ledger, Rule

T = TypeVar("T")
_TABLES = """
CREATE TABLE IF NOT EXISTS launches (
    key TEXT PRIMARY KEY, environment TEXT NOT NULL, provider TEXT NOT NULL, target TEXT NOT NULL,
    base_model TEXT NOT NULL, method TEXT NOT NULL, stage TEXT NOT NULL,
    estimate_micro_usd INTEGER NOT NULL, low_micro_usd INTEGER, expected_micro_usd INTEGER, actual_micro_usd INTEGER,
    job_id TEXT, raw_state TEXT NOT NULL DEFAULT '', model TEXT,
    reserved_at REAL NOT NULL, sent_at REAL, owner TEXT, lease_until REAL,
    approved_by TEXT, note TEXT NOT NULL DEFAULT '', UNIQUE (target, job_id)
) STRICT;
CREATE TABLE IF NOT EXISTS lines (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, at REAL NOT NULL, stage TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS lines_stay BEFORE UPDATE ON lines BEGIN SELECT RAISE(ABORT, 'lines stay'); END;
CREATE TRIGGER IF NOT EXISTS lines_are_kept BEFORE DELETE ON lines BEGIN SELECT RAISE(ABORT, 'lines stay'); END;
"""
_NEWER = ("low_micro_usd", "expected_micro_usd")
"""Columns that a file of before lacks."""
_MONEY = ("estimate", "low", "expected", "actual")
_QUIET = (Stage.NEEDS_APPROVAL, Stage.REFUSED)


class FileLedger(Ledger):
    """The book of one machine, at a path.

    >>> import tempfile
    >>> book = FileLedger(Path(tempfile.mkdtemp()) / "spend.sqlite")
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
            there = {row["name"] for row in db.execute("PRAGMA table_info(launches)")}
            for name in _NEWER:
                if name not in there:
                    db.execute(f"ALTER TABLE launches ADD COLUMN {name} INTEGER")
        path.chmod(0o600)

    def _change(self, key: str, rule: Rule[T]) -> T:
        with self._transaction() as db:
            row = _read(db, key)

            def spent(environment: str, day: str | None) -> Decimal:
                return _spent(db, environment, day) - shares(row).get((environment, day), Decimal(0))

            step = rule(row, spent)
            if step.row is not None:
                try:
                    _write(db, step.row)
                except sqlite3.IntegrityError as error:
                    raise IdentityConflict(f"job {step.row.job_id} belongs to another launch than {key}") from error
                values = (key, self.clock(), step.row.stage, step.line)
                db.execute("INSERT INTO lines (key, at, stage, detail) VALUES (?, ?, ?, ?)", values)
            return step.answer

    def _rows(self) -> Iterable[Row]:
        # Within a change this is the same connection, and so the same transaction.
        found = self._connection().execute("SELECT * FROM launches ORDER BY reserved_at, rowid").fetchall()
        return [_row(row) for row in found]

    def lines(self, key: str) -> tuple[Line, ...]:
        rows = self._connection().execute("SELECT * FROM lines WHERE key = ? ORDER BY number", (key,)).fetchall()
        return tuple(
            Line(key=row["key"], at=time_of(row["at"]), stage=Stage(row["stage"]), detail=row["detail"]) for row in rows
        )

    def spent(self, environment: str, *, day: str | None = None) -> Decimal:
        return _spent(self._connection(), environment, day)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction. It is on the disk when this returns."""
        db = self._connection()
        # IMMEDIATE takes the lock for writing at once: what was read cannot change before it is acted on.
        db.execute("BEGIN IMMEDIATE")
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
            # The journal stays as it comes: turning WAL on waits for nobody, and fails where others open the file too.
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


def _read(db: sqlite3.Connection, key: str) -> Row | None:
    row = db.execute("SELECT * FROM launches WHERE key = ?", (key,)).fetchone()
    return None if row is None else _row(row)


def _row(found: sqlite3.Row) -> Row:
    plain: dict[str, Any] = {name: found[name] for name in found.keys()}  # noqa: SIM118, a Row iterates over values
    amounts, sent_at = {what: plain.pop(f"{what}_micro_usd") for what in _MONEY}, plain["sent_at"]
    plain |= {
        **{f"{what}_usd": None if amount is None else usd_of(amount) for what, amount in amounts.items()},
        "reserved_at": time_of(plain["reserved_at"]),
        "sent_at": None if sent_at is None else time_of(sent_at),
    }
    return Row.model_validate(plain)


def _write(db: sqlite3.Connection, row: Row) -> None:
    money = {what: getattr(row, f"{what}_usd") for what in _MONEY}
    plain = row.model_dump(exclude={f"{what}_usd" for what in _MONEY}) | {
        **{f"{what}_micro_usd": None if amount is None else micro(amount) for what, amount in money.items()},
        "reserved_at": row.reserved_at.timestamp(),
        "sent_at": None if row.sent_at is None else row.sent_at.timestamp(),
    }
    names, marks = ", ".join(plain), ", ".join(f":{name}" for name in plain)
    # Not OR REPLACE: that would take the place of another launch's row with the same job.
    updates = ", ".join(f"{name} = excluded.{name}" for name in plain if name != "key")
    db.execute(f"INSERT INTO launches ({names}) VALUES ({marks}) ON CONFLICT (key) DO UPDATE SET {updates}", plain)


def _spent(db: sqlite3.Connection, environment: str, day: str | None) -> Decimal:
    total = db.execute(
        "SELECT COALESCE(SUM(COALESCE(actual_micro_usd, estimate_micro_usd)), 0) FROM launches "
        "WHERE environment = ? AND stage NOT IN (?, ?) AND (? IS NULL OR date(reserved_at, 'unixepoch') = ?)",
        (environment, *_QUIET, day, day),
    ).fetchone()[0]
    return usd_of(total)
