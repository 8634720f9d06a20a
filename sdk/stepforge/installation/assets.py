"""Where the machines, handlers and images lie: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import stepforge
from stepforge.errors import EnvironmentUnavailable

Asset = Literal["statemachines", "lambdas", "containers"]


def folder(name: Asset) -> Path:
    """The folder `name`: of the repository where this runs from a checkout, else of the installed `stepforge/_bundle`.

    Raises EnvironmentUnavailable where the distribution came without it.
    """
    package = Path(stepforge.__file__).resolve().parent
    checkout = package.parent.parent / name
    # An installed package has no pyproject.toml two folders above: a stray `lambdas` in site-packages is not ours.
    if checkout.is_dir() and (package.parent.parent / "pyproject.toml").is_file():
        return checkout
    bundled = package / "_bundle" / name
    if bundled.is_dir():
        return bundled
    raise EnvironmentUnavailable(f"{name!r} lies neither at {checkout} nor at {bundled}: install stepforge again")
