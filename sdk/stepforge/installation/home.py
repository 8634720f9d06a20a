"""Where stepforge keeps what it has on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$STEPFORGE_HOME`, else `$XDG_DATA_HOME/stepforge`, else `~/.local/share/stepforge`."""
    if given := os.environ.get("STEPFORGE_HOME"):
        return Path(given).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "stepforge"
