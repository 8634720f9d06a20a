"""stepforge: train models to take verifiable steps.

`from stepforge import Client`. Importing this package loads neither boto3 nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]

if TYPE_CHECKING:
    from stepforge.client import Client


def __getattr__(name: str) -> object:
    if name == "Client":
        from stepforge.client import Client

        return Client
    raise AttributeError(f"module 'stepforge' has no attribute {name!r}; it has: {', '.join(__all__)}")
