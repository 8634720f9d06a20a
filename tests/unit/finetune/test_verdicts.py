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
from stepforge.contracts.decisions import Decision
from stepforge.economics.catalogue import Catalogue, ModelPrice
from stepforge.economics.decide import decide
from stepforge.economics.files import read_criteria
from stepforge.economics.grounds import Grounds
from stepforge.errors import DoesNotPay, InvalidInput
from stepforge.finetune import TuneSpec, flow
from stepforge.finetune.client import Tunes
from stepforge.finetune.entries import Stage
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.request import Request, Start, Tools, request_bytes
from stepforge.machines.executions import Execution
from tests.unit.finetune.conftest import NOTHING, PRICE
from tests.unit.finetune.deciding import CASES, LITE, MINI, NOVA, PRO, Case, row, two
from tests.unit.finetune.test_holding import LIMITS, MODEL, Vendor, flat, plan_of

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

    def lay(self, request: Request) -> Start:
        """Upload it with its data, past the checks of the command."""
        data, sha256 = request_bytes(request)
        name = request.spec.training.filename
        rows = (self.folder / name).read_bytes()
        self.s3.objects |= {"request": data, f"finetune/data/{name}": rows, f"finetune/heldout/{NOTHING}.jsonl": b""}
        return Start(request_uri="s3://bucket/request", request_sha256=sha256)

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
        start = cloud.lay(request_for(spec, question=case.question, arm=name, grounds=grounds))
        carried = Request.model_validate_json(cloud.s3.objects["request"])
        assert carried.question is not None
        assert carried.grounds is not None
        assert carried.grounds.verdict(carried.question) == told
        if case.expected == ("launch", name):
            assert cloud.machine(start).stage in (Stage.RESERVED, Stage.NEEDS_APPROVAL)
        else:
            with pytest.raises(DoesNotPay, match="is not what the evaluator would launch"):
                cloud.machine(start)


def request_for(spec: TuneSpec, **given: Any) -> Request:
    tune = spec.model_copy(update={"environment": "dev", "base_model": "small"})
    plain: dict[str, Any] = {"plan": plan_of(base_model="small"), "spec": tune, "price": flat("1"), "domain": "d"}
    return Request(**plain, needed_until=PRICE.as_of, heldout_sha256=NOTHING, **given)


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


def test_a_request_of_an_earlier_release_is_judged_by_what_ships(spec: TuneSpec, cloud: Cloud) -> None:
    asked = CASES["a dearer row"].question
    assert cloud.machine(cloud.lay(request_for(spec, question=asked, arm="nova"))).key


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


def test_a_teacher_of_one_s_own_is_advised_and_refused_by_the_machine_before_anything_is_uploaded(
    cloud: Cloud, tmp_path: Path, say: Say
) -> None:
    path, *options = CASES["a teacher of one's own"].options(tmp_path)
    plan, *given = files(tmp_path)
    place = 'type = "bedrock"\nrole_arn = "arn:aws:iam::000000000000:role/r"\nfolder_uri = "s3://bucket/tunes"'
    text = PLAN.replace('type = "openai"\napi_key_secret = "stepforge/dev/openai"', place)
    text = text.replace(MODEL, NOVA.partition("/")[2]).replace('"sft"', '"distillation"')
    Path(plan).write_text(f'{text}[teacher]\nmodel = "{LITE.partition("/")[2]}"\nmax_response_tokens = 100\n')
    refused = say("finetune", "start", plan, *given, "--question", path, "--arm", "taught", *options, code=2)
    assert f"for {NOVA!r}, and 'amazon.nova-lite-v1:0' is none of them ({PRO}" in refused["message"]
    assert (cloud.s3.objects, cloud.started) == ({}, [])


def test_grounds_without_a_question_are_refused(spec: TuneSpec) -> None:
    with pytest.raises(ValueError, match="grounds belong to a question"):
        request_for(spec, grounds=Grounds())
