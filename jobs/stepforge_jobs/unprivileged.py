"""Give up root before a job reads anything that others wrote.

SageMaker starts a container as root and mounts /opt/ml for root, so that an image with a USER of its own cannot write
its model. The entry points call `drop_root` first: what a job writes is given to the user of STEPFORGE_RUN_AS, and the
process becomes that user for good. Outside a container, where SAGEMAKER_BASE_DIR names a folder, nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stepforge.errors import InvalidInput

RUN_AS = "STEPFORGE_RUN_AS"
WRITTEN = ("model", "output", "checkpoints")
"""Folders of /opt/ml that a job writes into. What it reads is left as it is mounted."""


def drop_root(base: Path | None = None, *, written: Sequence[str] = WRITTEN) -> bool:
    """Become the user of STEPFORGE_RUN_AS where this is root in a container. Returns whether that was done.

    `base` is /opt/ml. Raises InvalidInput for a variable that is no user's number.
    """
    given = os.environ.get(RUN_AS)
    if given is None or os.geteuid() != 0 or (base is None and "SAGEMAKER_BASE_DIR" in os.environ):
        return False
    if not given.isdigit() or int(given) == 0:
        raise InvalidInput(f"{RUN_AS}={given!r} must be the number of a user that is not root, such as 10001")
    user = int(given)
    folder = base or Path("/opt/ml")
    for name in written:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in (folder / name, *(folder / name).rglob("*")):
            # Not what a link points at: it may lead out of the job's folders.
            os.chown(path, user, user, follow_symlinks=False)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    return True
