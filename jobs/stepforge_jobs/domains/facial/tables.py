"""Data behind the rules: prototypes, compounds, antagonists, display rules, rigs. Each table names its source.

`(not re-read at its source)` marks what was taken from a copy or from memory; `ours` marks what we decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from stepforge.contracts.domains.facial import Display, Emotion, Grade, Rig

FACS = "Ekman, Friesen & Hager 2002, Facial Action Coding System (not re-read at its source)"

ACTION_UNITS: dict[str, str] = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "R12": "lip corner puller, right side only",
    "R14": "dimpler, right side only",
    "AU15": "lip corner depressor",
    "AU16": "lower lip depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU26": "jaw drop",
}
"""Names after FACS, in the order in which they are written. AU 25 (lips part) is not planned on its own: in both rigs a
dropped jaw parts the lips unless mouthClose or LIPS_TOWARD holds them, so a published 25 is read as 26 (ours)."""

ORDER: dict[str, int] = {code: place for place, code in enumerate(ACTION_UNITS)}
UPPER_FACE = frozenset({"AU1", "AU2", "AU4", "AU5", "AU6", "AU7"})
"""Brows, lids and cheeks, the group that FACS calls upper face."""
UNILATERAL = frozenset({"R12", "R14"})

# EMFACS table as quoted by https://en.wikipedia.org/wiki/Facial_Action_Coding_System, read in a copy of that article.
PROTOTYPES: dict[Emotion, tuple[str, ...]] = {
    "happiness": ("AU6", "AU12"),
    "sadness": ("AU1", "AU4", "AU15"),
    "surprise": ("AU1", "AU2", "AU5", "AU26"),
    "fear": ("AU1", "AU2", "AU4", "AU5", "AU20", "AU26"),
    "anger": ("AU4", "AU5", "AU7", "AU23"),
    "disgust": ("AU9", "AU15", "AU16"),
    "contempt": ("R12", "R14"),
}
OPTIONAL: dict[Emotion, frozenset[str]] = {"fear": frozenset({"AU7"})}
"""Fear is printed with and without 7: 1+2+4+5+7+20+26 in Scientific Reports 2024, 14:62902, figure 7."""
ALTERNATIVE = {"AU24": "AU23"}
"""FACS table 11-1 prints anger as 4+5+7+24 too (read in Methods of Psychological Research 4(3), 'art3', node 4)."""


@dataclass(frozen=True)
class Published:
    """A row of a published table: units that define it, and units that some faces add."""

    core: frozenset[str]
    also: frozenset[str] = frozenset()


def _row(core: str, also: str = "") -> Published:
    units = [frozenset(f"AU{number}" for number in text.split()) for text in (core, also)]
    return Published(units[0], units[1] - units[0])


# Du, Tao & Martinez 2014, PNAS 111(15) E1454, table 1: units seen in more than 70 % of faces, then those seen in fewer.
# The first column was compared with a copy; the second was not re-read at its source. 25 is read as 26, 11 is left out.
COMPOUNDS: dict[frozenset[Emotion], Published] = {
    frozenset({"happiness"}): _row("12 26", "6"),
    frozenset({"sadness"}): _row("4 15", "1 6 17"),
    frozenset({"fear"}): _row("1 4 20 26", "2 5"),
    frozenset({"anger"}): _row("4 7 24", "10 17 23"),
    frozenset({"surprise"}): _row("1 2 26", "5"),
    frozenset({"disgust"}): _row("9 10 17", "4 24"),
    frozenset({"happiness", "surprise"}): _row("1 2 12 26", "5"),
    frozenset({"happiness", "disgust"}): _row("10 12 26", "4 6 9"),
    frozenset({"sadness", "fear"}): _row("1 4 20 26", "2 5 6 15"),
    frozenset({"sadness", "anger"}): _row("4 15", "6 7 17"),
    frozenset({"sadness", "surprise"}): _row("1 4 26", "2 6"),
    frozenset({"sadness", "disgust"}): _row("4 10", "1 6 9 15 17 26"),
    frozenset({"fear", "anger"}): _row("4 20 26", "5 7 10"),
    frozenset({"fear", "surprise"}): _row("1 2 5 20 26", "4 10"),
    frozenset({"fear", "disgust"}): _row("1 4 10 20 26", "2 5 6 9 15"),
    frozenset({"anger", "surprise"}): _row("4 26", "5 7 10"),
    frozenset({"anger", "disgust"}): _row("4 10 17", "7 9 24"),
    frozenset({"disgust", "surprise"}): _row("1 2 5 10", "4 9 17 24"),
}

ANTAGONISTS: dict[frozenset[str], str] = {
    frozenset({"AU24", "AU26"}): f"lips pressed against lips parted by the jaw: {FACS}",
    frozenset({"AU12", "R12"}): f"an action is scored on both sides or on one: {FACS}",
    frozenset({"AU12", "AU15"}): "zygomaticus major lifts the corner that depressor anguli oris lowers: ours "
    "(FACS scores 12+15, as a controlled smile)",
    frozenset({"AU15", "R12"}): "the right corner cannot rise and fall: ours",
    frozenset(
        {"AU12", "AU20"}
    ): "one corner, two directions: ours; the published happily fearful face (1+2+12+25+26) has no 20",
    frozenset({"AU20", "R14"}): "risorius stretches the corner that buccinator tucks in: ours",
    frozenset({"AU20", "AU23"}): "lips stretched against lips tightened: ours",
    frozenset(
        {"AU20", "AU24"}
    ): "lips stretched against lips pressed: ours; the published fearfully angry face (4+20+25) has no 24",
}

WEIGHTS: dict[Grade, float] = {"A": 0.1, "B": 0.3, "C": 0.5, "D": 0.7, "E": 0.9}
"""Middle of five equal parts of [0, 1]: ours. FACS's own grades are not evenly spaced."""


