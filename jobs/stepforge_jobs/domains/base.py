"""What a domain is: problems, an expert, and rules that decide whether an answer is right.

An algorithm never names a domain and a domain never names an algorithm. A new domain is one folder with a `DOMAIN`,
one line in `DOMAINS`, or a package with an entry point in the group `stepforge.domains`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from stepforge.contracts.records import Record, Split
from stepforge.contracts.rewards import Verdict


@runtime_checkable
class Domain(Protocol):
    """Everything here is a pure function of its arguments: shards of a dataset are made independently of each other."""

    name: str
    version: str
    """Part of `Record.verifier` as `name@version`: a rule that changes raises it."""
    vocabulary: tuple[str, ...]
    """Whitespace-separated words of prompts and steps, for a model that starts from scratch."""
    step_end: str | None
    """The word that ends a step, where the grammar has one."""

    def size(self, split: Split) -> int | None:
        """How many different records a split has; None where there is no end to them."""
        ...

    def record(self, split: Split, index: int, *, seed: int) -> Record:
        """The record at `index` of a split. Raises IndexError beyond `size`."""
        ...

    def verify(self, record: Record, completion: str) -> Verdict:
        """Judge a completion. What cannot be read scores 0 with a reason; nothing is raised for bad text."""
        ...


@runtime_checkable
class Askable(Protocol):
    """A domain whose prompt says the whole problem: an endpoint judges its answers, and refuses what is no prompt."""

    def scenario(self, prompt: str) -> dict[str, Any]:
        """`Record.scenario` of the problem that a prompt means.

        Raises ValueError where it means none: what is wrong, an example, and the words that a prompt may have.
        """
        ...

    def describe(self, record: Record, completion: str) -> str:
        """Problem and completion in words, lines for people; of a completion that cannot be read, what can be."""
        ...


@runtime_checkable
class Previewable(Protocol):
    """A domain whose artifacts people would rather look at than read."""

    def preview(self, record: Record, completion: str) -> str:
        """A self-contained HTML fragment. A completion that cannot be read is shown with the reason."""
        ...


@runtime_checkable
class Exportable(Protocol):
    """A domain whose artifacts go into game engines."""

    export_formats: tuple[str, ...]

    def export(self, record: Record, completion: str, *, format: str) -> str:
        """Raises ValueError where the completion is refused or the format is unknown."""
        ...
