"""Commands about what jobs will do and cost, and did. As in `_app`, imports of what they call stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stepforge.cli._options import Data, Domain, MaxUsd, Model, RecipeFile, Set, Verifier
from stepforge.cli._output import Env, Json

prices_app = typer.Typer(help="Training prices, dated: list, refresh, set, withdraw.", no_args_is_help=True)
jobs_app = typer.Typer(help="Single jobs.", no_args_is_help=True)

JobFile = Annotated[Path | None, typer.Option(help="One job by itself: a JobSpec as JSON, and its resources.")]
Checks = Annotated[bool, typer.Option("--checks/--no-checks", help="Ask AWS about quotas and permissions.")]
Region = Annotated[str | None, typer.Option(help="Instead of the environment's.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
By = Literal["domain", "type", "day", "run"]


def plan(
    domain: Domain = None,
    data: Data = None,
    verifier: Verifier = None,
    model: Model = None,
    recipe: RecipeFile = None,
    set_: Set = None,
    job: JobFile = None,
    max_usd: MaxUsd = None,
    checks: Checks = True,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Show what `submit` would do: jobs, the difference from the last run, time, cost, quotas, rights, mistakes.

    Nothing is changed, started or uploaded.
    """
    from stepforge.cli import _plan

    given = _plan.Given(domain, data, verifier, model, recipe, tuple(set_ or ()), job, max_usd, checks, env)
    _plan.plan(given, as_json=json)


def submit(
    domain: Domain = None,
    data: Data = None,
    verifier: Verifier = None,
    model: Model = None,
    recipe: RecipeFile = None,
    set_: Set = None,
    job: JobFile = None,
    max_usd: MaxUsd = None,
    checks: Checks = True,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option(help="Print the requests of CreateTrainingJob as JSON, and stop.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Follow it, or return once it is submitted.")] = True,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Plan, ask, and do it. Refused before anything is sent: over the budget, a price unknown, a value not allowed.

    Run it again and everything that is done is adopted. Where nobody can answer, as in CI, give --yes.
    """
    from stepforge.cli import _plan

    given = _plan.Given(domain, data, verifier, model, recipe, tuple(set_ or ()), job, max_usd, checks, env)
    _plan.submit(given, yes=yes, dry_run=dry_run, wait=wait, as_json=json)


def costs(
    by: Annotated[By, typer.Option(help="What the sums are of.")] = "domain",
    since: Annotated[str | None, typer.Option(help="Only jobs that ended from this day on (UTC): 2026-10-01.")] = None,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Tell what jobs did cost, failed ones too. What cannot be priced is listed apart, and is not zero.

    Ends that nobody booked are booked first. In the local environment it is what the same jobs would cost on AWS.
    """
    from stepforge.cli import _costs
    from stepforge.client import Client

    _costs.print_costs(Client(env), by=by, since=since, as_json=json)


def compare(
    first: Annotated[str, typer.Argument(help="Run, latest, or a domain for its newest run.")],
    second: Annotated[str, typer.Argument(help="Run, latest, or a domain for its newest run.")],
    env: Env = "local",
    json: Json = False,
) -> None:
    """Compare two runs: what differs in their specs, their held-out scores, their cost and time."""
    from stepforge.cli import _compare
    from stepforge.client import Client

    _compare.compare(Client(env), first, second, as_json=json)


@jobs_app.command("describe")
def jobs_describe(
    name: Annotated[str, typer.Argument(help="Job, such as rlvr-0123456789ab-a0.")],
    env: Env = "local",
    json: Json = False,
) -> None:
    """Describe one job: status, spec, machine, times, cost, tags."""
    from stepforge.cli import _compare
    from stepforge.client import Client

    _compare.describe_job(Client(env), name, as_json=json)


@prices_app.command("list")
def prices_list(
    instance: Annotated[str | None, typer.Argument(help="Only this instance type.")] = None,
    region: Region = None,
    env: Env = "local",
    json: Json = False,
) -> None:
    """List the training prices of a region, each with its date, source and confidence."""
    from stepforge.cli import _costs
    from stepforge.client import Client

    _costs.print_prices(Client(env), instance=instance, region=region, as_json=json)


@prices_app.command("refresh")
def prices_refresh(region: Region = None, env: Env = "local", json: Json = False) -> None:
    """Read the prices from AWS's price list into the environment. Older rows stay, for what was paid then."""
    from stepforge.cli import _costs
    from stepforge.client import Client

    _costs.refresh_prices(Client(env), region=region, as_json=json)


@prices_app.command("set")
def prices_set(
    instance: Annotated[str, typer.Argument(help="Instance type, such as ml.g5.xlarge.")],
    usd: Annotated[float, typer.Argument(help="US dollars an hour.")],
    region: Region = None,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Give a price: one that is not known, or that a contract of yours makes another."""
    from stepforge.cli import _costs
    from stepforge.client import Client

    _costs.set_price(Client(env), instance, usd, region=region, as_json=json)


@prices_app.command("withdraw")
def prices_withdraw(
    instance: Annotated[str, typer.Argument(help="Instance type, such as ml.g5.xlarge.")],
    region: Region = None,
    env: Env = "local",
    json: Json = False,
) -> None:
    """Withdraw a price that was given, from today on: that of AWS's list holds again."""
    from stepforge.cli import _costs
    from stepforge.client import Client

    _costs.withdraw_price(Client(env), instance, region=region, as_json=json)


def add_plan_commands(app: typer.Typer) -> None:
    for command in (plan, submit, costs, compare):
        app.command(command.__name__)(command)
    app.add_typer(jobs_app, name="jobs")
    app.add_typer(prices_app, name="prices")
