"""What the service knows, in one SQLite file: documents by kind and name, tags, and events still to be sent."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Json = Any
Kind = Literal["job", "group", "package", "model", "config", "endpoint", "component", "invocation"]

_SCHEMA = """
create table if not exists documents(kind text, name text, document text not null, primary key(kind, name));
create table if not exists tags(arn text, key text, value text not null, primary key(arn, key));
create table if not exists tokens(
    operation text, token text, request text not null, answer text not null, primary key(operation, token));
create table if not exists outbox(id integer primary key autoincrement, event text not null);
"""


class Store:
    """Every method is safe to call from any thread; `transaction` makes several of them one."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._db.execute("rollback")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("commit")

    def get(self, kind: Kind, name: str) -> Json | None:
        with self._lock:
            row = self._db.execute("select document from documents where kind=? and name=?", (kind, name)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, kind: Kind, name: str, document: Json) -> None:
        with self._lock:
            self._db.execute("replace into documents values(?, ?, ?)", (kind, name, json.dumps(document)))

    def delete(self, kind: Kind, name: str) -> None:
        with self._lock:
            self._db.execute("delete from documents where kind=? and name=?", (kind, name))

    def all(self, kind: Kind) -> list[Json]:
        """Documents in the order in which they were first written."""
        with self._lock:
            rows = self._db.execute("select document from documents where kind=?", (kind,)).fetchall()
        return [json.loads(row[0]) for row in rows]

    def tag(self, arn: str, tags: list[Json]) -> None:
        with self._lock:
            self._db.executemany("replace into tags values(?, ?, ?)", [(arn, tag["Key"], tag["Value"]) for tag in tags])

    def tags(self, arn: str) -> list[Json]:
        with self._lock:
            rows = self._db.execute("select key, value from tags where arn=? order by key", (arn,)).fetchall()
        return [{"Key": key, "Value": value} for key, value in rows]

    def untag(self, arn: str, keys: list[str] | None = None) -> None:
        with self._lock:
            if keys is None:
                self._db.execute("delete from tags where arn=?", (arn,))
            else:
                self._db.executemany("delete from tags where arn=? and key=?", [(arn, key) for key in keys])

    def answer(self, operation: str, token: str) -> tuple[str, str] | None:
        """Request and answer of an earlier call with this client token."""
        with self._lock:
            return self._db.execute(
                "select request, answer from tokens where operation=? and token=?", (operation, token)
            ).fetchone()

    def remember(self, operation: str, token: str, request: str, answer: str) -> None:
        with self._lock:
            self._db.execute("insert into tokens values(?, ?, ?, ?)", (operation, token, request, answer))

    def post(self, event: Json) -> None:
        """Put an event into the outbox: in the transaction of the change that it tells of, so that neither is lost."""
        with self._lock:
            self._db.execute("insert into outbox(event) values(?)", (json.dumps(event),))

    def outbox(self) -> list[tuple[int, Json]]:
        with self._lock:
            rows = self._db.execute("select id, event from outbox order by id limit 50").fetchall()
        return [(number, json.loads(event)) for number, event in rows]

    def sent(self, numbers: list[int]) -> None:
        with self._lock:
            self._db.executemany("delete from outbox where id=?", [(number,) for number in numbers])

    def close(self) -> None:
        with self._lock:
            self._db.close()
