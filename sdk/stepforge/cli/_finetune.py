"""`stepforge finetune ...`: paid fine-tunes. Imports of providers stand inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepforge.cli._entries import FAKE, estimated, plain_entry
from stepforge.cli._output import Env, Json, emit, say, table
from stepforge.errors import InvalidInput

app = typer.Typer(help="Paid fine-tunes: whether they pay, launch once, watch, cancel, list.", no_args_is_help=True)
PlanFile = Annotated[Path, typer.Argument(help="Plan (TOML): provider, model, rate, budgets.")]
Own = Annotated[list[Path] | None, typer.Option("--catalogue", help="Your own rows of models and prices (TOML).")]
Known = Annotated[Path | None, typer.Option("--experience", help="Outcomes so far, from which the priors come (JSON).")]
Advice = Annotated[
    list[Path] | None,
    typer.Option("--criteria", help="What an advisor says beside money (TOML or JSON); of several, the median."),
]
Key = Annotated[str, typer.Argument(help="Launch, as `stepforge finetune list` names it.")]


def _ledger() -> Any:
    from stepforge.finetune.ledger_file import FileLedger
    from stepforge.installation.home import home

    return FileLedger(home() / "finetune" / "spend.sqlite")


def _line(entry: Any) -> str:
    fake = FAKE if entry.local_fake else ""
    cost = estimated(entry) if entry.actual_usd is None else f"{entry.actual_usd:,.2f} USD"
    why = f", {entry.note}" if entry.note else ""
    return f"{entry.key}: {entry.stage.value}, {entry.method}, {cost}, job {entry.job_id or '-'}{why}{fake}"


def _emit(entry: Any, *, as_json: bool) -> None:
    emit(plain_entry(entry), as_json=as_json, text=_line(entry))


@app.command("launch")
def launch_plan(
    plan: PlanFile,
    data: Annotated[Path, typer.Option(help="Your records, one JSON object a line.")],
    domain: Annotated[str, typer.Option(help="Whose records these are, and whose verifier grades them.")] = "records",
    approve: Annotated[str | None, typer.Option(help="Your name: you agree to a cost above the threshold.")] = None,
    own: Own = None,
    json: Json = False,
) -> None:
    """Launch a paid fine-tune, or adopt the one that was launched with the same plan and data."""
    from datetime import UTC, datetime

    from stepforge.cli._finetune_cloud import read_records
    from stepforge.cli._personal import cleared
    from stepforge.economics.catalogue import Catalogue
    from stepforge.finetune.entries import Stage
    from stepforge.finetune.launching import launch
    from stepforge.finetune.plan import load_plan
    from stepforge.installation.home import home

    asked = load_plan(plan)
    folder = home() / "finetune" / "data"
    records = cleared(asked, read_records(data, domain), domain)
    spec = asked.spec(records, folder)
    ledger, provider = _ledger(), asked.provider.provider()
    catalogue = Catalogue.load(*own or [])
    terms = asked.terms(catalogue, datetime.now(UTC).date())
    for warning in terms.warnings:
        say(f"price: {warning}")
    options = {
        "ledger": ledger,
        "budgets": asked.budgets,
        "price": terms.price,
        "hours": asked.hours,
        "shutdown": terms.shutdown,
        "needed_until": asked.needed_until or datetime.now(UTC).date(),
        "catalogue": catalogue,
    }
    done = launch(provider, spec, folder, **options)
    if done.stage == Stage.NEEDS_APPROVAL and approve is not None:
        ledger.approve(done.key, by=approve, budgets=asked.budgets)
        done = launch(provider, spec, folder, **options)
    if done.stage == Stage.NEEDS_APPROVAL:
        say(f"this needs a person: look at the cost, then run it again with --approve 'YOUR NAME' ({done.key})")
    _emit(done.entry, as_json=json)


@app.command("sample")
def sample_rows(
    plan: PlanFile,
    data: Annotated[Path, typer.Option(help="Your records, one JSON object a line.")],
    rows: Annotated[int, typer.Option(help="How many to draw, 20 or more.", min=1)] = 30,
    out: Annotated[Path, typer.Option(help="File of a JSON object a line: id, row.")] = Path("sample.jsonl"),
    domain: Annotated[str, typer.Option(help="Whose records these are.")] = "records",
    json: Json = False,
) -> None:
    """Draw the rows to count, whose tokens make a plan's estimate a figure with a narrow range. Nothing is sent."""
    from json import dumps

    from stepforge.cli._finetune_cloud import read_records
    from stepforge.economics.bills import pair_prompts
    from stepforge.finetune.plan import load_plan
    from stepforge.finetune.sampling import sample

    asked = load_plan(plan)
    if out.resolve() in (plan.resolve(), data.resolve()):
        raise InvalidInput(f"--out {str(out)!r} is the plan or the data, and would be written over: give another file")
    found, trained_on = sample(asked, read_records(data, domain), rows=rows)
    out.write_text("".join(dumps({"id": name, "row": row}) + "\n" for name, row in found.items()))
    provider = asked.provider.type
    twice = ", the prompt of a pair twice" if asked.method == "dpo" and pair_prompts(provider) == 2 else ""
    text = (
        f"{out}: {len(found)} of {trained_on} rows, as {provider} will be sent them. Next: count the tokens of each "
        f"with its own counter, for one epoch{twice}, and write them into {plan} by id: [counted], then a line "
        f"{next(iter(found))!r} = TOKENS for each"
    )
    plain = {"file": str(out), "rows": len(found), "of": trained_on}
    emit(plain, as_json=json, text=text)