@dataclass(frozen=True)
class DisplayRule:
    """What a display rule does to an expression. The kinds are Ekman & Friesen's; the sizes, in grades, are ours."""

    upper: int
    lower: int
    apex: int
    """Frames at 60 fps that the expert holds the apex."""
    apex_window: tuple[int, int]
    why: str


DISPLAY_RULES: dict[Display, DisplayRule] = {
    "felt": DisplayRule(0, 0, 60, (46, 75), "shows what is felt"),
    "amplified": DisplayRule(1, 1, 90, (76, 105), "is intensified, all of it"),
    "deamplified": DisplayRule(0, -2, 30, (20, 45), "is held back in the mouth, and leaks in brows and lids"),
    "simulated": DisplayRule(
        -1, 0, 120, (106, 150), "is put on: the mouth obeys, the upper face lags and the cheeks stay down"
    ),
    "masked": DisplayRule(-2, 0, 180, (151, 200), "is covered by a smile: only traces leak in the upper face"),
}
SMILE = "AU12"
DURATION = (30, 240)
"""Frames at 60 fps: expressions last between half a second and four (Ekman 2003, not re-read at its source)."""
MAX_CHANGE = 0.15
"""Largest change of a weight from one frame to the next at 60 fps: ours."""

# Pleasure, arousal, dominance. Russell & Mehrabian 1977 (not re-read at its source); contempt is placed by us in
# Mehrabian's octant 'disdainful' (-P, -A, +D), surprise's dominance and disgust's are near zero.
PAD: dict[Emotion, tuple[float, float, float]] = {
    "happiness": (0.81, 0.51, 0.46),
    "sadness": (-0.63, -0.27, -0.33),
    "surprise": (0.40, 0.67, -0.13),
    "fear": (-0.64, 0.60, -0.43),
    "anger": (-0.51, 0.59, 0.25),
    "disgust": (-0.60, 0.35, 0.11),
    "contempt": (-0.40, -0.20, 0.40),
}


@dataclass(frozen=True)
class RigTable:
    """A rig as data. `shapes` maps an action unit to the base name that the compact grammar writes."""

    names: tuple[str, ...]
    """Every blendshape of the rig, in the rig's own order."""
    shapes: dict[str, str]
    sides: tuple[str, str]
    """Endings of left and right."""
    blink: str
    wide: str
    jaw: str
    lips_closed: str
    source: str

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """Word of the grammar to full names: both sides for a base name, one where the word itself is a name."""
        left, right = self.sides
        found: dict[str, tuple[str, ...]] = {name: (name,) for name in self.names}
        for name in self.names:
            base = name.removesuffix(left)
            if base != name and base + right in self.names:
                found[base] = (name, base + right)
        return found

    def blendshapes(self, word: str) -> tuple[str, ...]:
        """Full names of a word; none where the rig does not know it."""
        return self.words.get(word, ())


