"""`stepforge costs` and `stepforge prices`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any

from botocore.exceptions import ClientError

from stepforge.cli._entries import plain_entry
from stepforge.cli._output import columns, emit, say
from stepforge.client import Client
from stepforge.connection import LOCAL
from stepforge.economics import prices
from stepforge.economics.costs import By, Costs, Found, Row
from stepforge.economics.tunes import TuneCosts, tune_costs
from stepforge.errors import InvalidInput
from stepforge.finetune.client import Tunes
from stepforge.finetune.ledger_file import FileLedger
from stepforge.installation.home import home


def print_costs(client: Client, *, by: By, since: str | None, as_json: bool) -> None:
    day = _day(since)
    found = Costs(client.connection).read(since=day)
    rows = found.by(by)
    plain: dict[str, Any] = {
        "by": by,
        "since": None if day is None else day.isoformat(),
        "rows": [asdict(row) for row in rows],
        "total": asdict(found.total),
        "under_way": list(found.under_way),
        "booked_now": found.healed,
        "skipped": list(found.skipped),
    }
    tunes = _tunes(client, day)
    plain["tunes"] = None if tunes is None else _plain(tunes)
    for why in found.skipped:
        say(f"warning: passed over: {why}")
    emit(plain, as_json=as_json, text="\n".join([*_lines(found, rows, by), *(_tune_lines(tunes) if tunes else [])]))


def _tunes(client: Client, since: date | None) -> TuneCosts | None:
    """None, with a warning, where the environment's ledger cannot be read: no sum is better than half of one."""
    connection = client.connection
    own = home() / "finetune" / "spend.sqlite"
    here = FileLedger(own).entries(connection.name) if own.is_file() else ()
    try:
        shared = Tunes(connection).ledger.entries()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("AccessDeniedException", "ResourceNotFoundException"):
            raise
        say(f"warning: paid tunes are not in this: the spend ledger of {connection.name!r} cannot be read ({code})")
        return None
    return tune_costs(shared, here, environment=connection.name, since=since)


def _plain(tunes: TuneCosts) -> dict[str, Any]:
    rows = [plain_entry(entry) for entry in tunes.entries]
    return {"rows": rows, "billed_usd": str(tunes.billed_usd), "unbilled_usd": str(tunes.unbilled_usd)}


def _tune_lines(tunes: TuneCosts) -> list[str]:
    if not tunes.entries:
        return []
    cells = [
        (
            entry.key[:15],
            entry.provider,
            entry.base_model[-40:],
            entry.stage.value,
            f"{entry.estimate_usd:,.2f}",
            "not known" if entry.actual_usd is None else f"{entry.actual_usd:,.2f}",
            "local fake: free" if entry.local_fake else "",
        )
        for entry in tunes.entries
    ]
    head = columns(["PAID TUNE", "PROVIDER", "BASE", "STAGE", "ESTIMATE USD", "BILLED USD", ""], cells)
    most = f", and at most {tunes.unbilled_usd:,.2f} USD that no bill is known of" if tunes.unbilled_usd else ""
    return ["", *head, f"paid tunes: {tunes.billed_usd:,.2f} USD billed{most}; not in the sums above"]


def print_prices(client: Client, *, instance: str | None, region: str | None, as_json: bool) -> None:
    connection = client.connection
    table = prices.load(connection.client("s3"), bucket=connection.environment.bucket)
    where = region or _region(client)
    kinds = sorted({row.instance_type for row in table.rows if row.region == where})
    found = [table.get(instance, where)] if instance else [table.get(kind, where) for kind in kinds]
    if not found:
        raise InvalidInput(f"no price is known in {where!r}, only in {table.regions}: `stepforge prices refresh`")
    emit([{**row.model_dump(mode="json"), "stale": prices.stale(row)} for row in found], as_json=as_json)
    if not as_json:
        cells = [
            (
                row.instance_type,
                f"{row.usd_per_hour:.4g}",
                f"{row.as_of}{' (stale)' if prices.stale(row) else ''}",
                row.confidence,
                row.source,
            )
            for row in found
        ]
        print("\n".join(columns([f"TRAINING IN {where}", "USD/HOUR", "AS OF", "CONFIDENCE", "SOURCE"], cells)))


