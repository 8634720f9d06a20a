"""`stepforge run evaluate` and `stepforge run dataset`, and how their runs are followed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepforge.cli import _doctor, _follow, _local, _plan, _runs
from stepforge.cli._output import columns, emit, say
from stepforge.cli._progress import show
from stepforge.client import Client
from stepforge.connection import LOCAL, command
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.requests import AssemblyOutput, EvaluateOutput
from stepforge.datasets import prepare_parts
from stepforge.errors import RunFailed
from stepforge.evaluations import Against
from stepforge.following.job_runs import JobRun
from stepforge.plans import Planner
from stepforge.recipes import pairs_of
from stepforge.submitting.started import find

_SHOWN = 12
"""Jobs of a plan; the others are counted."""


def evaluate(
    client: Client,
    model: str,
    *,
    on: str | None,
    overrides: Sequence[str],
    compare: bool,
    resources: dict[str, Any],
    max_usd: float | None,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    asked = client.evaluations.ask(model, on=on, overrides=pairs_of(overrides), **resources)
    against = client.evaluations.against(asked) if compare else Against()
    specs = {"evaluate": asked.spec} | ({} if against.spec is None else {"champion": against.spec})
    planned = Planner(client.connection).evaluations(specs, checks=dry_run)
    if not _plan.agree(client, planned, max_usd=max_usd, dry_run=dry_run, as_json=as_json, shown=_SHOWN):
        return
    _warn(client)
    run = client.evaluations.start(asked)
    say(f"run {run.name} ({run.execution.status.lower()}): {asked.subject.name} on {asked.held.name}")
    champion = None
    if against.spec is not None:
        champion = client.evaluations.start(against.spec)
        say(f"run {champion.name} ({champion.execution.status.lower()}): the champion, which was not asked these yet")
    if not wait:
        plain = {"run": run.name, "status": run.execution.status, "champion_run": champion and champion.name}
        emit(plain, as_json=as_json)
        return
    _show(run, as_json=as_json)
    output = _ended(run, as_json=as_json)
    comparison = _compared(client, output, against, champion, as_json=as_json) if compare else None
    _say_what_stays(client, as_json=as_json)
    about = {"model": asked.subject.name, "data": asked.held.name}
    more = {"champion_run": champion and champion.name}
    _print_scores(client, run, output, comparison, as_json=as_json, **about, **more)


def _compared(
    client: Client,
    output: EvaluateOutput,
    against: Against,
    champion: JobRun[EvaluateOutput, Any] | None,
    *,
    as_json: bool,
) -> Comparison:
    """A champion that could not be asked is compared by the evaluation that it has, and the reasons say so."""
    if champion is None:
        return client.evaluations.compare(output, against)
    _show(champion, as_json=as_json)
    try:
        theirs = champion.result()
    except RunFailed as error:
        found = client.evaluations.compare(output, against)
        reasons = (f"the champion could not be evaluated on this test data: {error}", *found.reasons)
        return found.model_copy(update={"reasons": reasons})
    return client.evaluations.compare(output, against, theirs)


def dataset(
    env: str,
    *,
    domain: str | None,
    parts: int,
    data: Sequence[Path],
    verifier: str | None,
    recipe: Path | None,
    overrides: Sequence[str],
    resources: dict[str, Any],
    max_usd: float | None,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    chosen = _runs.chosen_recipe(
        domain, data=data[0] if data else None, verifier=verifier, recipe=recipe, overrides=overrides
    ).running_on(**resources)
    # A mistake in what was given is told before an environment is started or asked.
    with prepare_parts(chosen, parts=parts, data=data, verifier=verifier) as inputs:
        client = Client(env)
        planned = Planner(client.connection).assembly(client.datasets.bind(inputs, dry_run=True), checks=dry_run)
        budget = chosen.budget_usd
        agreed = _plan.agree(
            client, planned, max_usd=max_usd, recipe_usd=budget, dry_run=dry_run, as_json=as_json, shown=_SHOWN
        )
        if not agreed:
            return
        _warn(client)
        run = client.datasets.start(client.datasets.bind(inputs))
    say(f"run {run.name} ({run.execution.status.lower()})")
    if not wait:
        emit({"run": run.name, "status": run.execution.status}, as_json=as_json)
        return
    _show(run, as_json=as_json)
    output = _ended(run, as_json=as_json)
    _say_what_stays(client, as_json=as_json)
    _print_dataset(run, output, as_json=as_json)


def watch(client: Client, name: str, *, as_json: bool) -> None:
    """Follow a run of either machine by its name; its result is the command's."""
    run = find(client.connection, name)
    _show(run, as_json=as_json)
    output = _ended(run, as_json=as_json)
    if run.machine == "dataset":
        _print_dataset(run, output, as_json=as_json)
    else:
        _print_scores(client, run, output, None, as_json=as_json)


def _show(run: JobRun[Any, Any], *, as_json: bool) -> None:
    with _follow.detachable(run.name, run.connection.name):
        show(run.follow(), quiet=as_json)


def _ended(run: JobRun[Any, Any], *, as_json: bool) -> Any:
    try:
        return run.result()
    except RunFailed as error:
        if not as_json:
            raise
        _follow.fail_as_json(error, run=run.name, links=run.links)


def _print_scores(
    client: Client,
    run: JobRun[EvaluateOutput, Any],
    output: EvaluateOutput,
    comparison: Comparison | None,
    *,
    as_json: bool,
    **about: Any,
) -> None:
    from stepforge.cli import _scores

    report: EvaluationReport = client.evaluations.report(output)
    document = {
        "run": run.name,
        "status": run.execution.status,
        **about,
        "result": output.model_dump(mode="json"),
        "scores": _scores.plain(report),
        "comparison": None if comparison is None else comparison.model_dump(mode="json"),
        "links": run.links,
    }
    lines = [
        *_scores.lines(report),
        *([] if comparison is None else [_scores.against_champion(comparison)]),
        f"every answer: {output.evaluation.artifact.uri}rows.ndjson",
    ]
    emit(document, as_json=as_json, text="\n".join(lines))


def _print_dataset(run: JobRun[AssemblyOutput, Any], output: AssemblyOutput, *, as_json: bool) -> None:
    document = {
        "run": run.name,
        "status": run.execution.status,
        "result": output.model_dump(mode="json"),
        "links": run.links,
    }
    rows = [(split, f"{count:,}") for split, count in output.counts.items()]
    lines = [
        *columns(["SPLIT", "RECORDS"], rows),
        f"dataset {output.dataset.sha256[:12]}, which passed its gate: {output.dataset.uri}",
        f"score a model on it with: {command(f'run evaluate MODEL --on {run.name}', run.connection.name)}",
    ]
    emit(document, as_json=as_json, text="\n".join(lines))


def _warn(client: Client) -> None:
    if client.connection.name == LOCAL:
        _doctor.warn()


def _say_what_stays(client: Client, *, as_json: bool) -> None:
    if client.connection.name == LOCAL and not as_json:
        _local.say_what_stays()
