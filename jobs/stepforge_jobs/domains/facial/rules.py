"""The rules of a facial expression: name, whether hard, source, check. Tolerances are ours unless a source is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stepforge.contracts.domains.facial import FacialArtifact, FacialScenario
from stepforge.contracts.rewards import RuleResult, Verdict
from stepforge_jobs.domains.facial import checks
from stepforge_jobs.domains.facial.expectation import Expectation, expect
from stepforge_jobs.domains.facial.tables import FACS, RIG_TABLES


@dataclass(frozen=True, eq=False)
class Rule:
    name: str
    hard: bool
    source: str
    check: Callable[[Expectation, FacialArtifact], checks.Fault | None]
    weight: float = 1.0
    """Among the soft rules."""
    passed: RuleResult = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "passed", RuleResult(rule=self.name, score=1.0, hard=self.hard))


_TABLES = (
    "EMFACS prototypes (read in a copy of Wikipedia, 'Facial Action Coding System'); Du, Tao & Martinez 2014, table 1"
)
_RIGS = f"{RIG_TABLES['arkit'].source}. {RIG_TABLES['openxr'].source}"

RULES: tuple[Rule, ...] = (
    Rule("units.prototype", True, f"{_TABLES}; F1 of .8: ours", checks.prototype),
    Rule(
        "units.blend",
        True,
        f"{_TABLES}; that a blend shows a unit which each emotion alone would not: ours, after Du, Tao & Martinez' "
        "finding that compound faces are told from the faces of their parts",
        checks.both_emotions,
    ),
    Rule("units.antagonists", True, "per pair, in tables.ANTAGONISTS: FACS or ours", checks.antagonists),
    Rule(
        "units.smile",
        True,
        "Ekman, Davidson & Friesen 1990, Duchenne's smile; Ekman 1985, the smile mask (neither re-read at its source)",
        checks.smile,
    ),
    Rule(
        "units.intensity",
        True,
        f"grades A-E: {FACS}; kinds of display rule: Ekman & Friesen 1969, 1975 (not re-read at their source); how "
        "many grades a rule or a second emotion changes, and one grade of tolerance in all: ours",
        checks.intensity,
    ),
    Rule("rig.names", True, _RIGS, checks.rig_names),
    Rule("rig.mapping", True, _RIGS, checks.rig_mapping),
    Rule(
        "rig.weights", True, "ours: five equal parts of [0, 1], tolerance .1; what is graded moves", checks.rig_weights
    ),
    Rule(
        "rig.range", True, "Apple, ARFaceAnchor.blendShapes: 0 is neutral, 1 is maximum movement", checks.weight_range
    ),
    Rule(
        "rig.symmetry",
        True,
        f"contempt is one-sided (R12A+R14A): EMFACS; .1 in weight and .1 s elsewhere: ours; notation: {FACS}",
        checks.symmetry,
    ),
    Rule("rig.lids", True, "ours: a lid is not closed and wide open", checks.lids),
    Rule(
        "rig.jaw",
        True,
        "Apple: mouthClose closes the lips independent of the jaw; that it needs an open jaw: ours",
        checks.jaw,
    ),
    Rule("time.rate", True, "ours: .15 a frame at 60 fps", checks.rate),
    Rule(
        "time.neutral",
        True,
        "ours: an expression starts and ends in the neutral face, which keeps the identity",
        checks.neutral,
    ),
    Rule(
        "time.one_apex", True, "Ekman & Friesen 1978: onset, apex, offset (not re-read at its source)", checks.one_apex
    ),
    Rule(
        "time.apex",
        True,
        "Ekman & Friesen 1982: false smiles are held too long (not re-read at its source); the windows, and that "
        "all units share the apex to a quarter of a second: ours",
        checks.apex,
    ),
    Rule(
        "time.pace",
        True,
        "Scherer 2001: suddenness is the first appraisal (not re-read at its source); the factor of two: ours",
        checks.pace,
    ),
    Rule("time.offset", True, "ours", checks.offset),
    Rule("time.duration", True, "Ekman 2003: expressions last .5 to 4 s (not re-read at its source)", checks.duration),
    Rule(
        "body.pad",
        True,
        "Russell & Mehrabian 1977: dominance and arousal (not re-read at its source); thresholds of .1: ours",
        checks.body,
    ),
    Rule("units.prototype_exact", False, _TABLES, checks.prototype_exact, weight=2.0),
    Rule("units.intensity_exact", False, "as units.intensity, without the tolerance", checks.intensity_exact),
    Rule("time.fade", False, "ours: faces relax about half as fast as they move", checks.fade),
)
_SOFT_WEIGHT = sum(rule.weight for rule in RULES if not rule.hard)
_ALL_PASSED = Verdict(accepted=True, reward=1.0, partial=1.0, rules=tuple(rule.passed for rule in RULES))


def judge(scenario: FacialScenario, artifact: FacialArtifact) -> Verdict:
    """Every rule's word on a whole artifact. Reward = product of the hard rules x weighted mean of the soft ones."""
    asked = expect(scenario)
    results: list[RuleResult] = []
    hard, soft, total, faults = 1.0, 0.0, 0.0, 0
    for rule in RULES:
        fault = rule.check(asked, artifact)
        if fault is None:
            score = 1.0
            results.append(rule.passed)
        else:
            score, path, message = fault
            faults += 1
            results.append(
                RuleResult.model_construct(rule=rule.name, score=score, hard=rule.hard, path=path, message=message)
            )
        total += score
        if rule.hard:
            hard *= score
        else:
            soft += rule.weight * score
    if not faults:
        return _ALL_PASSED
    accepted = all(result.score >= 1.0 for result in results if result.hard)
    # A refused artifact earns nothing: a product of fractions would pay for being almost right.
    reward = hard * soft / _SOFT_WEIGHT if accepted else 0.0
    return Verdict.model_construct(
        accepted=accepted, reward=reward, partial=total / len(RULES), rules=tuple(results), reason=""
    )
