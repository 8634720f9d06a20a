"""`stepforge finetune ...`: paid fine-tunes. Imports of providers stand inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepforge.cli._output import Json, emit, say, table

app = typer.Typer(help="Paid fine-tunes: whether they pay, launch once, watch, cancel, list.", no_args_is_help=True)
PlanFile = Annotated[Path, typer.Argument(help="Plan (TOML): provider, model, rate, budgets.")]
Key = Annotated[str, typer.Argument(help="Launch, as `stepforge finetune list` names it.")]


def _ledger() -> Any:
    from stepforge.finetune.ledger import Ledger
    from stepforge.home import home

    return Ledger(home() / "finetune" / "spend.sqlite")


def _line(entry: Any) -> str:
    fake = "  [local fake: nothing is trained or charged]" if entry.local_fake else ""
    cost = f"up to {entry.estimate_usd:,.2f} USD" if entry.actual_usd is None else f"{entry.actual_usd:,.2f} USD"
    return f"{entry.key}: {entry.stage.value}, {cost}, job {entry.job_id or '-'}{fake}"


def _emit(entry: Any, *, as_json: bool) -> None:
    emit({**entry.model_dump(mode="json"), "local_fake": entry.local_fake}, as_json=as_json, text=_line(entry))


@app.command("launch")
def launch_plan(
    plan: PlanFile,
    data: Annotated[Path, typer.Option(help="Your records, one JSON object a line.")],
    approve: Annotated[str | None, typer.Option(help="Your name: you agree to a cost above the threshold.")] = None,
    json: Json = False,
) -> None:
    """Launch a paid fine-tune, or adopt the one that was launched with the same plan and data."""
    from stepforge.contracts.manifests import sha256_of
    from stepforge.contracts.user_records import RecordsFile, read_user_files
    from stepforge.errors import InvalidInput
    from stepforge.finetune.launching import launch
    from stepforge.finetune.ledger import Stage
    from stepforge.finetune.plan import load_plan
    from stepforge.home import home

    asked = load_plan(plan)
    folder = home() / "finetune" / "data"
    if not data.is_file():
        raise InvalidInput(f"--data {data} is no file: give one with a JSON object a line")
    file = RecordsFile(data, data.name, sha256_of(data))
    records = read_user_files([file], domain="records", verifier=None)
    # What the tuned model will be judged by stays at home.
    spec = asked.spec([r for r in records if not r.split.startswith("test_")], folder)
    ledger, provider = _ledger(), asked.provider.provider()
    options = {
        "ledger": ledger,
        "budgets": asked.budgets,
        "rate": asked.rate,
        "hours": asked.hours,
        "shutdown": asked.shutdown,
        "needed_until": asked.needed_until,
    }
    done = launch(provider, spec, folder, **options)
    if done.stage == Stage.NEEDS_APPROVAL and approve is not None:
        ledger.approve(done.key, by=approve, budgets=asked.budgets)
        done = launch(provider, spec, folder, **options)
    if done.stage == Stage.NEEDS_APPROVAL:
        say(f"this needs a person: look at the cost, then run it again with --approve 'YOUR NAME' ({done.key})")
    _emit(done.entry, as_json=json)


@app.command("watch")
def watch_launch(plan: PlanFile, key: Key, json: Json = False) -> None:
    """Follow a launch until it ends, and book what it cost."""
    from stepforge.finetune.plan import load_plan
    from stepforge.finetune.watching import follow

    asked = load_plan(plan)
    last = None
    for last in follow(asked.provider.provider(), _ledger(), key, rate=asked.rate):
        say(_line(last))
    assert last is not None
    _emit(last, as_json=json)


@app.command("cancel")
def cancel_launch(plan: PlanFile, key: Key, json: Json = False) -> None:
    """Stop a launch, and with it its charge."""
    from stepforge.finetune.plan import load_plan
    from stepforge.finetune.watching import cancel

    _emit(cancel(load_plan(plan).provider.provider(), _ledger(), key), as_json=json)


@app.command("list")
def list_launches(
    environment: Annotated[str | None, typer.Option("--env", help="One environment alone.")] = None,
    json: Json = False,
) -> None:
    """List what was launched from this machine, and what it cost."""
    entries = _ledger().entries(environment)
    emit([{**e.model_dump(mode="json"), "local_fake": e.local_fake} for e in entries], as_json=json)
    if json:
        return
    if not entries:
        say("nothing was launched yet: `stepforge finetune launch plan.toml --data records.jsonl`")
        return
    rows = [
        (e.key, e.stage.value, e.environment, e.base_model, f"{e.actual_usd or e.estimate_usd:,.2f}", e.job_id or "-")
        for e in entries
    ]
    table(["LAUNCH", "STAGE", "ENV", "BASE", "USD", "JOB"], rows)
