"""All commands. Imports of what they call stand inside them, so that `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepforge.cli._approvals_app import approvals_app
from stepforge.cli._decide_app import add_decide_commands
from stepforge.cli._examples import add_examples
from stepforge.cli._local_app import local_app
from stepforge.cli._output import Env, Json, emit, print_lines, say
from stepforge.cli._plans_app import add_plan_commands
from stepforge.cli._registry_app import registry_app
from stepforge.cli._run_app import run_app

app = typer.Typer(
    name="stepforge",
    help="Train models to take verifiable steps: expert trajectories, SRL, RLVR, gated promotion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
new_app = typer.Typer(help="Write the beginning of something new.", no_args_is_help=True)
app.add_typer(run_app, name="run")
app.add_typer(registry_app, name="registry")
app.add_typer(approvals_app, name="approvals")
app.add_typer(local_app, name="local")
app.add_typer(new_app, name="new")


def _print_version(given: bool) -> None:
    if given:
        from stepforge import __version__

        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(envvar="STEPFORGE_LOG", help="Log to stderr as JSON lines: DEBUG, INFO..."),
    ] = None,
) -> None:
    if log_level:
        from stepforge import logs

        logs.configure("stepforge.cli", level=log_level, sink="stderr")


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────


@app.command("runs")
def runs(
    most: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    env: Env = "local",
    json: Json = False,
) -> None:
    """List runs, newest first: domain, duration, and how often the model's greedy answers are accepted."""
    from stepforge.cli import _runs
    from stepforge.client import Client

    _runs.print_runs(Client(env).pipelines.overview(most=most), as_json=json)


@app.command("watch")
def watch(
    name: Annotated[str, typer.Argument(help="Run, job, latest, or a domain for its newest run.")] = "latest",
    env: Env = "local",
    json: Json = False,
) -> None:
    """Follow a run or a job until it ends. Ctrl-C detaches: what is followed goes on.

    The exit code tells the endings apart: docs/following.md.
    """
    from stepforge.cli import _follow, _job_runs, _runs
    from stepforge.client import Client
    from stepforge.submitting.started import is_job_run

    client = Client(env)
    if _follow.is_job(name):
        _follow.follow_job(client, name, as_json=json)
    elif is_job_run(name):
        _job_runs.watch(client, name, as_json=json)
    else:
        _runs.follow(client.pipelines.get(name), as_json=json)


