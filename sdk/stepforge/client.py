"""The client: everything that people do with stepforge from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepforge import transfers, user_code
from stepforge.connection import LOCAL, Connection, connect
from stepforge.contracts.manifests import describe_folder
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.jobs import Jobs
from stepforge.models import check_model_folder
from stepforge.pipelines import Pipelines
from stepforge.recipes import Recipe
from stepforge.registry import Registry

if TYPE_CHECKING:
    import boto3


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
        """
        plugin = user_code.plugin_for(recipe.domain, verifier)
        return recipe.pipeline(
            self.connection.environment,
            model=None if model is None else self._upload(check_model_folder(model), "model", progress),
            records=None if data is None else self._upload(user_code.records_folder(data), "records", progress),
            plugin=None if plugin is None else plugin.plugin,
            plugin_code=None if plugin is None else self._upload(plugin.folder, "plugin", progress),
        )

    def _upload(self, folder: Path, kind: Any, progress: transfers.Progress) -> Any:
        return transfers.upload(self.connection, folder, describe_folder(folder, kind), progress=progress)
