"""Puts every mend in its place. Import and call once, before the backend serves."""

from __future__ import annotations

from stepforge.local.backend import (
    delivery,
    encryption,
    executions,
    functions,
    kinds,
    objects,
    paths,
    recorded,
    secrets,
    stacks,
    tasks,
    versions,
)
from stepforge.local.backend.checkpoints import Checkpoints
from stepforge.local.state import Layout


def install(layout: Layout) -> Checkpoints:
    for mend in (tasks, paths, executions, delivery, encryption, secrets, stacks, objects, kinds, recorded, versions):
        mend.install()
    functions.install(layout.access_key())
    return Checkpoints()
