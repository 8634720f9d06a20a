"""Questions whose answer is another by rows of one's own, by outcomes, or by what advisors say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepforge.contracts.decisions import Outcome, Question, Range
from stepforge.economics.experience import Experience
from stepforge.errors import UnknownName
from tests.unit.economics.asking import arm, question
from tests.unit.finetune.test_holding import MODEL

MINI = f"openai/{MODEL}"
NOVA, LITE, PRO = (f"bedrock/amazon.nova-{size}-v1:0" for size in ("micro", "lite", "pro"))
TRAFFIC = {"prompt_tokens": 800, "completion_tokens": 60}
JOB = {"tokens": 1_000_000, "epochs": 2}
CATALOGUED = {"request_usd": None, "traffic": TRAFFIC, "job": JOB, "fixed": {"people_usd": 300}}


def row(name: str, *, usd: float, **given: Any) -> str:
    """A row of one's own: `usd` for 1M tokens of training, and little for each request."""
    more = "".join(f"{key} = {value}\n" for key, value in given.items())
    known = 'unit = "1M tokens", as_of = 2026-11-20, source = "our own contract"'
    prices = [("training_tokens", usd), ("tuned_input", 0.1), ("tuned_output", 0.4)]
    rows = ", ".join(f'{{ kind = "{kind}", usd = {value}, {known} }}' for kind, value in prices)
    return (
        f'[[models]]\nid = "{name}"\nprovider = "{name.partition("/")[0]}"\n'
        'tunable = ["sft", "distillation", "managed"]\n'
        f'as_of = 2026-11-20\nsource = "our own contract"\n{more}prices = [{rows}]\n'
    )


OWN_PAIR = f"""
[[pairs]]
students = ["{NOVA}"]
teachers = ["{LITE}"]
as_of = 2026-11-20
source = "our account manager, by mail"
"""


def outcome(method: Any, number: int, gain: float) -> Outcome:
    around = Range(mean=gain, low=gain - 0.01, high=gain + 0.01)
    return Outcome(
        question_sha256=f"{number:064}",
        arm=method,
        method=method,
        predicted_gain=around,
        measured_gain=around,
        measured_gain_sd=0.01,
        predicted_fixed_usd=1.0,
        gain_inside=True,
        sentence="measured in a test",
    )


def known(**gains: float) -> Experience:
    outcomes = [outcome(method, number, gain) for method, gain in gains.items() for number in range(4)]
    return Experience(outcomes=tuple(outcomes))


def opinion(weight_usd: float, **scores: float) -> dict[str, Any]:
    return {"criteria": [{"name": "independence", "weight_usd": weight_usd, "scores": scores, "reason": "it matters"}]}


def two(**changes: Any) -> Question:
    return question(arm("a", **changes), arm("b", fixed={"training_usd": 1_100}, **changes))


@dataclass
class Case:
    """A question, what is given beside it, and the action and arm that follow; `without` follows from the question."""

    question: Question
    expected: tuple[str, str | None]
    without: tuple[str, str | None] | type[Exception]
    own: str = ""
    experience: Experience | None = None
    criteria: list[dict[str, Any]] = field(default_factory=list)

    def options(self, folder: Path) -> list[str]:
        """The question in a file, and the options that give the rest."""
        (folder / "question.json").write_text(self.question.model_dump_json())
        words = [str(folder / "question.json")]
        if self.own:
            (folder / "own.toml").write_text(f"version = 1\n{self.own}")
            words += ["--catalogue", str(folder / "own.toml")]
        if self.experience is not None:
            self.experience.write(folder / "outcomes.json")
            words += ["--experience", str(folder / "outcomes.json")]
        for number, told in enumerate(self.criteria):
            (folder / f"criteria-{number}.json").write_text(json.dumps(told))
            words += ["--criteria", str(folder / f"criteria-{number}.json")]
        return words


CASES = {
    "a model that does not ship": Case(
        question(arm("ours", model="openai/ours", **CATALOGUED)),
        ("launch", "ours"),
        UnknownName,
        own=row("openai/ours", usd=1),
    ),
    "a row in the place of one that ends": Case(
        question(arm("mini", model=MINI, **CATALOGUED)), ("launch", "mini"), ("stay", None), own=row(MINI, usd=0.01)
    ),
    "a row that ends sooner": Case(
        question(arm("nova", method="managed", model=NOVA, **CATALOGUED)),
        ("stay", None),
        ("launch", "nova"),
        own=row(NOVA, usd=1, shuts_down="2027-01-14"),
    ),
    "a dearer row": Case(
        question(arm("nova", method="managed", model=NOVA, **CATALOGUED)),
        ("stay", None),
        ("launch", "nova"),
        own=row(NOVA, usd=9_000),
    ),
    "a teacher of one's own": Case(
        question(arm("taught", method="distillation", model=NOVA, teacher=LITE)),
        ("launch", "taught"),
        ("stay", None),
        own=OWN_PAIR,
    ),
    "a teacher that has gone, and one that nobody vouches for": Case(
        question(
            arm("taught", method="distillation", model=NOVA, teacher=PRO),
            arm("vouched for by nobody", method="distillation", model=NOVA, teacher=LITE),
        ),
        ("stay", None),
        ("launch", "taught"),
        own=row(PRO, usd=1, shuts_down="2026-11-01"),
    ),
    "outcomes": Case(
        question(arm("sft", gain=None), arm("rft", method="rft", gain=None)),
        ("launch", "sft"),
        ("launch", "rft"),
        experience=known(sft=0.15, rft=0.0),
    ),
    "outcomes that were bad": Case(
        question(arm("sft", gain=None)), ("stay", None), ("launch", "sft"), experience=known(sft=-0.02)
    ),
    "one advisor": Case(two(), ("launch", "b"), ("launch", "a"), criteria=[opinion(2_000, b=0.9)]),
    "three advisors, one of them far off": Case(
        two(),
        ("launch", "b"),
        ("launch", "a"),
        criteria=[opinion(2_000, b=1.0), opinion(2_000, b=0.9), opinion(900_000, b=0.0)],
    ),
    "all together": Case(
        question(
            arm("sft", gain=None, model="openai/ours", **CATALOGUED),
            arm("rft", method="rft", gain=None),
            arm("taught", method="distillation", model=NOVA, teacher=LITE),
        ),
        ("launch", "sft"),
        UnknownName,
        own=row("openai/ours", usd=1) + OWN_PAIR,
        experience=known(sft=0.12, rft=0.3),
        criteria=[opinion(90_000, rft=0.0, taught=0.1)],
    ),
}