def refresh_prices(client: Client, *, region: str | None, as_json: bool) -> None:
    """Read the price list of AWS into the environment, for everyone who plans in it."""
    connection, where = client.connection, region or _region(client)
    if connection.name == LOCAL:
        raise InvalidInput("the local AWS has no price list: name an environment in the cloud with --env")
    rows = list(prices.read_price_list(connection.client("pricing", region=prices.PRICE_LIST_REGION), where))
    environment = connection.environment
    table = prices.load(connection.client("s3"), bucket=environment.bucket)
    before = table.listed
    changed = []
    for row in rows:
        old = before.find(row.instance_type, where)
        if old is None or old.usd_per_hour != row.usd_per_hour:
            changed.append((row.instance_type, None if old is None else old.usd_per_hour, row.usd_per_hour))
    prices.keep(connection.client("s3"), rows, bucket=environment.bucket, key_arn=environment.key_arn)
    lines = [f"{len(rows)} training prices of {where} read; {len(changed)} are new or differ"]
    lines += [f"  {kind}: {'unknown' if old is None else f'{old:.4g}'} -> {new:.4g}" for kind, old, new in changed]
    now = [table.find(kind, where) for kind in sorted({row.instance_type for row in rows})]
    given = [row for row in now if row is not None and row.confidence == "given"]
    lines += [f"  {r.instance_type}: {r.usd_per_hour:.4g}, given on {r.as_of}, goes on holding" for r in given]
    plain = {"region": where, "read": len(rows), "changed": [dict(zip(_CHANGE, c, strict=True)) for c in changed]}
    emit(plain, as_json=as_json, text="\n".join(lines))


def set_price(client: Client, instance: str, usd: float, *, region: str | None, as_json: bool) -> None:
    """Give a price that the table lacks, or that a contract makes another."""
    environment = client.connection.environment
    row = prices.given(instance, region or _region(client), usd)
    prices.keep(client.connection.client("s3"), [row], bucket=environment.bucket, key_arn=environment.key_arn)
    said = f"{row.instance_type} in {row.region} is ${row.usd_per_hour:.4g} an hour from {row.as_of} on"
    emit(row.model_dump(mode="json"), as_json=as_json, text=said)


def withdraw_price(client: Client, instance: str, *, region: str | None, as_json: bool) -> None:
    """End a price that was given: then that of AWS's list holds again."""
    environment, s3 = client.connection.environment, client.connection.client("s3")
    where = region or _region(client)
    prices.withdraw(s3, instance, where, bucket=environment.bucket, key_arn=environment.key_arn)
    row = prices.load(s3, bucket=environment.bucket).find(instance, where)
    after = "and has no price" if row is None else f"and is ${row.usd_per_hour:.4g} an hour again ({row.source})"
    plain = {"instance_type": instance, "region": where, "now": None if row is None else row.model_dump(mode="json")}
    emit(plain, as_json=as_json, text=f"{instance} in {where} is not priced by what was given any more, {after}")


_CHANGE = ("instance_type", "before", "after")


def _region(client: Client) -> str:
    return client.connection.environment.key_arn.split(":")[3]


def _day(since: str | None) -> date | None:
    if since is None:
        return None
    try:
        return date.fromisoformat(since)
    except ValueError as error:
        raise InvalidInput(f"--since {since!r} is no day: write it as 2026-10-01") from error


def _lines(found: Found, rows: list[Row], by: str) -> list[str]:
    if not rows:
        return ["nothing has ended yet, so nothing is booked", *_under_way(found)]
    cells = [_cells(row) for row in (*rows, found.total)]
    head = columns([by.upper(), "USD", "JOBS", "FAILED", "INSTANCE HOURS", "SPOT SAVED"], cells)
    return [*head, *_apart(found.total), *_under_way(found)]


def _cells(row: Row) -> tuple[str, ...]:
    usd = "unknown" if row.usd is None else f"{row.usd:.4f}"
    part = "+" if row.usd is not None and (row.unpriced or row.untimed) else ""
    hours = f"{row.instance_seconds / 3600:.3f}"
    saved = f"{row.spot_saved_usd:.4f}" if row.spot_saved_usd else "-"
    return row.key, usd + part, str(row.jobs), str(row.failed or "-"), hours, saved


def _apart(total: Row) -> list[str]:
    found = [f"not in the sums (+): no price is known for {kind}" for kind in total.unpriced]
    if total.untimed:
        found.append(f"not in the sums (+): of {total.untimed} attempts SageMaker says no billable time")
    return found


def _under_way(found: Found) -> list[str]:
    return [f"under way, and booked when it ends: {name}" for name in found.under_way]
