"""What ministack lacks or gets wrong, mended. One file a concern; each function says what is wrong upstream.

The mends reach into private places of one version: `check_version` refuses any other.
"""

from __future__ import annotations

import importlib.metadata

VERSION = "1.5.33"


def check_version() -> None:
    """Raises RuntimeError where ministack is not the version that the mends were written against."""
    found = importlib.metadata.version("ministack")
    if found != VERSION:
        raise RuntimeError(
            f"ministack is {found}, but the local AWS mends private parts of {VERSION}: "
            f"install ministack=={VERSION}, or move the mends and run tests/functional/local_aws"
        )
