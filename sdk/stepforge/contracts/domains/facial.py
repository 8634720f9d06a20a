"""A facial expression: what is asked for, and the action units, curves and posture that answer it.

Weights are not bounded here: the rules of the domain judge them and say why, where a schema would only say no.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract

Emotion = Literal["happiness", "sadness", "surprise", "fear", "anger", "disgust", "contempt"]
EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
Display = Literal["felt", "amplified", "deamplified", "simulated", "masked"]
"""Display rules of Ekman and Friesen (1969, 1975). Not covered: neutralize, which leaves no expression, and qualify."""
DISPLAYS: tuple[Display, ...] = get_args(Display)
Pace = Literal["sudden", "gradual"]
PACES: tuple[Pace, ...] = get_args(Pace)
Rig = Literal["arkit", "openxr"]
RIGS: tuple[Rig, ...] = get_args(Rig)
Grade = Literal["A", "B", "C", "D", "E"]
"""FACS intensity: trace, slight, marked or pronounced, severe or extreme, maximum."""
GRADES: tuple[Grade, ...] = get_args(Grade)
Keyframe = tuple[Annotated[int, Field(ge=0)], float]
"""(frame, weight)."""


class FacialScenario(Contract):
    """What a face is asked to show.

    >>> FacialScenario(primary="fear", secondary="anger", level=4, display="masked", pace="sudden", rig="openxr").level
    4
    """

    primary: Emotion
    secondary: Emotion | None = None
    """Blends in, a grade weaker; its action units give way where they contradict the primary's."""
    level: Annotated[int, Field(ge=1, le=5)]
    display: Display = "felt"
    pace: Pace = "sudden"
    """Whether what happened came at once: decides the onset."""
    rig: Rig = "arkit"

    @model_validator(mode="after")
    def _coherent(self) -> FacialScenario:
        if self.primary == self.secondary:
            raise ValueError(
                f"primary and secondary are both {self.primary!r}: leave secondary out, or blend another emotion"
            )
        if self.display == "masked" and "happiness" in (self.primary, self.secondary):
            raise ValueError("happiness cannot be masked by a smile: choose 'simulated', or other emotions")
        return self


class BodyLanguage(Contract):
    """Posture and tempo that go with the face."""

    posture: Literal["expanded", "neutral", "contracted"]
    """Expanded shows dominance, contracted submission."""
    tempo: Literal["fast", "even", "slow"]
    """Fast shows arousal."""


class FacialArtifact(Contract):
    """An expression that a game engine can play: every curve starts at frame 0."""

    version: Literal[1] = 1
    rig: Rig
    fps: Literal[60] = 60
    action_units: dict[str, Grade]
    """FACS code to intensity: `AU12`, or `R12` where only the right side of the face moves."""
    curves: dict[str, tuple[Keyframe, ...]]
    """Blendshape to keyframes, linear between them: neutral, end of onset, end of apex, end of offset."""
    body: BodyLanguage

    def weight(self, name: str) -> float:
        """The largest weight of a blendshape; 0 where it does not move."""
        return max((weight for _, weight in self.curves.get(name, ())), default=0.0)
