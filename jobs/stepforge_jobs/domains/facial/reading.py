"""An expression in words, for people who do not know the codes."""

from __future__ import annotations

from stepforge.contracts.domains.facial import FacialArtifact, FacialScenario
from stepforge_jobs.domains.facial.checks import timing
from stepforge_jobs.domains.facial.preview import asked_for
from stepforge_jobs.domains.facial.tables import ACTION_UNITS

GRADE_NAMES = {"A": "trace", "B": "slight", "C": "marked", "D": "severe", "E": "maximum"}
"""FACS intensities, shortened."""


def in_words(scenario: FacialScenario, artifact: FacialArtifact | None) -> str:
    """What was asked for and, where an answer could be read, each part of it: a line each."""
    lines = [asked_for(scenario)]
    if artifact is not None:
        units = [
            f"{code} {ACTION_UNITS.get(code, 'unknown')} {grade} ({GRADE_NAMES[grade]})"
            for code, grade in artifact.action_units.items()
        ]
        shapes = [f"{name} {artifact.weight(name):.2f}" for name in artifact.curves]
        spans = zip(("onset", "apex", "offset"), timing(artifact), strict=True)
        lines += [
            f"muscles: {', '.join(units) or 'none'}",
            f"blendshapes: {', '.join(shapes) or 'none'}",
            "timing: " + ", ".join(f"{part} {frames / artifact.fps:.2f} s" for part, frames in spans),
            f"body: {artifact.body.posture}, {artifact.body.tempo}",
        ]
    return "\n".join(lines)
