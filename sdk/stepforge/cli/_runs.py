"""`stepforge run train`, `stepforge watch` and `stepforge runs`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepforge.cli import _doctor, _follow, _local
from stepforge.cli._output import emit, say, table
from stepforge.cli._progress import duration, show
from stepforge.client import Client
from stepforge.connection import LOCAL, command
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.work import TrainingWork
from stepforge.errors import InvalidInput, RunFailed
from stepforge.following.follow import RunEvent
from stepforge.following.overview import RunSummary
from stepforge.machines.executions import status_word
from stepforge.pipelines import Run
from stepforge.recipes import RECORDS_RECIPE, Recipe, load_recipe, pairs_of, records_domain
from stepforge.submitting.inputs import prepare


def train(
    *,
    domain: str | None,
    data: Path | None,
    verifier: str | None,
    model: Path | None,
    recipe: Path | None,
    overrides: Sequence[str],
    resources: dict[str, Any],
    dry_run: bool,
    wait: bool,
    env: str,
    as_json: bool,
) -> None:
    check_has_model(data, model)
    chosen = chosen_recipe(domain, data=data, verifier=verifier, recipe=recipe, overrides=overrides)
    chosen = chosen.running_on(**resources)
    # A mistake in what was given is told before an environment is started or asked.
    with prepare(chosen, model=model, data=data, verifier=verifier) as inputs:
        client = Client(env)
        if not dry_run:
            from stepforge.cli import _spending

            _spending.enforce(client, inputs)
        spec = client.bind(inputs, dry_run=dry_run)
    if env == LOCAL:
        _doctor.warn()
    if idle := [stage.name for stage in chosen.stages if stage not in spec.stages]:
        say(f"left out: {', '.join(idle)} ({'nothing to read' if data else 'a model is given'})")
    if dry_run:
        _print_plan(client, spec, as_json=as_json)
        return
    run = client.pipelines.start(spec)
    say(f"run {run.name} ({run.execution.status.lower()})")
    if not wait:
        emit({"run": run.name, "status": run.execution.status}, as_json=as_json)
        return
    follow(run, as_json=as_json)


def follow(run: Run, *, as_json: bool) -> None:
    """Show a run until it ends; its result and its scores are the command's."""
    # A plan does not wait for what draws a report.
    from stepforge.cli import _scores

    ended: list[RunEvent] = []
    with _follow.detachable(run.name, run.connection.name):
        show(_follow.keeping_ends(run.follow(), ended), quiet=as_json)
    if run.connection.name == LOCAL and not as_json:
        _local.say_what_stays()
    try:
        result = run.result()
    except RunFailed as error:
        if not as_json:
            raise
        job = ended[-1].data | {"name": ended[-1].job, "stage": ended[-1].stage} if ended else None
        _follow.fail_as_json(error, run=run.name, links=run.links, job=job)
    output = TrainOutput.model_validate(result)
    report = run.evaluation(output)
    document = {
        "run": run.name,
        "status": run.execution.status,
        "result": result,
        "scores": _scores.plain(report),
        "links": run.links,
    }
    name, env = _scores.reference(output.package_arn), run.connection.name
    approval = f"approve it with: {command(f'registry approve {name}', env)}"
    if _scores.solves_nothing(report):
        approval = "it solves none of the held-out problems: train longer, or reject it: " + command(
            f"registry reject {name}", env
        )
    lines = [
        *_scores.lines(report),
        _scores.against_champion(output.comparison),
        f"registered {output.package_arn}",
        f"look at it with: {command(f'registry show {name}', env)}; {approval}",
    ]
    emit(document, as_json=as_json, text="\n".join(lines))


def print_runs(runs: list[RunSummary], *, as_json: bool) -> None:
    emit([dataclasses.asdict(run) | {"started": run.started.isoformat()} for run in runs], as_json=as_json)
    if not as_json:
        table(
            ["RUN", "STATUS", "DOMAIN", "STARTED", "TOOK", f"ACCEPTED % ({', '.join(TEST_SPLITS)}; greedy)"],
            [
                (
                    run.name,
                    status_word(run.status, run.error),
                    run.domain or "?",
                    f"{run.started.astimezone():%Y-%m-%d %H:%M:%S}",
                    duration(run.seconds),
                    ", ".join(f"{run.accepted[s] * 100:.1f}" if s in run.accepted else "-" for s in TEST_SPLITS)
                    if run.accepted
                    else "-",
                )
                for run in runs
            ],
        )


def chosen_recipe(
    domain: str | None,
    *,
    data: Path | None,
    verifier: str | None,
    recipe: Path | None,
    overrides: Sequence[str],
) -> Recipe:
    """The recipe that the options of a command name together. Raises InvalidInput where they contradict each other."""
    if (data is None) != (verifier is None):
        raise InvalidInput("--data and --verifier belong together: records need something that judges their answers")
    if domain is None and data is None and recipe is None:
        raise InvalidInput("give --domain NAME, or --data FILE with --verifier MODULE:FUNCTION")
    pairs = pairs_of(overrides)
    source = recipe or (RECORDS_RECIPE if data is not None else None)
    name = domain or (records_domain(data) if data is not None else "")
    chosen = load_recipe(name, path=source, overrides=pairs)
    if domain is not None and chosen.domain != domain:
        where = f"--set domain={pairs['domain']}" if "domain" in pairs else f"recipe {str(recipe)!r}"
        raise InvalidInput(
            f"--domain {domain!r} contradicts {where}, which says {chosen.domain!r}: leave one of them out"
        )
    return chosen


def check_has_model(data: Path | None, model: Path | None) -> None:
    """Raises InvalidInput where records have no model to train."""
    if data is not None and model is None:
        raise InvalidInput("--data needs --model PATH: your own records bring no base model to start from")


def _print_plan(client: Client, spec: PipelineSpec, *, as_json: bool) -> None:
    jobs = client.pipelines.plan(spec)
    stages = ["dataset", "gate", *(stage.name for stage in spec.stages), "evaluate"]
    plain: dict[str, Any] = {
        "pipeline": spec.identity,
        "jobs": [{"stage": j.stage, "job": j.attempt.name, "status": j.attempt.status} for j in jobs],
        "later": stages[len(jobs) :],
        "settings": {stage.name: stage.model_dump(mode="json") for stage in spec.stages},
        "effective": {stage.name: stage.effective() for stage in spec.stages},
        "cautions": {stage.name: said for stage in spec.stages if (said := stage.cautions())},
    }
    emit(plain, as_json=as_json)
    if not as_json:
        words = {
            "Absent": "will run",
            "Completed": "done, adopted",
            "InProgress": "running, adopted",
            "Failed": "failed, will run again",
            "Stopped": "stopped, will run again",
            "Stopping": "stopping, will run again after that",
        }
        table(
            ["STAGE", "JOB", "STATUS"],
            [
                *((j.stage, j.attempt.name, words.get(j.attempt.status, j.attempt.status)) for j in jobs),
                *((stage, "named by what comes before it", "later") for stage in stages[len(jobs) :]),
            ],
        )
        for stage in spec.stages:
            say(f"{stage.name}: {_settings(stage)}")
            for caution in stage.cautions():
                say(f"{stage.name}: caution: {caution}")


def _settings(stage: TrainingWork) -> str:
    """What a stage is trained with in one line, by the names that `--set` takes; what is off is left out."""
    given = {key: value for key, value in stage.effective().items() if value is not None}
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items())
