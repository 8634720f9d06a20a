"""How a new definition of a machine takes over: the share of executions that it gets, and for how long.

Not covered: the handlers. A machine of either version calls the code that was deployed last.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Gradual(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    type: Literal["CANARY", "LINEAR", "ALL_AT_ONCE"] = "CANARY"
    """`CANARY`: a share first, then all. `LINEAR`: the share again and again. A deployment waits for either, and only
    where a definition changed. Whatever the type, an execution ends as the version that it began with."""
    minutes: Annotated[int, Field(ge=1, le=2_100)] = 10
    """Between two steps. An execution that fails meanwhile, for whatever reason, rolls the deployment back."""
    percent: Annotated[int, Field(ge=1, le=99)] = 10
    """Of new executions, each by chance, that a step adds to the new version."""
