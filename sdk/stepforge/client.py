"""The client: everything that people do with stepforge from Python."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stepforge.connection import LOCAL, Connection, connect
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.jobs import Jobs
from stepforge.pipelines import Pipelines
from stepforge.recipes import Recipe, bound_resources
from stepforge.registry import Registry
from stepforge.submitting import transfers
from stepforge.submitting.inputs import Inputs, check_here, check_instances, prepare

if TYPE_CHECKING:
    import boto3

    from stepforge.datasets import Datasets
    from stepforge.evaluations import Evaluations
    from stepforge.secrets import Secrets


class Client:
    """One environment: `Client(environment="local")` needs no account, `Client(environment="dev")` a deployment.

    >>> from stepforge import Client  # doctest: +SKIP
    >>> client = Client(environment="local")  # doctest: +SKIP
    >>> run = client.pipelines.start(client.plan(load_recipe("facial")))  # doctest: +SKIP
    >>> run.wait()["package_arn"]  # doctest: +SKIP
    """

    def __init__(self, environment: str = LOCAL, *, session: boto3.Session | None = None) -> None:
        self.connection: Connection = connect(environment, session=session)
        self.jobs = Jobs(self.connection)
        self.pipelines = Pipelines(self.connection)
        self.registry = Registry(self.connection)

    @cached_property
    def evaluations(self) -> Evaluations:
        """Evaluations by themselves: `client.evaluations.ask("facial/3", on="facial/1")`."""
        from stepforge.evaluations import Evaluations

        return Evaluations(self.connection)

    @cached_property
    def datasets(self) -> Datasets:
        """Datasets in parts."""
        from stepforge.datasets import Datasets

        return Datasets(self.connection)

    @cached_property
    def secrets(self) -> Secrets:
        """Secrets of this environment's account: `client.secrets.get(arn).reveal()`."""
        from stepforge.secrets import Secrets

        return Secrets(self.connection.client("secretsmanager"))

    def plan(
        self,
        recipe: Recipe,
        *,
        model: Path | None = None,
        data: Path | None = None,
        verifier: str | None = None,
        progress: transfers.Progress = lambda *_: None,
    ) -> PipelineSpec:
        """Bind a recipe to this environment; upload the model, the records and the user's code that it names.

        `model` is a Hugging Face directory, `data` a file of records, `verifier` is `package.module:function`.
        Raises InvalidInput where one of them cannot be used; then nothing was uploaded.
        """
        with prepare(recipe, model=model, data=data, verifier=verifier) as inputs:
            return self.bind(inputs, progress=progress)

    def bind(
        self, inputs: Inputs, *, dry_run: bool = False, progress: transfers.Progress = lambda *_: None
    ) -> PipelineSpec:
        """Upload what was prepared, and bind its recipe to this environment. A dry run uploads nothing.

        Raises InvalidInput where this machine, or an instance that it would get, cannot run a stage.
        """
        stages = inputs.recipe.stages_for(given_model="model" in inputs.folders)
        if self.connection.name == LOCAL:
            check_here(stages)
        else:
            check_instances(stages, bound_resources(inputs.recipe.resources, self.connection.environment))
        refs = {}
        for kind, (folder, manifest) in inputs.folders.items():
            if dry_run:
                refs[kind] = transfers.destination(self.connection, manifest)
            else:
                refs[kind] = transfers.upload(self.connection, folder, manifest, progress=progress)
        return inputs.recipe.pipeline(
            self.connection.environment,
            model=refs.get("model"),
            records=refs.get("records"),
            plugin=inputs.plugin,
            plugin_code=refs.get("plugin"),
        )
