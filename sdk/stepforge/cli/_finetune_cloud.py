"""`stepforge finetune start | approve | refuse | stop | compare | outcome`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepforge.cli._decide import asked, load
from stepforge.cli._entries import FAKE, estimated, fake_in, plain_entry
from stepforge.cli._output import columns, emit, say
from stepforge.cli._personal import cleared
from stepforge.client import Client
from stepforge.connection import LOCAL, command
from stepforge.contracts.decisions import Decision
from stepforge.contracts.registry import ExternalLineage
from stepforge.contracts.reports import EvaluationReport
from stepforge.economics.experience import Experience
from stepforge.economics.outcome import measured
from stepforge.errors import InvalidInput
from stepforge.finetune.client import Tunes
from stepforge.finetune.datasets import Item
from stepforge.finetune.entries import Entry
from stepforge.finetune.judging import Judge
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.measuring import is_fake, paired, scores_of
from stepforge.finetune.pairs import read_items
from stepforge.finetune.plan import Plan, load_plan
from stepforge.finetune.request import Output
from stepforge.installation.home import home
from stepforge.machines.champion import compare as champion_compare
from stepforge.machines.executions import Execution, run_failure
from stepforge.registry import Package


def read_records(data: Path, domain: str) -> list[Item]:
    if not data.is_file():
        raise InvalidInput(f"--data {data} is no file: give one with a JSON object a line")
    return read_items(data, domain)


def start(
    client: Client,
    plan: Path,
    *,
    data: Path,
    domain: str,
    question: Path | None,
    arm: str | None,
    own: list[Path],
    experience: Path | None,
    criteria: list[Path],
    wait: bool,
    as_json: bool,
) -> None:
    tunes, catalogue = Tunes(client.connection), load(own)
    if question is None and (experience is not None or criteria):
        raise InvalidInput("--experience and --criteria weigh a question: give --question and --arm, or leave them out")
    found, grounds = (
        (None, None) if question is None else asked(question, catalogue, experience=experience, criteria=criteria)
    )
    tuned = load_plan(plan)
    execution, warnings = tunes.start(
        tuned,
        cleared(tuned, read_records(data, domain), domain),
        home() / "finetune" / "data",
        domain=domain,
        catalogue=catalogue,
        today=datetime.now(UTC).date(),
        question=found,
        arm=arm,
        grounds=grounds,
    )
    for warning in warnings:
        say(f"price: {warning}")
    say(f"tune {execution.name} is {execution.word}{fake_in(client.connection.name)}")
    if not wait:
        emit(_plain(client, execution), as_json=as_json)
        return
    ended = _followed(tunes, execution)
    if ended.status != "SUCCEEDED":
        raise run_failure(ended.name, ended)
    _registered(client, Output.model_validate(ended.output), as_json=as_json, name=ended.name)


def register(
    client: Client,
    plan: Plan,
    key: str,
    *,
    data: Path,
    domain: str,
    verifier: str | None,
    own: list[Path],
    ledger: Ledger,
    as_json: bool,
) -> None:
    records = cleared(plan, read_records(data, domain), domain)
    with Judge(domain, verifier) as judge:
        output = Tunes(client.connection).register(
            plan,
            records,
            home() / "finetune" / "data",
            key=key,
            ledger=ledger,
            verify=judge,
            domain=domain,
            catalogue=load(own),
        )
    if plan.lacks_secret():
        say(
            "it cannot be promoted from this plan: what serves is asked by the environment. Name api_key_secret as well"
        )
    _registered(client, output, as_json=as_json)


def _registered(client: Client, output: Output, *, as_json: bool, name: str | None = None) -> None:
    package = client.registry.get(output.registered.package_arn)
    text = [
        f"registered as {package.reference} for {output.cost_usd} USD{FAKE * output.local_fake}",
        f"champion gate: {'; '.join(output.comparison.reasons)}",
    ]
    if package.metadata.get("external_provider") == "sagemaker":
        approve = command(f"registry approve {package.reference}", client.connection.name)
        text.append(f"it answers on an endpoint alone, charged by the hour: `{approve}` deploys it")
    predict = command(f"predict --domain {package.reference} 'PROMPT'", client.connection.name)
    text.append(f"ask it: {predict}")
    plain = {**({} if name is None else {"name": name}), **output.model_dump(mode="json")}
    emit(plain, as_json=as_json, text="\n".join(text))


def _followed(tunes: Tunes, execution: Execution) -> Execution:
    pause, told = (0.5 if tunes.connection.name == LOCAL else 15.0), False
    while execution.status in ("RUNNING", "PENDING_REDRIVE"):
        if not told and (entry := tunes.waiting(execution)) is not None:
            told = True
            say(
                f"{entry.base_model}, {entry.method}: it may cost {estimated(entry)}, and waits for a person"
                f"{FAKE * entry.local_fake}: "
                f"`stepforge finetune approve {entry.key} --up-to {entry.estimate_usd:.2f} --by 'NAME' --env "
                f"{tunes.connection.name}`, or refuse"
            )
        time.sleep(pause)
        execution = tunes.get(execution.name)
    return execution


def decided(entry: Entry, *, as_json: bool) -> None:
    said = f", approved by {entry.approved_by}" if entry.approved_by else f", {entry.note}" if entry.note else ""
    text = f"{entry.key}: {entry.stage.value}, {estimated(entry)}{said}{FAKE * entry.local_fake}"
    emit(plain_entry(entry), as_json=as_json, text=text)


def stop(client: Client, name: str, *, as_json: bool) -> None:
    found = Tunes(client.connection).stop(name)
    text = f"{found.name} is {found.word}; its job is cancelled by that event (`stepforge finetune list --shared`)"
    emit(_plain(client, found), as_json=as_json, text=text + fake_in(client.connection.name))


def _plain(client: Client, execution: Execution) -> dict[str, Any]:
    is_fake = client.connection.name == LOCAL
    return {"name": execution.name, "status": execution.status, "local_fake": is_fake}


# ── Comparing ────────────────────────────────────────────────────────────────────────────────────


def compare(client: Client, challenger: str, champion: str, *, as_json: bool) -> None:
    sides = [client.registry.get(reference) for reference in (challenger, champion)]
    reports = [_report(client, package) for package in sides]
    verdict = champion_compare(reports[0], reports[1], champion_arn=sides[1].arn)
    cells = [{(s.split, s.decoding): s.value for s in report.scores if s.metric == "accepted"} for report in reports]
    rows = [
        ("from", *map(_where, sides)),
        ("cost, USD", *(_lineage(side, "external_cost_usd") for side in sides)),
        *((f"{split} {decoding}", *(_interval(cell.get((split, decoding))) for cell in cells))
          for split, decoding in dict.fromkeys([*cells[0], *cells[1]])),
    ]  # fmt: skip
    better = "is better" if verdict.better else "is not better"
    lines = columns(["ACCEPTED", *(side.reference for side in sides)], rows)
    lines += [f"{sides[0].reference} {better} than {sides[1].reference}: {'; '.join(verdict.reasons)}"]
    plain = {"challenger": sides[0].reference, "champion": sides[1].reference, **verdict.model_dump(mode="json")}
    emit({**plain, "from": [_where(side) for side in sides]}, as_json=as_json, text="\n".join(lines))


def _report(client: Client, package: Package) -> EvaluationReport:
    found = client.registry.evaluation(package)
    if found is None:
        raise InvalidInput(f"{package.reference} has no evaluation: it was not registered by stepforge")
    return found


def _where(package: Package) -> str:
    lineage = ExternalLineage.of(package.metadata)
    if lineage is None:
        return "our own weights"
    fake = " [local fake]" if lineage.external_local_fake == "yes" else ""
    return f"{lineage.external_provider}: {lineage.external_base}{fake}"


def _lineage(package: Package, name: str) -> str:
    return package.metadata.get(name, "see `stepforge costs`")


def _interval(value: Any) -> str:
    return "-" if value is None else f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


# ── Measured against predicted ───────────────────────────────────────────────────────────────────


def outcome(
    verdict: Path,
    *,
    arm: str | None,
    tuned: str,
    base: str,
    cost_usd: float | None,
    experience: Path,
    env: str,
    as_json: bool,
) -> None:
    decision = read_verdict(verdict)
    chosen = arm or decision.arm
    if chosen is None:
        raise InvalidInput(f"the verdict {str(verdict)!r} chose no arm: say which one was made, with --arm")
    theirs, booked = scores_of(tuned, lambda: Client(env).connection)
    scores, base_scores = paired(theirs, scores_of(base, lambda: Client(env).connection)[0])
    fake = any(is_fake(side, lambda: Client(env).connection) for side in (tuned, base))
    found = measured(
        decision,
        chosen,
        scores=scores,
        base_scores=base_scores,
        fixed_usd=booked if cost_usd is None else cost_usd,
        local_fake=fake,
    )
    known = Experience.read(experience)
    learned = known.adding(found)
    learned.write(experience)
    before, after = known.prior(found.method), learned.prior(found.method)
    text = [
        found.sentence + "  [local fake: nothing was trained, and nothing is learnt from it]" * fake,
        f"what is expected of the next {found.method}: {before.mean:+.3f} (sd {before.sd:.3f}) before, "
        f"{after.mean:+.3f} (sd {after.sd:.3f}) now; {len(learned.outcomes)} outcomes in {experience}",
    ]
    prior = {"before": before.model_dump(), "after": after.model_dump()}
    emit({**found.model_dump(mode="json"), "prior": prior}, as_json=as_json, text="\n".join(text))


def read_verdict(path: Path) -> Decision:
    """What `finetune decide --json` printed. Raises InvalidInput."""
    try:
        return Decision.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InvalidInput(
            f"{str(path)!r} is no verdict ({first}): `finetune decide QUESTION --json` prints one"
        ) from error