@app.command("logs")
def logs(
    name: Annotated[str, typer.Argument(help="Job or run.")] = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Print a job's log, or that of a run's newest job; with --json the lines as the job printed them."""
    from stepforge.cli import _follow, _stop
    from stepforge.cli._progress import log_lines
    from stepforge.client import Client

    client = Client(env)
    job = _stop.run_of(client, name).jobs()[-1].attempt.name if _stop.is_run(client, name) else name
    lines = client.jobs.logs(job, follow=follow)
    with _follow.detachable(job, env):
        print_lines((line.text for line in lines) if json else log_lines(lines), as_json=json, job=job)


@app.command("stop")
def stop(name: Annotated[str, typer.Argument(help="Run or job.")], env: Env = "local", json: Json = False) -> None:
    """Stop a run and the job that it waits for, or one job. What was trained so far stays in its checkpoint.

    A job that another run waits for too is left to that run. What has ended already stays as it is.
    """
    from stepforge.cli import _stop
    from stepforge.client import Client

    _stop.stop(Client(env), name, as_json=json)


@app.command("report")
def report(
    name: Annotated[str, typer.Argument(help="Run, latest, or a domain for its newest run.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Write a run's report: one HTML file that needs nothing else."""
    import webbrowser

    from stepforge.client import Client
    from stepforge.report import check_target, write_report

    if out is not None:
        check_target(out)
    run = Client(env).pipelines.get(name)
    path = write_report(run, out or Path(f"{run.name}.html"))
    emit({"report": str(path)}, as_json=json, text=f"report: {path}")
    if open_ and not webbrowser.open(path.resolve().as_uri()):
        say(f"no browser was found here: open {path.resolve().as_uri()} in one")


@app.command("track")
def track(
    name: Annotated[str, typer.Argument(help="Run, latest, or a domain for its newest run.")] = "latest",
    to: Annotated[
        str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow's tracking URI, or MLFLOW_TRACKING_URI.")
    ] = "sqlite:///mlflow.db",
    env: Env = "local",
    json: Json = False,
) -> None:
    """Send the metrics of a run's finished stages to MLflow. Run it again and only what is new is sent."""
    from stepforge.client import Client
    from stepforge.tracking.runs import track_run

    sent = track_run(Client(env).pipelines.get(name), to)
    said = ", ".join(f"{stage}: {count}" for stage, count in sent.items()) or "no stage has finished yet"
    emit({"tracking_uri": to, "sent": sent}, as_json=json, text=f"metrics sent to {to}: {said}")


@app.command("policy")
def policy(
    job: Annotated[str, typer.Argument(help="A job that was submitted, such as rlvr-0123456789ab-a0.")],
    env: Env = "local",
    json: Json = False,
) -> None:
    """Print the IAM policy that this job's role needs: its inputs, outputs, keys, log and image, and no more."""
    from json import dumps

    from stepforge.client import Client
    from stepforge.submitting.job_policy import job_policy

    client = Client(env)
    described = client.jobs.get(job)
    _, _, _, region, account, _ = described["TrainingJobArn"].split(":", 5)
    key = client.connection.environment.key_arn
    found = job_policy(described, region=region, account=account, environment_key=key)
    emit(found, as_json=json, text=dumps(found, indent=2))


@app.command("gc")
def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without, nothing is changed.")] = False,
    keep_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Keep what a run refers to so long after its end.")
    ] = 30,
    env: Env = "local",
    json: Json = False,
) -> None:
    """List what nobody needs any more, with sizes and reasons: checkpoints of finished jobs, failed attempts and so on.

    Never what a registered version came from, or what a run that is under way refers to.
    """
    from stepforge.cli import _gc
    from stepforge.client import Client

    _gc.gc(Client(env), apply=apply, keep_days=keep_days, as_json=json)


@app.command("predict")
def predict(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, each one argument.")] = None,
    domain: Annotated[str, typer.Option(help="Domain whose promoted model answers.")] = "facial",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    export: Annotated[
        str | None, typer.Option(help="Also a file in this format: arkit-json, livelink-csv, openxr-json.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is exported.")] = Path("out"),
    env: Env = "local",
    json: Json = False,
) -> None:
    """Ask the promoted model, and see whether the rules accept its answer.

    Without prompts it is asked three held-out ones from its evaluation.

    A prompt of the facial domain is one word of each group, in this order:
    feel:EMOTION, with:EMOTION or with:nothing, level1 to level5,
    felt or amplified or deamplified or simulated or masked,
    sudden or gradual, arkit or openxr, and a colon.
    EMOTION: happiness, sadness, surprise, fear, anger, disgust, contempt.
    """
    from stepforge.cli import _predict
    from stepforge.client import Client

    _predict.predict(
        Client(env), domain, prompts or [], temperature=temperature, seed=seed, export=export, out=out, as_json=json
    )


@new_app.command("domain")
def new_domain(
    name: Annotated[str, typer.Argument(help="Name of the domain: letters, digits, underscores.")],
    out: Annotated[Path, typer.Option(help="Folder in which the package is made.")] = Path("."),
    json: Json = False,
) -> None:
    """Write a domain that passes its own tests, for you to fill."""
    from stepforge.scaffold import write_domain

    folder = write_domain(name, out)
    lines = [
        f"domain: {folder} (read its README.md)",
        "go on with:",
        f"  cd {folder}",
        "  pip install --no-deps -e .",
        "  python -m pytest",
        f"  stepforge run train --domain {name}",
    ]
    emit({"folder": str(folder), "next": [line.strip() for line in lines[2:]]}, as_json=json, text="\n".join(lines))


@app.command("doctor")
def doctor(json: Json = False) -> None:
    """Tell which optional parts work here, what is lost without the others, and which command mends that.

    Then compare what is installed with the versions that the digests of jobs stand for; exit code 3 where they differ.
    """
    from stepforge.cli import _doctor

    _doctor.doctor(as_json=json)


add_plan_commands(app)
add_decide_commands(app)
add_examples(app)
