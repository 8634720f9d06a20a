"""Which instance types the local AWS says it has none of, so that what a program does then can be tried.

`stepforge local capacity ml.g5.xlarge --none`, and `--some` to end it. Every type is there at first.
"""

from __future__ import annotations

import json
from pathlib import Path

from stepforge.installation.home import home
from stepforge.local.state import Layout, locked, write_private
from stepforge.submitting.instances import check_known

REFUSAL = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
"""In SageMaker's words: https://repost.aws/knowledge-center/sagemaker-insufficient-capacity-error"""


def missing_types(layout: Layout) -> frozenset[str]:
    """The instance types of which there are none."""
    try:
        return frozenset(json.loads(layout.capacity_file.read_text()))
    except FileNotFoundError:
        return frozenset()


def set_capacity(instance_type: str, *, available: bool, base: Path | None = None) -> None:
    """Let there be instances of a type, or none. A running server sees it at once; jobs that run go on.

    Raises UnknownName for a type that no training job can have.
    """
    if not available:
        check_known(instance_type)
    layout = Layout.of(base or home())
    layout.create()
    with locked(layout.root / "capacity.lock"):
        found = set(missing_types(layout)) - {instance_type}
        write_private(layout.capacity_file, sorted(found if available else found | {instance_type}))