def _arkit() -> RigTable:
    left_right = "Left", "Right"
    eyes = ("eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide")
    names = [eye + side for side in left_right for eye in eyes]
    names += [
        "jawForward",
        "jawLeft",
        "jawRight",
        "jawOpen",
        "mouthClose",
        "mouthFunnel",
        "mouthPucker",
        "mouthLeft",
        "mouthRight",
    ]
    names += [
        shape + side for shape in ("mouthSmile", "mouthFrown", "mouthDimple", "mouthStretch") for side in left_right
    ]
    names += ["mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"]
    names += [
        shape + side for shape in ("mouthPress", "mouthLowerDown", "mouthUpperUp", "browDown") for side in left_right
    ]
    names += ["browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff"]
    names += [shape + side for shape in ("cheekSquint", "noseSneer") for side in left_right]
    names += ["tongueOut"]
    return RigTable(
        names=tuple(names),
        shapes={
            "AU1": "browInnerUp",
            "AU2": "browOuterUp",
            "AU4": "browDown",
            "AU5": "eyeWide",
            "AU6": "cheekSquint",
            "AU7": "eyeSquint",
            "AU9": "noseSneer",
            "AU10": "mouthUpperUp",
            "AU12": "mouthSmile",
            "R12": "mouthSmileRight",
            "R14": "mouthDimpleRight",
            "AU15": "mouthFrown",
            "AU16": "mouthLowerDown",
            "AU17": "mouthShrugLower",
            "AU20": "mouthStretch",
            "AU23": "mouthPress",
            "AU24": "mouthPress",
            "AU26": "jawOpen",
        },
        sides=left_right,
        blink="eyeBlink",
        wide="eyeWide",
        jaw="jawOpen",
        lips_closed="mouthClose",
        source="52 names of Apple's ARFaceAnchor.BlendShapeLocation, read in Unity's ARKitBlendShapeLocation "
        "and Unreal's EARFaceBlendShape, in its order; which unit drives which shape: ours, after Apple's text",
    )


def _openxr() -> RigTable:
    def pair(*stems: str) -> list[str]:
        return [f"{stem}_{side}" for stem in stems for side in "LR"]

    names = pair("BROW_LOWERER", "CHEEK_PUFF", "CHEEK_RAISER", "CHEEK_SUCK")
    names += ["CHIN_RAISER_B", "CHIN_RAISER_T"]
    names += pair(
        "DIMPLER",
        "EYES_CLOSED",
        "EYES_LOOK_DOWN",
        "EYES_LOOK_LEFT",
        "EYES_LOOK_RIGHT",
        "EYES_LOOK_UP",
        "INNER_BROW_RAISER",
    )
    names += ["JAW_DROP", "JAW_SIDEWAYS_LEFT", "JAW_SIDEWAYS_RIGHT", "JAW_THRUST"]
    names += pair("LID_TIGHTENER", "LIP_CORNER_DEPRESSOR", "LIP_CORNER_PULLER")
    names += [f"LIP_FUNNELER_{place}" for place in ("LB", "LT", "RB", "RT")]
    names += pair("LIP_PRESSOR", "LIP_PUCKER", "LIP_STRETCHER")
    names += [f"LIP_SUCK_{place}" for place in ("LB", "LT", "RB", "RT")]
    names += pair("LIP_TIGHTENER")
    names += ["LIPS_TOWARD"]
    names += pair("LOWER_LIP_DEPRESSOR")
    names += ["MOUTH_LEFT", "MOUTH_RIGHT"]
    names += pair("NOSE_WRINKLER", "OUTER_BROW_RAISER", "UPPER_LID_RAISER", "UPPER_LIP_RAISER")
    names += ["TONGUE_TIP_INTERDENTAL", "TONGUE_TIP_ALVEOLAR", "TONGUE_FRONT_DORSAL_PALATE", "TONGUE_MID_DORSAL_PALATE"]
    names += ["TONGUE_BACK_DORSAL_VELAR", "TONGUE_OUT", "TONGUE_RETREAT"]
    return RigTable(
        names=tuple(names),
        shapes={
            "AU1": "INNER_BROW_RAISER",
            "AU2": "OUTER_BROW_RAISER",
            "AU4": "BROW_LOWERER",
            "AU5": "UPPER_LID_RAISER",
            "AU6": "CHEEK_RAISER",
            "AU7": "LID_TIGHTENER",
            "AU9": "NOSE_WRINKLER",
            "AU10": "UPPER_LIP_RAISER",
            "AU12": "LIP_CORNER_PULLER",
            "R12": "LIP_CORNER_PULLER_R",
            "R14": "DIMPLER_R",
            "AU15": "LIP_CORNER_DEPRESSOR",
            "AU16": "LOWER_LIP_DEPRESSOR",
            "AU17": "CHIN_RAISER_B",
            "AU20": "LIP_STRETCHER",
            "AU23": "LIP_TIGHTENER",
            "AU24": "LIP_PRESSOR",
            "AU26": "JAW_DROP",
        },
        sides=("_L", "_R"),
        blink="EYES_CLOSED",
        wide="UPPER_LID_RAISER",
        jaw="JAW_DROP",
        lips_closed="LIPS_TOWARD",
        source="70 names of XrFaceExpression2FB (OpenXR extension XR_FB_face_tracking2, read in its generated header), "
        "without XR_FACE_EXPRESSION2_ and _FB; they are FACS's own names of the action units",
    )


RIG_TABLES: dict[Rig, RigTable] = {"arkit": _arkit(), "openxr": _openxr()}
