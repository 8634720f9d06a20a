"""The verdict that a launch depends on is the command's, whoever computes it: rows of one's own, outcomes, advisors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.cli import main
from stepforge.contracts.base import canonical_json, digest
from stepforge.contracts.decisions import Decision, Outcome, Question, Range
from stepforge.economics.catalogue import Catalogue, ModelPrice
from stepforge.economics.decide import decide
from stepforge.economics.experience import Experience
from stepforge.economics.files import read_criteria
from stepforge.economics.grounds import Grounds
from stepforge.errors import DoesNotPay, InvalidInput, UnknownName
from stepforge.finetune import TuneSpec, flow
from stepforge.finetune.client import Tunes
from stepforge.finetune.entries import Stage
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.request import Request, Start, Tools, request_bytes
from stepforge.machines.executions import Execution
from tests.unit.economics.asking import arm, question
from tests.unit.finetune.conftest import PRICE
from tests.unit.finetune.test_holding import LIMITS, MODEL, Vendor, flat, plan_of

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
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
Say = Callable[..., Any]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = main([*words, "--json"])
        said = capsys.readouterr()
        assert ended == code, said.err + said.out
        return json.loads(said.out)

    return run


class Bucket:
    """S3 in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_object(self, *, Key: str, Body: bytes, **_: Any) -> None:
        self.objects[Key] = Body

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:
        return {"Body": SimpleNamespace(read=lambda: self.objects[Key])}


@dataclass
class Cloud:
    """An environment whose functions have nothing but what was uploaded, and the catalogue that ships."""

    s3: Bucket
    folder: Path
    started: list[Start] = field(default_factory=list)

    def client(self, service: str) -> Any:
        return self.s3 if service == "s3" else None

    name = "dev"
    environment = SimpleNamespace(bucket="bucket", machines={"finetune": "arn:finetune"})

    def machine(self, start: Start) -> flow.Flow:
        """What the function does first, each time with an empty ledger."""
        ledger = FileLedger(self.folder / f"ledger-{len(list(self.folder.iterdir()))}.sqlite")
        tools = Tools(ledger, self.s3, sagemaker=None, secrets=None, bucket="bucket", environment="dev", limits=LIMITS)
        try:
            return flow.decide(tools, start, lambda _: None)
        except DoesNotPay:
            assert ledger.entries() == ()
            raise


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    made = Cloud(Bucket(), tmp_path)

    def start(states: Any, machine: str, name: str, sha256: str, given: dict[str, Any]) -> Execution:
        made.started.append(Start.model_validate(given))
        return Execution(machine, f"finetune-{sha256[:12]}", "RUNNING", datetime.now(UTC))

    monkeypatch.setattr("stepforge.machines.executions.start_or_adopt", start)
    monkeypatch.setattr("stepforge.client.connect", lambda *_, **__: made)
    monkeypatch.setattr("stepforge.finetune.request.connect", lambda *_: Vendor())
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    return made


@each_case
def test_the_machine_comes_to_the_whole_verdict_of_the_command_from_its_request_alone(
    case: Case, cloud: Cloud, spec: TuneSpec, tmp_path: Path, say: Say
) -> None:
    if isinstance(case.without, tuple):
        plain = decide(case.question)
        assert (plain.action, plain.arm) == case.without != case.expected
    else:
        with pytest.raises(case.without):
            decide(case.question)
    path, *options = case.options(tmp_path)
    told = Decision.model_validate(say("finetune", "decide", path, *options))
    assert (told.action, told.arm) == case.expected

    catalogue = Catalogue.load(*([tmp_path / "own.toml"] if case.own else []))
    advisors = [read_criteria(one, case.question) for one in sorted(tmp_path.glob("criteria-*.json"))]
    grounds = Grounds.of(case.question, catalogue=catalogue, experience=case.experience, advisors=advisors)
    for name in (one.name for one in case.question.arms):
        data, sha256 = request_bytes(request_for(spec, question=case.question, arm=name, grounds=grounds))
        cloud.s3.objects["request"] = data
        cloud.s3.objects[f"finetune/data/{spec.training.filename}"] = (tmp_path / spec.training.filename).read_bytes()
        carried = Request.model_validate_json(data)
        assert carried.question is not None
        assert carried.grounds is not None
        assert carried.grounds.verdict(carried.question) == told
        start = Start(request_uri="s3://bucket/request", request_sha256=sha256)
        if case.expected == ("launch", name):
            assert cloud.machine(start).stage in (Stage.RESERVED, Stage.NEEDS_APPROVAL)
        else:
            with pytest.raises(DoesNotPay, match="is not what the evaluator would launch"):
                cloud.machine(start)


def request_for(spec: TuneSpec, **given: Any) -> Request:
    tune = spec.model_copy(update={"environment": "dev", "base_model": "small"})
    plain: dict[str, Any] = {"plan": plan_of(base_model="small"), "spec": tune, "price": flat("1"), "domain": "d"}
    return Request(**plain, needed_until=PRICE.as_of, heldout_sha256="a" * 64, **given)


PLAN = f"""
environment = "dev"
base_model = "{MODEL}"
method = "sft"
[provider]
type = "openai"
api_key_secret = "stepforge/dev/openai"
[budgets]
job_usd = 1_000
day_usd = 1_000
environment_usd = 1_000
approval_usd = 1_000
"""


