"""Faces: from emotions, a display rule and a rig to action units, blendshapes and their timing."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from stepforge.contracts.domains.facial import FacialArtifact, FacialScenario
from stepforge.contracts.records import Provenance, Record, Split
from stepforge.contracts.rewards import Verdict
from stepforge.errors import InvalidInput, UnknownName
from stepforge_jobs.domains.facial import grammar
from stepforge_jobs.domains.facial.expert import careless, solve, steps
from stepforge_jobs.domains.facial.export import FORMATS
from stepforge_jobs.domains.facial.preview import page_fragment
from stepforge_jobs.domains.facial.reading import in_words
from stepforge_jobs.domains.facial.rules import judge
from stepforge_jobs.domains.facial.scenarios import corpus_scenario, group_of, ordered

__all__ = ["DOMAIN", "FacialDomain"]

CARE = 0.35
"""How often an author of the corpus takes a decision with care."""


class FacialDomain:
    """Facial expressions as a `Domain`.

    >>> record = DOMAIN.record("train", 0, seed=0)
    >>> DOMAIN.verify(record, record.solution).reward
    1.0
    """

    name = "facial"
    version = "3"
    vocabulary = grammar.VOCABULARY
    step_end = grammar.STEP_END
    export_formats = tuple(FORMATS)

    def size(self, split: Split) -> int | None:
        return None if split == "corpus" else len(ordered(split, 0))

    def record(self, split: Split, index: int, *, seed: int) -> Record:
        """`seed` decides the order of train and rl and the corpus authors' faults; tests are the same for all."""
        size = self.size(split)
        if index < 0 or (size is not None and index >= size):
            many = "no end, but starts at 0" if size is None else f"{size} records"
            raise IndexError(f"split {split!r} of facial has {many}: index {index} is not among them")
        plan = None
        if split == "corpus":
            rng = random.Random(f"facial/corpus/{seed}/{index}")
            scenario = corpus_scenario(rng)
            plan = careless(scenario, rng, care=CARE)
        else:
            scenario = ordered(split, seed)[index]
            if split == "train":
                plan = solve(scenario)
        expert = split == "train" and plan is not None
        return Record(
            id=f"facial-{split}-{index:06d}",
            domain=self.name,
            source="procedural",
            split=split,
            stratum="retained" if is_retained(scenario) else "target",
            group=group_of(scenario),
            prompt=grammar.render_prompt(scenario),
            steps=steps(scenario, plan, reasons=split == "train") if plan else (),
            scenario=scenario.model_dump(mode="json"),
            artifact=grammar.expand(plan, scenario).model_dump(mode="json") if plan and expert else None,
            verifier=f"{self.name}@{self.version}",
            provenance=Provenance(
                generator=f"facial.{'author' if split == 'corpus' else 'expert'}@{self.version}", seed=seed
            ),
        )

    def verify(self, record: Record, completion: str) -> Verdict:
        """Judge the compact text, or a whole `FacialArtifact` as JSON.

        Raises ValueError where the record's scenario is broken.
        """
        scenario = scenario_of(record)
        try:
            artifact = read(scenario, completion)
        except ValueError as error:
            return Verdict.model_construct(accepted=False, reward=0.0, partial=0.0, rules=(), reason=str(error))
        return judge(scenario, artifact)

    def scenario(self, prompt: str) -> dict[str, Any]:
        """Raises GrammarError with the form of a prompt where this is none."""
        return grammar.parse_prompt(prompt).model_dump(mode="json")

    def describe(self, record: Record, completion: str) -> str:
        """What was asked for; muscles, blendshapes, timing and body of a completion that can be read."""
        scenario = scenario_of(record)
        try:
            artifact = read(scenario, completion)
        except ValueError:
            return in_words(scenario, None)
        return in_words(scenario, artifact)

    def preview(self, record: Record, completion: str) -> str:
        """Two faces, still and moving, with a caption. What cannot be read is drawn as far as it can be."""
        scenario = scenario_of(record)
        try:
            artifact = read(scenario, completion)
        except ValueError:
            artifact = grammar.expand(grammar.salvage(completion), scenario)
        return page_fragment(scenario, artifact, self.verify(record, completion), completion)

    def export(self, record: Record, completion: str, *, format: str) -> str:
        """One of `export_formats`. Raises ValueError, with every rule that refuses, for a refused completion."""
        if format not in FORMATS:
            raise UnknownName("export format", format, FORMATS)
        verdict = self.verify(record, completion)
        if not verdict.accepted:
            raise InvalidInput(f"record {record.id!r} cannot be exported, its completion is refused: {verdict.refusal}")
        scenario = scenario_of(record)
        return FORMATS[format](scenario, read(scenario, completion))


def is_retained(scenario: FacialScenario) -> bool:
    """What every author of the corpus gets right."""
    return scenario.secondary is None and scenario.display == "felt" and scenario.rig == "arkit"


def scenario_of(record: Record) -> FacialScenario:
    """From the record's scenario, or from its prompt where it has none. Raises ValueError where that is not one."""
    if not record.scenario:
        return grammar.parse_prompt(record.prompt)
    try:
        return _scenario(tuple(record.scenario.items()))
    except TypeError:  # a list or an object cannot be a key of the cache; pydantic says which field it stands in
        return FacialScenario.model_validate(record.scenario)


@lru_cache(maxsize=4096)
def _scenario(items: tuple[tuple[str, object], ...]) -> FacialScenario:
    return FacialScenario.model_validate(dict(items))


def read(scenario: FacialScenario, completion: str) -> FacialArtifact:
    """The artifact that a completion stands for. Raises ValueError with the reason where it cannot be read."""
    if completion.lstrip().startswith("{"):
        try:
            artifact = FacialArtifact.model_validate_json(completion)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"not a facial artifact: {where or 'the JSON'}: {first['msg']}") from error
        if not artifact.action_units or not artifact.curves:
            raise ValueError("an expression needs action_units and curves; to show nothing is not covered")
        return artifact
    return grammar.expand(grammar.parse(completion), scenario)


DOMAIN = FacialDomain()