@app.command("watch")
def watch_launch(plan: PlanFile, key: Key, own: Own = None, json: Json = False) -> None:
    """Follow a launch until it ends, and book what it cost."""
    from stepforge.economics.catalogue import Catalogue
    from stepforge.finetune.plan import load_plan
    from stepforge.finetune.watching import follow

    asked = load_plan(plan)
    price = asked.booked_at(Catalogue.load(*own or []))
    last = None
    provider = asked.provider.provider()
    # A local server has nothing to train: it is not waited for.
    timing = {"first_seconds": 0.05, "most_seconds": 1.0} if provider.local else {}
    for last in follow(provider, _ledger(), key, price=price, **timing):
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
    shared: Annotated[bool, typer.Option(help="Of the environment's own ledger, which the machine writes.")] = False,
    json: Json = False,
) -> None:
    """List what was launched, and what it cost: from this machine, or with --shared in an environment."""
    if shared:
        from stepforge.client import Client
        from stepforge.finetune.client import Tunes

        entries = Tunes(Client(environment or "local").connection).ledger.entries()
    else:
        entries = _ledger().entries(environment)
    emit([plain_entry(entry) for entry in entries], as_json=json)
    if json:
        return
    if not entries:
        say("nothing was launched yet: `stepforge finetune launch plan.toml --data records.jsonl`")
        return
    rows = [
        (
            e.key,
            e.stage.value,
            e.environment,
            e.base_model,
            e.method,
            *("-" if usd is None else f"{usd:,.2f}" for usd in (e.low_usd, e.expected_usd, e.estimate_usd)),
            "-" if e.actual_usd is None else f"{e.actual_usd:,.2f}",
            f"{e.job_id or '-'}{FAKE if e.local_fake else ''}",
        )
        for e in entries
    ]
    table(["LAUNCH", "STAGE", "ENV", "BASE", "METHOD", "LOW USD", "EXPECTED", "HIGH", "BILLED", "JOB"], rows)


@app.command("register")
def register_launch(
    plan: PlanFile,
    key: Key,
    data: Annotated[Path, typer.Option(help="The records that it was launched with; test splits judge it.")],
    domain: Annotated[str, typer.Option(help="Whose verifier judges, and whose models it joins.")] = "records",
    verifier: Annotated[str | None, typer.Option(help="Your own in its place, as package.module:function.")] = None,
    own: Own = None,
    json: Json = False,
) -> None:
    """Evaluate what was launched from this machine, and register it in the plan's environment beside its models."""
    from stepforge.cli import _finetune_cloud as cloud
    from stepforge.client import Client
    from stepforge.finetune.plan import load_plan

    asked = load_plan(plan)
    cloud.register(
        Client(asked.environment),
        asked,
        key,
        data=data,
        domain=domain,
        verifier=verifier,
        own=own or [],
        ledger=_ledger(),
        as_json=json,
    )


@app.command("grader")
def write_grader(
    verifier: Annotated[str, typer.Argument(help="Yours, as package.module:function, or a domain.")],
    out: Annotated[Path, typer.Option(help="Zip of the function's code.")] = Path("grader.zip"),
    json: Json = False,
) -> None:
    """Write the code of a Lambda function that grades with a verifier: what Bedrock's reinforcement calls."""
    from stepforge.contracts.names import FUNCTION_RUNTIME
    from stepforge.finetune.graders import FUNCTION_MODULE, function_zip

    code = function_zip(verifier)
    out.write_bytes(code)
    handler = f"{FUNCTION_MODULE}.handler"
    plain = {"file": str(out), "bytes": len(code), "handler": handler, "runtime": FUNCTION_RUNTIME}
    text = f"{out}: {len(code):,} bytes, handler {handler}, {FUNCTION_RUNTIME}; it needs pydantic 2 by a layer"
    emit(plain, as_json=json, text=text)


