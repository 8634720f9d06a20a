"""What a command may spend: by its own option, the recipe and the environment, whichever is least."""

from __future__ import annotations

from stepforge.client import Client
from stepforge.plans import Budget, Planner, budget_of
from stepforge.submitting.inputs import Inputs


def allowed(client: Client, recipe_usd: float | None, max_usd: float | None) -> Budget | None:
    return budget_of(
        (max_usd, "--max-usd"),
        (recipe_usd, "the recipe's budget_usd"),
        (client.connection.environment.budget_usd, "the environment's budget-usd"),
    )


def enforce(client: Client, inputs: Inputs) -> None:
    """Refuse a run that is over a budget of the environment or the recipe; nothing is asked where there is none."""
    limit = allowed(client, inputs.recipe.budget_usd, None)
    if limit is not None:
        Planner(client.connection).pipeline(client.bind(inputs, dry_run=True), checks=False).refuse(limit)
