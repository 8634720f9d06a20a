"""Small real classes that stand in for the cloud in tests: yours and ours.

The local providers are HTTP servers on loopback that the real clients talk to. They train nothing: every id that they
give out has `localfake` in it, every answer a header `x-stepforge-local-fake`, and every completion says so.
"""

from __future__ import annotations

from stepforge.testing._anthropic import LocalAnthropic
from stepforge.testing._bedrock import LocalBedrock
from stepforge.testing._openai import LocalOpenAI
from stepforge.testing._server import Fault, LocalProvider, Seen
from stepforge.testing._step_functions import FakeStepFunctions
from stepforge.testing._vertex import LocalVertex

__all__ = [
    "FakeStepFunctions",
    "Fault",
    "LocalAnthropic",
    "LocalBedrock",
    "LocalOpenAI",
    "LocalProvider",
    "LocalVertex",
    "Seen",
]
