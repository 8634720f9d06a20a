"""Records: what data is made of, whichever way it was made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract, Sha256

Source = Literal["template", "procedural", "llm", "user"]
Tier = Literal["public", "reviewed", "trusted"]
Stratum = Literal["target", "retained"]
Split = Literal["corpus", "train", "rl", "test_known", "test_new", "test_retained"]
SPLITS: tuple[Split, ...] = ("corpus", "train", "rl", "test_known", "test_new", "test_retained")
TEST_SPLITS: tuple[Split, ...] = ("test_known", "test_new", "test_retained")


class Step(Contract):
    """One action of an expert, with the reason for it."""

    action: Annotated[str, Field(min_length=1)]
    """The text that a policy has to produce for this step, its terminator included."""
    title: str = ""
    thought: str = ""
    """Why the expert does it. Never part of the similarity reward."""
    observation: str = ""
    """What came of the action, such as a command's output: seen before later steps in SRL, never produced."""


class Provenance(Contract):
    """Where a record comes from. What is derived is never more trusted than its least trusted parent."""

    tier: Tier = "public"
    generator: str
    """Name and version of what made the record, such as `facial.expert@1`."""
    sha256: Sha256 | None = None
    """Digest of the source bytes where the record was read from a file."""
    parents: tuple[str, ...] = ()
    seed: int | None = None


class Record(Contract):
    """One problem with, where an expert solved it, the steps of the solution.

    >>> Record(id="r1", domain="demo", prompt="1 + 1 =", answer="2", split="rl", group="sum",
    ...        source="template", verifier="demo@1", provenance=Provenance(generator="demo@1")).steps
    ()
    """

    id: Annotated[str, Field(min_length=1, max_length=128)]
    domain: Annotated[str, Field(min_length=1, max_length=64)]
    source: Source
    split: Split
    """`corpus`: what a base model has read. `train`: expert trajectories. `rl`: problems with a verifier alone.
    `test_known`: new problems of known kinds, `test_new`: new kinds, `test_retained`: what the base already solves."""
    stratum: Stratum = "target"
    """`retained` marks what the base model already solves and must not lose."""
    group: Annotated[str, Field(min_length=1, max_length=256)]
    """The unit of splitting: records of one group never stand on both sides of train and test."""
    prompt: Annotated[str, Field(min_length=1)]
    steps: tuple[Step, ...] = ()
    scenario: dict[str, Any] = {}
    """The structured problem that the verifier reads."""
    artifact: dict[str, Any] | None = None
    """The full structured solution, where the domain has one."""
    answer: str | None = None
    verifier: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+@[A-Za-z0-9_.-]+$")]
    """`name@version` of what decides whether a completion is right."""
    provenance: Provenance

    @model_validator(mode="after")
    def _expert_splits_have_steps(self) -> Record:
        if self.split in ("corpus", "train") and not self.steps:
            raise ValueError(
                f"split {self.split!r} needs steps; give steps, or use split 'rl' for a problem without them"
            )
        return self

    def context(self, step: int) -> str:
        """What a policy sees before step `step` (0-based): the prompt and the expert's steps before it, a line each.

        `context(len(steps))` is the prompt with the whole solution; `context(0)` the prompt alone.
        """
        return "\n".join([self.prompt, *(s.action for s in self.steps[:step])]) + "\n"

    @property
    def solution(self) -> str:
        """The whole expert trajectory as text, a line for each step: `context(0) + solution` is what SFT reads."""
        return "\n".join(step.action for step in self.steps)
