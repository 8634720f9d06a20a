"""Local servers of providers of paid fine-tunes: HTTP on loopback that the real clients talk to.

They train nothing and charge nothing: every id that they
give out has `localfake` in it, every answer a header `x-stepforge-local-fake`, and every completion says so.
"""

from __future__ import annotations

from stepforge.testing.providers._anthropic import LocalAnthropic
from stepforge.testing.providers._bedrock import LocalBedrock
from stepforge.testing.providers._openai import LocalOpenAI
from stepforge.testing.providers._server import Fault, LocalProvider, Seen
from stepforge.testing.providers._vertex import LocalVertex

__all__ = [
    "Fault",
    "LocalAnthropic",
    "LocalBedrock",
    "LocalOpenAI",
    "LocalProvider",
    "LocalVertex",
    "Seen",
]
