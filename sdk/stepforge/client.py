"""The client: everything that people do with stepforge from Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stepforge import transfers, user_code
from stepforge.connection import LOCAL, Connection, connect
from stepforge.contracts.manifests import ArtifactKind, Manifest, describe_folder
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.user_records import plugin_version
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
        Raises InvalidInput where one of them cannot be used; then nothing was uploaded.
        """
        with tempfile.TemporaryDirectory(prefix="stepforge-") as scratch:
            code = user_code.plugin_for(recipe.domain, verifier, into=Path(scratch) / "plugin")
            manifests: dict[ArtifactKind, tuple[Path, Manifest]] = {}
            if code is not None:
                manifests["plugin"] = code.folder, describe_folder(code.folder, "plugin")
            if data is not None:
                folder = Path(scratch) / "records"
                judge = f"{recipe.domain}@{plugin_version(manifests['plugin'][1].sha256)}" if verifier else None
                recipe = recipe.for_records(
                    user_code.stage_records(data, into=folder, domain=recipe.domain, verifier=judge)
                )
                manifests["records"] = folder, describe_folder(folder, "records")
            if model is not None:
                manifests["model"] = model, describe_folder(check_model_folder(model), "model")
            refs = {
                kind: transfers.upload(self.connection, folder, manifest, progress=progress)
                for kind, (folder, manifest) in manifests.items()
            }
            return recipe.pipeline(
                self.connection.environment,
                model=refs.get("model"),
                records=refs.get("records"),
                plugin=None if code is None else code.plugin,
                plugin_code=refs.get("plugin"),
            )
