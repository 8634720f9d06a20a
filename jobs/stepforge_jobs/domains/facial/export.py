"""Expressions in files that engines read, sampled at 60 frames a second.

`arkit-json`: one object with `exportFps`, `numPoses`, `numFrames`, `facsNames` and `weightMat` (a row for each frame, a
column for each name): the keys of the blendshape weights that NVIDIA Audio2Face exports, of which `exportFps` and
`weightMat` were read in a program that reads such files, the others not re-read at their source. `name`, `rig` and
`timeCodes` (seconds) are ours. The names are ARKit's 52; an OpenXR expression is carried over unit by unit, and what
ARKit cannot say is listed under `notCarried`.

`openxr-json`: the same object with the 70 names of XrFaceExpression2FB in the order of the enum: a row is the `weights`
array of xrGetFaceExpressionWeights2FB. ARKit expressions are carried over the same way.

`livelink-csv`: what Epic's Live Link Face app records: Timecode (HH:MM:SS:FF.subframe), BlendShapeCount (61), 52
blendshapes with an initial capital, then head and eye rotations, which are 0 here. The header line was read in several
programs that write or read such files; it has JawRight before JawLeft and MouthRight before MouthLeft.
"""

from __future__ import annotations

import csv
import io
import json
from bisect import bisect_right
from collections.abc import Callable

from stepforge.contracts.domains.facial import FacialArtifact, FacialScenario, Keyframe, Rig
from stepforge_jobs.domains.facial.tables import RIG_TABLES

ROTATIONS = tuple(f"{part}{axis}" for part in ("Head", "LeftEye", "RightEye") for axis in ("Yaw", "Pitch", "Roll"))
_SWAPPED = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
LIVE_LINK_NAMES = tuple(_SWAPPED.get(name, name) for name in RIG_TABLES["arkit"].names)
DIGITS = 6
"""Decimals of a weight."""


def weight_at(curve: tuple[Keyframe, ...], frame: int) -> float:
    """Linear between keyframes, constant before the first and after the last."""
    place = bisect_right(curve, frame, key=lambda key: key[0])
    if place == 0:
        return curve[0][1]
    if place == len(curve):
        return curve[-1][1]
    (start, low), (end, high) = curve[place - 1], curve[place]
    return low + (high - low) * (frame - start) / (end - start)


def carry_over(artifact: FacialArtifact, rig: Rig) -> tuple[dict[str, tuple[Keyframe, ...]], tuple[str, ...]]:
    """The curves under another rig's names, by the action units that both name; and the names that found no place."""
    if artifact.rig == rig:
        return artifact.curves, ()
    ours, theirs = RIG_TABLES[artifact.rig], RIG_TABLES[rig]
    pairs = [(ours.shapes[unit], theirs.shapes[unit]) for unit in ours.shapes if unit in artifact.action_units]
    pairs += [(ours.blink, theirs.blink), (ours.lips_closed, theirs.lips_closed)]
    carried: dict[str, tuple[Keyframe, ...]] = {}
    used = set()
    for here, there in pairs:
        names, others = ours.blendshapes(here), theirs.blendshapes(there)
        for place in range(max(len(names), len(others))):
            name, other = names[min(place, len(names) - 1)], others[min(place, len(others) - 1)]
            if curve := artifact.curves.get(name):
                used.add(name)
                strongest = max(w for _, w in curve)
                if other not in carried or strongest > max(w for _, w in carried[other]):
                    carried[other] = curve
    return carried, tuple(sorted(artifact.curves.keys() - used))


def frames_of(artifact: FacialArtifact) -> int:
    """Frames from the neutral face to the neutral face, both counted."""
    return 1 + max(curve[-1][0] for curve in artifact.curves.values())


def matrix(curves: dict[str, tuple[Keyframe, ...]], names: tuple[str, ...], frames: int) -> list[list[float]]:
    """`frames` rows of a weight for each name."""
    rest: tuple[Keyframe, ...] = ((0, 0.0),)
    return [[round(weight_at(curves.get(name, rest), frame), DIGITS) for name in names] for frame in range(frames)]


def _as_json(scenario: FacialScenario, artifact: FacialArtifact, rig: Rig) -> str:
    curves, lost = carry_over(artifact, rig)
    names, frames = RIG_TABLES[rig].names, frames_of(artifact)
    content = {
        "name": "-".join(part for part in (scenario.primary, scenario.secondary, scenario.display) if part),
        "rig": rig,
        "exportFps": artifact.fps,
        "numPoses": len(names),
        "numFrames": frames,
        "facsNames": names,
        "timeCodes": [round(frame / artifact.fps, DIGITS) for frame in range(frames)],
        "weightMat": matrix(curves, names, frames),
        "notCarried": lost,
    }
    return json.dumps(content, separators=(",", ":"))


def arkit_json(scenario: FacialScenario, artifact: FacialArtifact) -> str:
    return _as_json(scenario, artifact, "arkit")


def openxr_json(scenario: FacialScenario, artifact: FacialArtifact) -> str:
    return _as_json(scenario, artifact, "openxr")


def livelink_csv(scenario: FacialScenario, artifact: FacialArtifact) -> str:
    """Timecodes count from 00:00:00 at 60 frames a second, with the subframe that the app writes."""
    curves, _ = carry_over(artifact, "arkit")
    names = LIVE_LINK_NAMES
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Timecode", "BlendShapeCount", *(name[0].upper() + name[1:] for name in names), *ROTATIONS])
    still = ["0.000000"] * len(ROTATIONS)
    for frame, row in enumerate(matrix(curves, names, frames_of(artifact))):
        seconds, rest = divmod(frame, artifact.fps)
        timecode = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{rest:02d}.000"
        weights = (f"{weight:.{DIGITS}f}" for weight in row)
        writer.writerow([timecode, len(names) + len(ROTATIONS), *weights, *still])
    return text.getvalue()


FORMATS: dict[str, Callable[[FacialScenario, FacialArtifact], str]] = {
    "arkit-json": arkit_json,
    "openxr-json": openxr_json,
    "livelink-csv": livelink_csv,
}