# ── In an environment, through the state machine ─────────────────────────────────────────────────


@app.command("start")
def start_machine(
    plan: PlanFile,
    data: Annotated[Path, typer.Option(help="Your records; those of test splits judge the tuned model.")],
    domain: Annotated[str, typer.Option(help="Whose verifier judges, and whose models it joins.")] = "records",
    question: Annotated[Path | None, typer.Option(help="Launch only if the verdict on this chooses --arm.")] = None,
    arm: Annotated[str | None, typer.Option(help="Arm of the question that this plan is.")] = None,
    own: Own = None,
    experience: Known = None,
    criteria: Advice = None,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Follow it, or return once it is started.")] = True,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Tune in an environment: approved, launched once, watched for days, evaluated and registered by its machine."""
    from stepforge.cli import _finetune_cloud as cloud
    from stepforge.client import Client

    cloud.start(
        Client(env),
        plan,
        data=data,
        domain=domain,
        question=question,
        arm=arm,
        own=own or [],
        experience=experience,
        criteria=criteria or [],
        wait=wait,
        as_json=json,
    )


By = Annotated[str, typer.Option(help="Your name.")]


@app.command("approve")
def approve(
    key: Key,
    by: By,
    up_to: Annotated[float | None, typer.Option(help="US dollars; what may cost more is not approved.", min=0)] = None,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Agree to the cost of a launch that waits for a person."""
    from decimal import Decimal

    from stepforge.cli import _finetune_cloud as cloud
    from stepforge.client import Client
    from stepforge.finetune.client import Tunes

    up_to_usd = None if up_to is None else Decimal(str(up_to))
    cloud.decided(Tunes(Client(env).connection).approve(key, by=by, up_to_usd=up_to_usd), as_json=json)


@app.command("refuse")
def refuse(
    key: Key,
    by: By,
    why: Annotated[str, typer.Option(help="What is said of it.")] = "",
    env: Env = "local",
    json: Json = False,
) -> None:
    """Refuse the cost of a launch that waits for a person: nothing is sent."""
    from stepforge.cli import _finetune_cloud as cloud
    from stepforge.client import Client
    from stepforge.finetune.client import Tunes

    cloud.decided(Tunes(Client(env).connection).refuse(key, by=by, why=why), as_json=json)


@app.command("stop")
def stop(
    name: Annotated[str, typer.Argument(help="Tune, as `stepforge finetune start` named it.")],
    env: Env = "local",
    json: Json = False,
) -> None:
    """Stop a tune of the machine: its job is cancelled, and with it its charge."""
    from stepforge.cli import _finetune_cloud as cloud
    from stepforge.client import Client

    cloud.stop(Client(env), name, as_json=json)


@app.command("compare")
def compare(
    challenger: Annotated[str, typer.Argument(help="Registered model, such as records/3.")],
    champion: Annotated[str, typer.Argument(help="The one that it is compared with, wherever either is from.")],
    env: Env = "local",
    json: Json = False,
) -> None:
    """Compare two registered models by their held-out scores: ours or a provider's, in any mixture."""
    from stepforge.cli import _finetune_cloud as cloud
    from stepforge.client import Client

    cloud.compare(Client(env), challenger, champion, as_json=json)


@app.command("outcome")
def outcome(
    verdict: Annotated[Path, typer.Argument(help="What `finetune decide --json` printed.")],
    tuned: Annotated[str, typer.Option(help="Registered model, such as records/3, or rows.ndjson of an evaluation.")],
    base: Annotated[str, typer.Option(help="What it is measured against, in the same forms.")],
    arm: Annotated[str | None, typer.Option(help="Arm that was made; the one that the verdict chose.")] = None,
    cost: Annotated[float | None, typer.Option(help="USD that it cost at once; a registered tune's own.")] = None,
    experience: Annotated[Path, typer.Option(help="Outcomes so far, which decide reads.")] = Path("outcomes.json"),
    env: Env = "local",
    json: Json = False,
) -> None:
    """Set what came of an arm beside what was predicted, and let the next verdicts learn from it."""
    from stepforge.cli import _finetune_cloud as cloud

    cloud.outcome(verdict, arm=arm, tuned=tuned, base=base, cost_usd=cost, experience=experience, env=env, as_json=json)
