"""Datasets in parts, a job each: of what a domain generates, or of files of one's own records."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from stepforge.connection import Connection
from stepforge.contracts.base import first_problem
from stepforge.contracts.jobs import ArtifactRef, Plugin
from stepforge.contracts.manifests import Manifest, describe_folder
from stepforge.contracts.requests import MOST_PARTS, AssemblyOutput, AssemblySpec
from stepforge.contracts.user_records import plugin_version
from stepforge.errors import InvalidInput
from stepforge.following.job_runs import JobRun
from stepforge.installation import user_code
from stepforge.recipes import Recipe, bound_resources, job_image
from stepforge.submitting import started, transfers


@dataclass(frozen=True)
class PartInputs:
    """A recipe whose dataset is made in parts, and what has to be uploaded for it."""

    recipe: Recipe
    parts: int
    plugin: Plugin | None
    code: tuple[Path, Manifest] | None
    """The user's own verifier or domain."""
    sources: tuple[tuple[Path, Manifest], ...]
    """Files of records, a part each; none where the domain generates them."""


@contextmanager
def prepare_parts(
    recipe: Recipe, *, parts: int = 1, data: Sequence[Path] = (), verifier: str | None = None
) -> Iterator[PartInputs]:
    """Check and stage what a dataset is made of; what was staged is gone afterwards.

    `data` are files of records, a part each, and `verifier` is `package.module:function`. Raises InvalidInput where one
    of them cannot be used, or two files hold the same.
    """
    if len(data) > MOST_PARTS:
        raise InvalidInput(f"{len(data)} files of records are too many for one dataset: give {MOST_PARTS} at most")
    if data and parts != 1:
        raise InvalidInput(f"--parts {parts} beside --data: each file of records is a part of its own")
    with tempfile.TemporaryDirectory(prefix="stepforge-") as scratch:
        code = user_code.plugin_for(recipe.domain, verifier, into=Path(scratch) / "plugin")
        plugin = None if code is None else (code.folder, describe_folder(code.folder, "plugin"))
        judge = f"{recipe.domain}@{plugin_version(plugin[1].sha256)}" if plugin is not None and verifier else None
        sources = []
        if data:
            folders = [Path(scratch) / f"records-{number:03d}" for number in range(len(data))]
            user_code.stage_parts(list(zip(data, folders, strict=True)), domain=recipe.domain, verifier=judge)
            sources = [(folder, describe_folder(folder, "records")) for folder in folders]
        yield PartInputs(recipe, parts, None if code is None else code.plugin, plugin, tuple(sources))


class Datasets:
    """Datasets of one environment.

    >>> with prepare_parts(load_recipe("facial"), parts=8) as inputs:  # doctest: +SKIP
    ...     run = client.datasets.start(client.datasets.bind(inputs))
    >>> run.wait().counts  # doctest: +SKIP
    {'corpus': 12000, 'train': 48, 'rl': 600, 'test_known': 200, 'test_new': 200, 'test_retained': 200}
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def bind(
        self, inputs: PartInputs, *, dry_run: bool = False, progress: transfers.Progress = lambda *_: None
    ) -> AssemblySpec:
        """Upload what was prepared, and bind it to this environment. A dry run uploads nothing.

        Raises InvalidInput where it is no dataset, or the environment's image is not pinned.
        """
        environment, recipe = self._connection.environment, inputs.recipe

        def place(source: tuple[Path, Manifest]) -> ArtifactRef:
            if dry_run:
                return transfers.destination(self._connection, source[1])
            return transfers.upload(self._connection, *source, progress=progress)

        plain = {
            "domain": recipe.domain,
            "sources": tuple(map(place, inputs.sources)),
            "generated": None if inputs.sources else recipe.dataset,
            "parts": inputs.parts,
            "shard_rows": recipe.dataset.shard_rows,
            "gate": recipe.gate,
            "plugin": inputs.plugin,
            "plugin_artifact": None if inputs.code is None else place(inputs.code),
            "code": environment.code,
            "image": job_image(environment, "dataset"),
            "resources": bound_resources(recipe.resources, environment),
        }
        try:
            return AssemblySpec.model_validate(plain)
        except ValidationError as error:
            raise InvalidInput(f"dataset of {recipe.domain!r}: {first_problem(error)}") from error

    def start(self, spec: AssemblySpec) -> JobRun[AssemblyOutput, AssemblySpec]:
        """Start it, or adopt what runs or is done."""
        return started.assemble(self._connection, spec)

    def get(self, name: str) -> JobRun[AssemblyOutput, AssemblySpec]:
        """The dataset of this name, such as `dataset-0123456789ab-r0`. Raises UnknownName."""
        return started.find(self._connection, name)
