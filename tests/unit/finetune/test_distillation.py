"""A distillation: who may teach whom, what it costs, and each adapter from launch to deletion."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from stepforge.cli import main
from stepforge.economics.catalogue import Catalogue, ModelPrice
from stepforge.errors import (
    InvalidInput,
    ModelGone,
    ProviderRefused,
    StepforgeError,
    UnknownName,
    UnknownPrice,
)
from stepforge.finetune import Job, Message, State, TokenRange, TuneSpec, flow, launch_key
from stepforge.finetune.datasets import write
from stepforge.finetune.entries import Stage
from stepforge.finetune.holding import held, shipped
from stepforge.finetune.job import estimate
from stepforge.finetune.launching import launch
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.plan import Plan
from stepforge.finetune.provider import ChecksServing
from stepforge.finetune.request import Request, Start, Tools, request_bytes
from stepforge.finetune.spec import Hyperparameters, Teacher
from stepforge.finetune.watching import billed
from stepforge.testing.providers import Fault, LocalBedrock, LocalVertex
from tests.unit.finetune.conftest import BUDGETS, NOTHING, PRICE, Clock
from tests.unit.finetune.distilling import (
    GEMINI,
    NOVA,
    QWEN,
    TEACHERS,
    distillation_case,
    distillation_price,
    distillation_spec,
)
from tests.unit.finetune.test_datasets import make
from tests.unit.finetune.test_holding import LIMITS
from tests.unit.finetune.test_providers import Case

TODAY = date(2026, 11, 22)
SHOPS = {NOVA: LocalBedrock, GEMINI: LocalVertex, QWEN: LocalVertex}


@pytest.fixture(params=[NOVA, GEMINI], ids=["bedrock", "vertex"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Case, ModelPrice]]:
    with SHOPS[request.param](delay_seconds=0.02) as server:
        yield distillation_case(server, tmp_path, request.param)


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[tuple[Case, ModelPrice]]:
    """An open model at Vertex."""
    with LocalVertex(delay_seconds=0.02) as server:
        yield distillation_case(server, tmp_path, QWEN)


def start(shop: tuple[Case, ModelPrice], clock: Clock) -> Any:
    case, price = shop
    ledger = FileLedger(case.folder / "spend.sqlite", clock=clock)

    def sleep(seconds: float) -> None:
        case.server.settle()
        clock.sleep(seconds)

    return launch(case.provider, case.spec, case.folder, ledger=ledger, budgets=BUDGETS, price=price, sleep=sleep)


def ended(case: Case, job_id: str) -> Job:
    for _ in range(6):
        job = case.provider.status(job_id)
    return job


# ── What is asked for ────────────────────────────────────────────────────────────────────────────


def test_a_teacher_belongs_to_a_distillation_and_to_nothing_else(spec: TuneSpec, tmp_path: Path) -> None:
    distilled = distillation_spec(tmp_path, NOVA).model_dump()
    other = {**distilled["training"], "sha256": "1" * 64}
    for change, words in (
        ({"teacher": None}, "needs a teacher"),
        ({"method": "sft"}, "no other method has one"),
        ({"validation": other}, "splits its own validation off"),
    ):
        with pytest.raises(ValidationError, match=words):
            TuneSpec.model_validate({**distilled, **change})
    with pytest.raises(ValidationError, match="needs a teacher, and no other method has one"):
        TuneSpec.model_validate({**spec.model_dump(), "teacher": distilled["teacher"]})
    with pytest.raises(ValidationError, match="max_response_tokens"):
        Teacher(model="m", max_response_tokens=0)


def test_launches_from_before_there_were_teachers_keep_their_keys(spec: TuneSpec, tmp_path: Path) -> None:
    training = spec.training.model_copy(update={"sha256": "0" * 64, "bytes": 9, "rows": 10})
    given = {**spec.model_dump(), "training": training.model_dump(), "environment": "dev", "hyperparameters": {}}
    before = "sf-a068f9f011ee816494c4ae61aacf539b2d781ecd"
    assert launch_key(TuneSpec.model_validate(given), "https://api.example.com") == before
    for student, same in ((NOVA, False), (GEMINI, True)):
        one, other = (distillation_spec(tmp_path, student, max_response_tokens=most) for most in (200, 300))
        # Bedrock is told how long a response may be; at Vertex it only counts the cost.
        assert (launch_key(one, "t") == launch_key(other, "t")) == same
        assert launch_key(one, "t") != launch_key(distillation_spec(tmp_path, student, model="another"), "t")


@pytest.mark.parametrize(
    ("student", "change", "words"),
    [
        (NOVA, {"hyperparameters": Hyperparameters(epochs=3)}, "takes suffix: leave epochs out"),
        (NOVA, {"teacher": {"sft_loss_weight": 0.5}}, "sft_loss_weight belongs to Vertex"),
        (GEMINI, {"teacher": {"labelled": True}}, "labelled"),
        (GEMINI, {"hyperparameters": Hyperparameters(samples_per_prompt=4, seed=1)}, "samples_per_prompt, seed out"),
        (GEMINI, {"hyperparameters": Hyperparameters(beta=0.1)}, "leave beta out"),
        (GEMINI, {"hyperparameters": Hyperparameters(batch_size=4)}, "leave batch_size out"),
        (
            QWEN,
            {"hyperparameters": Hyperparameters(adapter_size=4)},
            "takes epochs, batch_size, suffix: leave adapter_size out",
        ),
        (QWEN, {"base_model": GEMINI}, "write it for 'vertex'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_would_mean_nothing_are_refused(
    student: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with SHOPS[student]() as server:
        case, _ = distillation_case(server, tmp_path, student)
        teacher = case.spec.teacher
        assert teacher is not None
        case.provider.validate(case.spec)
        if "teacher" in change:
            change = {"teacher": teacher.model_copy(update=change["teacher"])}
        with pytest.raises(InvalidInput, match=words):
            case.provider.validate(case.spec.model_copy(update=change))
        assert server.seen == []


def test_no_other_provider_distils(tmp_path: Path) -> None:
    from tests.unit.finetune.test_providers import openai_case, sagemaker_case

    spec = distillation_spec(tmp_path, NOVA)
    server = SimpleNamespace(url="http://127.0.0.1:9")
    for make_case in (openai_case, sagemaker_case):
        with pytest.raises(InvalidInput, match="'distillation'"):
            make_case(server, tmp_path).provider.validate(spec)  # type: ignore[operator]


# ── At the provider ──────────────────────────────────────────────────────────────────────────────


def test_a_distillation_goes_from_launch_to_deletion(shop: tuple[Case, ModelPrice], clock: Clock) -> None:
    case, price = shop
    done = start(shop, clock)
    assert (done.stage, len(case.server.jobs), done.job.local_fake) == (Stage.LAUNCHED, 1, True)
    with pytest.raises(ProviderRefused, match="until it has succeeded"):
        case.provider.retrieve(done.job.id)
    job = ended(case, done.job.id)
    assert (job.state, job.key) == (State.SUCCEEDED, launch_key(case.spec, case.provider.target))
    # What a job says that it trained on is no bill: the teacher's words are not in it.
    assert billed(job, price) is None
    assert billed(job.model_copy(update={"billable_tokens": 10**6}), price) is None
    tuned = case.provider.retrieve(job.id)
    answer = case.provider.invoke(tuned, [Message(role="user", content="1 + 1 =")], max_tokens=9)
    assert answer.text.startswith("[local fake")
    for _ in range(2):
        case.provider.delete(tuned)
    with pytest.raises(ProviderRefused):
        case.provider.invoke(tuned, [Message(role="user", content="hi")], max_tokens=9)
    assert start(shop, clock).entry.job_id == job.id
    assert len(case.server.jobs) == 1


def test_the_teacher_is_sent_in_the_provider_s_words(tmp_path: Path, clock: Clock) -> None:
    with LocalBedrock() as server, LocalVertex() as vertex:
        shop = distillation_case(server, tmp_path)
        start(shop, clock)
        (job,) = server.jobs.values()  # type: ignore[attr-defined]
        asked = job["asked"]
        assert asked["customizationType"] == "DISTILLATION"
        said = asked["customizationConfig"]["distillationConfig"]["teacherModelConfig"]
        assert said == {"teacherModelIdentifier": TEACHERS[NOVA], "maxResponseLengthForInference": 200}
        assert "hyperParameters" not in asked
        case, price = distillation_case(vertex, tmp_path, QWEN)
        teacher = Teacher(model=TEACHERS[QWEN], max_response_tokens=200, sft_loss_weight=0.5)
        case.spec = case.spec.model_copy(update={"teacher": teacher, "hyperparameters": Hyperparameters(epochs=3)})
        start((case, price), clock)
        (made,) = vertex.jobs.values()  # type: ignore[attr-defined]
        found = made["distillationSpec"]
        assert (found["baseTeacherModel"], made["baseModel"]) == (TEACHERS[QWEN], QWEN)
        assert found["hyperParameters"] == {"epochCount": 3, "sftLossWeightMultiplier": 0.5}
        assert made["outputUri"].startswith("gs://bucket/tunes/output/sf-")
        assert "supervisedTuningSpec" not in made


@pytest.mark.parametrize("fault", ["lost", "late", "error_after", "error", "dropped", "wrong_schema", "throttled"])
def test_a_distillation_is_charged_once_whatever_the_answer_was(
    shop: tuple[Case, ModelPrice], fault: Fault, clock: Clock
) -> None:
    case, _ = shop
    case.server.fail(fault, method=case.create[0], path=case.create[1])
    done = start(shop, clock)
    case.server.settle()
    assert (done.stage.sent, len(case.server.jobs)) == (True, 1)


def test_cancelling_a_distillation_stops_it(shop: tuple[Case, ModelPrice], clock: Clock) -> None:
    case, _ = shop
    done = start(shop, clock)
    for _ in range(2):
        assert case.provider.cancel(done.job.id).state == State.CANCELLED


def test_an_open_student_comes_back_as_weights_and_is_paid_for_only_where_that_is_wanted(
    weights: tuple[Case, ModelPrice], clock: Clock, tmp_path: Path
) -> None:
    case, _ = weights
    job = ended(case, start(weights, clock).job.id)
    assert job.state == State.SUCCEEDED
    with pytest.raises(ProviderRefused, match=r"gs://bucket/tunes/output/sf-\w+/postprocess/node-0/checkpoints/final"):
        case.provider.retrieve(job.id)
    assert isinstance(case.provider, ChecksServing)
    with pytest.raises(InvalidInput, match="neither judged nor registered"):
        case.provider.check_serving(case.spec)
    case.provider.check_serving(distillation_spec(tmp_path, GEMINI))


@pytest.mark.parametrize("student", [NOVA, GEMINI, QWEN])
def test_the_local_servers_refuse_what_the_vendors_would(student: str, tmp_path: Path) -> None:
    """Past our own checks: what a caller of the API would hear."""
    with SHOPS[student]() as server:
        case, _ = distillation_case(server, tmp_path, student)
        teacher = case.spec.teacher
        assert teacher is not None
        prepared = case.provider.prepare(case.spec, case.folder)
        foreign = teacher.model_copy(update={"model": "amazon.nova-lite-v1:0"})
        wrong = case.spec.model_copy(update={"teacher": foreign})
        with pytest.raises(ProviderRefused, match="cannot be distilled from"):
            case.provider.launch(wrong, prepared, key="sf-pair")
        answered = write([make(f"{n}", id=f"r{n}") for n in range(120)], tmp_path, provider="openai", method="sft")
        other = case.provider.prepare(case.spec.model_copy(update={"training": answered}), case.folder)
        with pytest.raises(ProviderRefused, match=r"valid prompts|no prompt in the form"):
            case.provider.launch(case.spec, other, key="sf-rows")
        case.provider.launch(case.spec, prepared, key="sf-right")
        assert len(server.jobs) == 1  # type: ignore[attr-defined]


def test_a_type_and_a_configuration_that_do_not_go_together_are_refused_by_bedrock(tmp_path: Path) -> None:
    with LocalBedrock() as server:
        case, _ = distillation_case(server, tmp_path)
        prepared = case.provider.prepare(case.spec, case.folder)
        client = case.provider._bedrock  # type: ignore[attr-defined]
        config = {"distillationConfig": {"teacherModelConfig": {"teacherModelIdentifier": TEACHERS[NOVA]}}}
        asked = {
            "jobName": "j",
            "customModelName": "m",
            "roleArn": "arn:aws:iam::000000000000:role/r",
            "baseModelIdentifier": NOVA,
            "trainingDataConfig": {"s3Uri": prepared.training},
            "outputDataConfig": {"s3Uri": "s3://bucket/out"},
        }
        wrong: list[dict[str, Any]] = [
            {"customizationType": "FINE_TUNING", "customizationConfig": config},
            {"customizationType": "DISTILLATION"},
            {
                "customizationType": "DISTILLATION",
                "customizationConfig": config,
                "hyperParameters": {"epochCount": "2"},
            },
        ]
        for more in wrong:
            with pytest.raises(client.exceptions.ValidationException, match=r"distillationConfig|hyperParameters"):
                client.create_model_customization_job(**asked, **more)
        made = client.create_model_customization_job(
            **asked, customizationType="DISTILLATION", customizationConfig=config
        )
        found = client.get_model_customization_job(jobIdentifier=made["jobArn"])
        assert found["statusDetails"]["dataProcessingDetails"]["status"] == "InProgress"
        assert found["customizationConfig"] == config


@pytest.mark.parametrize("fault", ["echo", "error", "lost", None])
def test_nothing_of_the_data_is_logged_or_in_an_error(
    shop: tuple[Case, ModelPrice], fault: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    case, _ = shop
    case.provider.remembers_seconds = 0.0
    case.server.plan = lambda _: fault
    said = ""
    with caplog.at_level(logging.DEBUG):
        try:
            start(shop, clock)
        except StepforgeError as error:
            said = "".join(traceback.format_exception(error))
    assert bool(said) == (fault is not None)
    assert "+ 1 =" not in caplog.text + said


# ── Who may teach whom, and at whose price ───────────────────────────────────────────────────────

BEDROCK = {"type": "bedrock", "role_arn": "arn:aws:iam::1:role/r", "folder_uri": "s3://bucket/tunes"}
VERTEX = {"type": "vertex", "project": "p", "location": "us-central1", "folder_uri": "gs://bucket/tunes"}


def plan(student: str = NOVA, teacher: str | None = TEACHERS[NOVA], **given: Any) -> Plan:
    base: dict[str, Any] = {"environment": "dev", "method": "distillation", "budgets": BUDGETS.model_dump()}
    base |= {"provider": BEDROCK if student.startswith(("amazon.", "meta.")) else VERTEX, "base_model": student}
    if teacher is not None:
        base["teacher"] = {"model": teacher, "max_response_tokens": 200}
    return Plan.model_validate({**base, **given})


def test_a_plan_has_the_student_s_price_and_its_teacher_s_from_the_catalogue() -> None:
    terms = plan().terms(Catalogue.load(), TODAY)
    assert (terms.price.usd, terms.price.unit) == (Decimal("0.001"), "1K tokens")
    rates = terms.price.teacher
    assert rates is not None
    assert (rates.model, rates.input.usd, rates.output.usd) == (TEACHERS[NOVA], Decimal("0.0008"), Decimal("0.0032"))
    assert any("nova-pro-v1:0: the price of output is secondary" in line for line in terms.warnings)
    assert plan().booked_at(Catalogue.load()) == terms.price


def test_a_price_of_one_s_own_for_the_training_leaves_the_teacher_s_to_the_catalogue() -> None:
    rates = plan(price=PRICE).terms(Catalogue.load(), TODAY).price.teacher
    assert rates is not None
    assert rates.output.usd == Decimal("0.0032")
    own = distillation_price(TEACHERS[QWEN])
    assert plan(QWEN, TEACHERS[QWEN], price=own).terms(Catalogue.load(), TODAY).price == own


@pytest.mark.parametrize(
    ("student", "teacher", "error", "words"),
    [
        (NOVA, None, ModelGone, "needs a teacher: the catalogue knows .*nova-pro"),
        (NOVA, "us.amazon.nova-premier-v1:0", ModelGone, "shut down on 2026-09-14, and .*nova-pro.* is left"),
        ("amazon.nova-pro-v1:0", "amazon.nova-premier-v1:0", ModelGone, "2026-09-14, and no other is left"),
        (NOVA, "amazon.nova-lite-v1:0", ModelGone, r"not known to teach .*\[\[pairs\]\]"),
        (NOVA, "us.anthropic.claude-sonnet-4-v1:0", ModelGone, "not known to teach"),
        ("amazon.nova-lite-v1:0", "amazon.nova-pro-v1:0", UnknownPrice, r"no price of training_tokens .*\[price\]"),
        ("amazon.nova-9-v1:0", "amazon.nova-pro-v1:0", UnknownName, "student of the catalogue"),
        (QWEN, TEACHERS[QWEN], UnknownPrice, "no price of training_tokens"),
        ("gemini-3.5-flash", TEACHERS[GEMINI], ModelGone, "cannot be tuned by distillation"),
    ],
    ids=["none", "gone", "none left", "other", "claude", "no price", "no row", "open", "not a student"],
)
def test_what_nobody_knows_or_prices_is_refused_with_advice(
    student: str, teacher: str | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan(student, teacher).terms(Catalogue.load(), TODAY)


def test_a_teacher_without_prices_is_no_free_one() -> None:
    with pytest.raises(UnknownPrice, match=r"no price of input is known for 'vertex/deepseek-ai/deepseek-v3\.2-maas'"):
        plan(QWEN, "deepseek-ai/deepseek-v3.2-maas", price=PRICE).terms(Catalogue.load(), TODAY)


OWN = """
version = 1
[[models]]
id = "bedrock/amazon.nova-9-v1:0"
provider = "bedrock"
shuts_down = 2027-03-01
as_of = 2026-11-01
source = "a documentation page"
prices = [
    {kind = "input", usd = 1, unit = "1M tokens", as_of = 2026-11-01, source = "a price page", confidence = "given"},
    {kind = "output", usd = 2, unit = "1M tokens", as_of = 2026-11-01, source = "a price page", confidence = "given"},
]
[[pairs]]
students = ["bedrock/amazon.nova-micro-v1:0"]
teachers = ["bedrock/amazon.nova-9-v1:0"]
as_of = 2026-11-01
source = "a documentation page"
"""


def test_a_pair_of_one_s_own_catalogue_is_known_and_its_teacher_s_end_is_told(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    own = Catalogue.load(tmp_path / "own.toml")
    terms = plan(NOVA, "amazon.nova-9-v1:0", needed_until=date(2027, 6, 1)).terms(own, TODAY)
    assert terms.price.teacher is not None
    assert any("nova-9-v1:0 shuts down on 2027-03-01" in line for line in terms.warnings)
    with pytest.raises(ModelGone, match="shut down on 2027-03-01"):
        plan(NOVA, "amazon.nova-9-v1:0").terms(own, date(2027, 3, 1))
    # Without it nobody vouches for the pair: nothing is sent, from Python neither.
    with LocalBedrock() as server:
        case, _ = distillation_case(server, tmp_path)
        case.spec = distillation_spec(tmp_path, NOVA, model="amazon.nova-9-v1:0")
        with pytest.raises(InvalidInput, match="not known to teach"):
            start((case, distillation_price("amazon.nova-9-v1:0")), clock)
        assert server.seen == []


# ── What it costs ────────────────────────────────────────────────────────────────────────────────


def test_the_estimate_goes_from_one_word_each_to_all_that_bedrock_may_make(tmp_path: Path) -> None:
    spec = distillation_spec(tmp_path, NOVA)
    tokens = TokenRange(low=1_200_000, high=1_800_000, method="a test")
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"tokens": tokens})})
    found = estimate(spec, distillation_price(TEACHERS[NOVA]))
    # 120 prompts of 10,000 tokens, answered in a token each, trained on once.
    assert found.low_usd == Decimal("3.60")
    # 15,000 prompts of 15,000 tokens, each answered in 200, trained on five times.
    prompts, responses = 15_000 * 15_000, 15_000 * 200
    assert found.high_usd == (prompts + 3 * responses + 2 * 5 * (prompts + responses)) / Decimal(10**6)
    assert (found.tokens.low, found.tokens.high) == (1_200_120, 5 * (prompts + responses))
    # A token each is read by nobody and still said, and trained on.
    nothing = spec.training.model_copy(update={"tokens": TokenRange(low=0, high=0, method="a test")})
    dear = distillation_price(TEACHERS[NOVA])
    assert dear.teacher is not None
    said = dear.teacher.output.model_copy(update={"usd": Decimal(30_000)})
    dear = dear.model_copy(update={"usd": Decimal(20_000), "teacher": dear.teacher.model_copy(update={"output": said})})
    assert estimate(spec.model_copy(update={"training": nothing}), dear).low_usd == Decimal("6.00")
    # Vertex makes no more of them, and trains as often as it is told.
    vertex = distillation_spec(tmp_path, GEMINI).model_copy(update={"hyperparameters": Hyperparameters(epochs=3)})
    vertex = vertex.model_copy(update={"training": vertex.training.model_copy(update={"tokens": tokens})})
    found = estimate(vertex, distillation_price(TEACHERS[GEMINI]))
    # 1.80 + 0.072 + 10.944: three items of a bill, each rounded.
    assert found.high_usd == Decimal("1.80") + Decimal("0.08") + Decimal("10.95")


def test_a_price_without_the_teacher_s_rates_or_with_another_s_is_none(tmp_path: Path) -> None:
    spec = distillation_spec(tmp_path, NOVA)
    with pytest.raises(UnknownPrice, match=r"\[price.teacher\]"):
        estimate(spec, PRICE)
    with pytest.raises(InvalidInput, match="give its rates"):
        estimate(spec, distillation_price("amazon.nova-lite-v1:0"))
    flat = distillation_price(TEACHERS[NOVA]).model_copy(update={"kind": "training_job", "unit": "job"})
    with pytest.raises(InvalidInput, match="give one of training_tokens"):
        estimate(spec, flat)


class Shop:
    """A provider that is no local fake, and is asked for its estimate alone."""

    local = False

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: Any = None) -> Any:
        return estimate(spec, price, hours=hours)


def test_the_machine_holds_a_distillation_to_the_dearer_price_and_asks_where_only_the_plan_knows(
    tmp_path: Path,
) -> None:
    shop: Any = Shop()
    cheap = distillation_price(TEACHERS[NOVA])
    assert cheap.teacher is not None
    cent = cheap.teacher.output.model_copy(update={"usd": Decimal("0.01")})
    cheap = cheap.model_copy(update={"teacher": cheap.teacher.model_copy(update={"output": cent}), "usd": Decimal(1)})
    found = held(plan(), distillation_spec(tmp_path, NOVA), cheap, shop, LIMITS, shipped())
    assert found.price.teacher is not None
    assert (found.price.teacher.output.usd, found.why_asked) == (Decimal("0.0032"), "")
    dear = distillation_price(TEACHERS[GEMINI])
    found = held(plan(GEMINI, TEACHERS[GEMINI]), distillation_spec(tmp_path, GEMINI), dear, shop, LIMITS, shipped())
    assert "no price of 'vertex/gemini-2.5-flash'" in found.why_asked
    priced = shipped().with_prices([(f"vertex/{GEMINI}", PRICE)])
    found = held(plan(GEMINI, TEACHERS[GEMINI]), distillation_spec(tmp_path, GEMINI), dear, shop, LIMITS, priced)
    assert "how long its teacher's responses are" in found.why_asked
    assert found.budgets.approval_usd < 0


def test_the_machine_refuses_what_it_could_not_judge_or_nobody_vouches_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalVertex() as server:
        for student, change, words in (
            (QWEN, {}, "neither judged nor registered"),
            (GEMINI, {"model": "gemini-9-pro"}, "gemini-9-pro is not known to teach vertex/gemini-2.5-flash"),
        ):
            case, price = distillation_case(server, tmp_path, student)
            asked = distillation_spec(tmp_path, student, **change)
            request = Request(
                plan=plan(student, TEACHERS[student], environment="local"),
                spec=asked,
                price=price,
                needed_until=TODAY,
                domain="d",
                heldout_sha256=NOTHING,
            )
            data, sha256 = request_bytes(request)
            s3 = SimpleNamespace(
                get_object=lambda Key, data=data, **_: {
                    "Body": SimpleNamespace(read=lambda: b"" if "/heldout/" in Key else data)
                }
            )
            monkeypatch.setattr("stepforge.finetune.request.connect", lambda *_, case=case: case.provider)
            ledger = FileLedger(tmp_path / "ledger.sqlite")
            tools = Tools(ledger, s3, sagemaker=None, secrets=None, bucket="b", environment="local")
            with pytest.raises(InvalidInput, match=words):
                flow.decide(tools, Start(request_uri="s3://bucket/r", request_sha256=sha256), lambda _: None)
            assert (server.seen, ledger.entries()) == ([], ())


# ── From the command line ────────────────────────────────────────────────────────────────────────

TOML = """
environment = "local"
base_model = "amazon.nova-micro-v1:0"
method = "distillation"
needed_until = 2026-12-31
[provider]
type = "bedrock"
role_arn = "arn:aws:iam::000000000000:role/tuning"
folder_uri = "s3://bucket/tunes"
endpoint_url = "{url}"
[teacher]
model = "{teacher}"
max_response_tokens = 300
[budgets]
job_usd = 100
day_usd = 100
environment_usd = 100
approval_usd = 100
"""


def test_a_distillation_is_launched_watched_and_listed_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    data, toml = tmp_path / "data.jsonl", tmp_path / "plan.toml"
    data.write_text(
        "\n".join(json.dumps({"prompt": f"{n} + 1 =", "answer": f"{n + 1}", "split": "rl"}) for n in range(100))
    )

    def call(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    with LocalBedrock(delay_seconds=0.02) as server:
        toml.write_text(TOML.format(url=server.url, teacher="us.amazon.nova-premier-v1:0"))
        gone = call("finetune", "launch", str(toml), "--data", str(data), code=2)
        assert (gone["error"], "2026-09-14" in gone["message"]) == ("ModelGone", True)
        assert server.seen == []
        toml.write_text(TOML.format(url=server.url, teacher="us.amazon.nova-pro-v1:0"))
        first, again = (call("finetune", "launch", str(toml), "--data", str(data)) for _ in range(2))
        assert (first["method"], again["job_id"], len(server.jobs)) == ("distillation", first["job_id"], 1)  # type: ignore[attr-defined]
        server.phases[first["key"]].end("Completed")  # type: ignore[attr-defined]
        last = call("finetune", "watch", str(toml), first["key"])
        assert (last["stage"], last["actual_usd"], last["local_fake"]) == ("succeeded", None, True)
    assert [entry["method"] for entry in call("finetune", "list")] == ["distillation"]
