"""`stepforge gc`."""

from __future__ import annotations

from stepforge.cli._output import emit, say, table
from stepforge.client import Client
from stepforge.housekeeping import Housekeeping


def gc(client: Client, *, apply: bool, keep_days: int, as_json: bool) -> None:
    housekeeping = Housekeeping(client.connection, keep_days=keep_days)
    found = housekeeping.removable()
    gone = housekeeping.remove(found) if apply else []
    rows = gone if apply else found
    total = sum(item.bytes for item in rows)
    plain = {
        "applied": apply,
        "bytes": total,
        "items": [{"kind": i.kind, "name": i.name, "reason": i.reason, "bytes": i.bytes} for i in rows],
        "skipped": housekeeping.skipped,
    }
    for why in housekeeping.skipped:
        say(f"warning: passed over: {why}")
    emit(plain, as_json=as_json)
    if as_json:
        return
    if rows:
        table(["KIND", "NAME", "MB", "WHY"], [(i.kind, i.name, f"{i.bytes / 1e6:.1f}", i.reason) for i in rows])
    word = "removed" if apply else "can go"
    say(f"{len(rows)} {word}, {total / 1e6:.1f} MB" + ("" if apply or not rows else "; --apply removes them"))
    if len(gone) < len(found) and apply:
        say(f"{len(found) - len(gone)} are needed again, or changed meanwhile, and stay")