def files(folder: Path) -> list[str]:
    plan, data = folder / "plan.toml", folder / "data.jsonl"
    plan.write_text(PLAN)
    rows = [{"prompt": f"{n}{' word' * 200}", "answer": str(n), "split": "rl"} for n in range(40)]
    rows += [{"prompt": f"{n}", "answer": f"{n}", "split": "test_new"} for n in range(3)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    return [str(plan), "--data", str(data), "--env", "dev", "--detach"]


@each_case
def test_start_takes_what_decide_takes_and_the_machine_goes_on_with_it(
    case: Case, cloud: Cloud, tmp_path: Path, say: Say
) -> None:
    path, *options = case.options(tmp_path)
    if not case.own:  # the plan's own model is closed to new tunes one day
        options += ["--catalogue", str(tmp_path / "own.toml")]
        (tmp_path / "own.toml").write_text("version = 1\n")
    own = tmp_path / "own.toml"
    if MINI not in own.read_text():
        own.write_text(own.read_text() + row(MINI, usd=0.01))
    told = say("finetune", "decide", path, *options)
    for name in (one.name for one in case.question.arms):
        words = ["finetune", "start", *files(tmp_path), "--question", path, "--arm", name, *options]
        if case.expected == ("launch", name):
            say(*words)
            (start,) = cloud.started
            assert cloud.machine(start).stage == Stage.RESERVED
        else:
            before = dict(cloud.s3.objects)
            refused = say(*words, code=12)
            assert (refused["error"], told["sentence"] in refused["message"]) == ("DoesNotPay", True)
            assert cloud.s3.objects == before
    assert len(cloud.started) == (case.expected[0] == "launch")


def test_a_row_of_one_s_own_decides_the_verdict_and_not_what_is_charged(cloud: Cloud, tmp_path: Path, say: Say) -> None:
    case = CASES["a row in the place of one that ends"]
    path, *options = case.options(tmp_path)
    say("finetune", "start", *files(tmp_path), "--question", path, "--arm", "mini", *options)
    (start,) = cloud.started
    key = start.request_uri.partition("s3://bucket/")[2]
    asked = Request.model_validate_json(cloud.s3.objects[key])
    assert asked.grounds is not None
    assert (asked.price.usd, [one.id for one in asked.grounds.models]) == (Decimal("0.01"), [MINI])
    # 5 USD for 1M tokens is the price that ships; by one's own it would be a cent.
    estimate = Vendor().estimate(asked.spec, ModelPrice.model_validate({**asked.price.model_dump(), "usd": 5}))
    assert estimate.high_usd > Decimal("0.05")
    assert cloud.machine(start).estimate_usd == str(estimate.high_usd)


def test_a_request_without_a_question_keeps_the_digest_that_it_had(spec: TuneSpec) -> None:
    request = request_for(spec)
    plain = request.model_dump(mode="json", exclude={"grounds"})
    assert request_bytes(request) == (canonical_json(plain), digest(plain))


def test_a_request_of_an_earlier_release_is_judged_by_what_ships(spec: TuneSpec, cloud: Cloud, tmp_path: Path) -> None:
    asked = CASES["a dearer row"].question
    data, sha256 = request_bytes(request_for(spec, question=asked, arm="nova"))
    cloud.s3.objects["request"] = data
    cloud.s3.objects[f"finetune/data/{spec.training.filename}"] = (tmp_path / spec.training.filename).read_bytes()
    assert cloud.machine(Start(request_uri="s3://bucket/request", request_sha256=sha256)).key


def test_grounds_hold_no_more_than_the_question_reads() -> None:
    grounds = Grounds.of(CASES["outcomes"].question, catalogue=Catalogue.load())
    assert (grounds.models, grounds.pairs, set(grounds.priors)) == ((), (), {"sft", "rft"})
    grounds = Grounds.of(CASES["a teacher of one's own"].question, catalogue=Catalogue.load())
    assert {NOVA, LITE} <= {one.id for one in grounds.models} < Catalogue.load().rows.keys()
    assert (grounds.priors, all(NOVA in pair.students for pair in grounds.pairs)) == ({}, True)


# ── What cannot be ───────────────────────────────────────────────────────────────────────────────


def test_an_arm_that_is_not_asked_about_and_options_without_a_question_are_refused_before_anything(
    cloud: Cloud, tmp_path: Path, say: Say
) -> None:
    path, *options = CASES["one advisor"].options(tmp_path)
    own = tmp_path / "own.toml"
    own.write_text(f"version = 1\n{row(MINI, usd=1)}")
    given = [*files(tmp_path), "--catalogue", str(own)]
    refused = say("finetune", "start", *given, "--question", path, "--arm", "bb", *options, code=2)
    assert "unknown arm of the question 'bb': did you mean 'b'?" in refused["message"]
    refused = say("finetune", "start", *given, *options, code=2)
    assert "--experience and --criteria weigh a question: give --question and --arm" in refused["message"]
    absent = str(tmp_path / "absent.json")
    refused = say("finetune", "decide", path, "--experience", absent, code=2)
    assert f"there is no experience {absent!r}" in refused["message"]
    assert (cloud.s3.objects, cloud.started) == ({}, [])
    with pytest.raises(InvalidInput, match="--question and --arm belong together"):
        Tunes(cloud).start(  # type: ignore[arg-type]
            plan_of(provider={"type": "openai", "api_key_secret": "s"}), read_rows(tmp_path), tmp_path, domain="d",
            catalogue=Catalogue.load(), today=PRICE.as_of, question=two(),
        )  # fmt: skip


def read_rows(folder: Path) -> Any:
    from stepforge.finetune.pairs import read_items

    return read_items(folder / "data.jsonl", "records")


def test_grounds_without_a_question_are_refused(spec: TuneSpec) -> None:
    with pytest.raises(ValueError, match="grounds belong to a question"):
        request_for(spec, grounds=Grounds())
