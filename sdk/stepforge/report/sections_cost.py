"""What the run cost, job by job."""

from __future__ import annotations

from stepforge.report.cost import Cost, cost_of, total_of
from stepforge.report.data import JobView, ReportData
from stepforge.report.html import Markup, el, join, table
from stepforge.report.words import duration, listing, missing, money, note, plural, price, section

LOCAL = "local"
UNKNOWN = "price unknown"


def cost(data: ReportData) -> Markup:
    if not any(job.attempts for job in data.jobs):
        return section("cost", "Cost", missing("No job has been started, so nothing was spent."))
    local = data.environment == LOCAL
    rows = [_row(job, data, local=local) for job in data.jobs if job.attempts]
    whole = total_of(data.jobs, data.prices)
    total: list[object] = [
        el("strong", "Total"),
        "",
        "",
        el("td", str(whole.attempts), class_="num"),
        el("td", el("strong", _time(whole)), class_="num"),
    ]
    columns: list[object] = ["Stage", "Job", "Instance", "Attempts", "Time" if local else "Billable time"]
    if not local:
        columns += ["Price an hour", "Cost"]
        total += ["", el("td", el("strong", usd_text(whole)), class_="num")]
    return section(
        "cost",
        "Cost",
        el("p", _sentence(whole, local=local), class_="lead"),
        table(columns, [*rows, total], caption="Jobs, with every attempt at them", class_="cost"),
        _notes(data, whole, local=local),
    )


def _row(job: JobView, data: ReportData, *, local: bool) -> list[object]:
    found = cost_of(job.attempts, data.prices)
    last = job.attempts[-1]
    ended = [attempt.status for attempt in job.attempts if attempt.status in ("Failed", "Stopped")]
    attempts = join(str(len(job.attempts)), el("small", f"{len(ended)} not completed") if ended else None)
    instance = f"{last.instance_count} × {last.instance_type or 'unknown'}" + (" (spot)" if last.spot else "")
    row: list[object] = [
        job.stage,
        el("code", last.name),
        "this machine" if local else instance,
        el("td", attempts, class_="num"),
        el("td", _time(found), class_="num"),
    ]
    if not local:
        hourly = (data.prices or {}).get(last.instance_type)
        row.append(
            el("td", UNKNOWN if hourly is None else price(hourly), class_="missing" if hourly is None else "num")
        )
        row.append(el("td", usd_text(found), class_="num" if found.known else "missing"))
    return row


def usd_text(found: Cost) -> str:
    """
    >>> usd_text(Cost(60, 0.5)), usd_text(Cost(60, 0.5, ("ml.x",))), usd_text(Cost(60, 0.0, ("ml.x",)))
    ('$0.50', 'at least $0.50', 'price unknown')
    """
    if found.known:
        return money(found.usd)
    if found.nothing_known:
        return UNKNOWN if found.unpriced else "time unknown"
    return f"at least {money(found.usd)}"


def _time(found: Cost) -> str:
    if found.untimed and not found.seconds:
        return "not known yet"
    return ("at least " if found.untimed else "") + duration(found.seconds)


def _sentence(whole: Cost, *, local: bool) -> str:
    jobs = plural(whole.attempts, "attempt")
    if local:
        return f"It ran on this machine and cost nothing but time: {_time(whole)} in {jobs}."
    if whole.nothing_known:
        return f"{_time(whole).capitalize()} of billable instance time in {jobs}; what that cost is not known."
    return f"{usd_text(whole).capitalize()} for {_time(whole)} of billable instance time in {jobs}."


def _notes(data: ReportData, whole: Cost, *, local: bool) -> Markup | None:
    if local:
        return None
    parts: list[object] = [
        note(
            "Billable seconds × instances × the price an hour that was given, attempts that failed included. "
            "Not covered: storage, state transitions, endpoints, taxes, discounts."
        )
    ]
    if whole.unpriced:
        parts.append(missing(f"No price is known for {listing(list(whole.unpriced))}."))
    if whole.untimed:
        parts.append(missing(f"SageMaker reports no billable time for {plural(whole.untimed, 'attempt')} yet."))
    return join(parts)
