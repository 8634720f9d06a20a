"""Whoever proposes a prompt: it is scored on the validation examples, metered, and never worse than the first one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import boto3
import pytest
from pydantic import SecretStr, ValidationError

from stepforge.errors import (
    InvalidInput,
    MissingExtra,
    OverBudget,
    ProviderRefused,
    ProviderUnavailable,
    StepforgeError,
    Throttled,
)
from stepforge.finetune import Completion, DatasetFile, Message, TokenRange, TuneSpec, launch_key
from stepforge.finetune.claude import AnthropicModel
from stepforge.finetune.metering import Meter, TokenPrices
from stepforge.finetune.optimisers import BedrockOptimiser, DspyOptimiser, GepaOptimiser
from stepforge.finetune.prompts import Example, Task, optimise
from stepforge.finetune.searches.dspy import Copro
from stepforge.finetune.searches.gepa import Gepa
from stepforge.finetune.searches.rewriting import MOST_TOKENS, BedrockRewriter, Rewriting
from stepforge.testing.providers import LocalAnthropic, LocalBedrock

PRICES = TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5))
REWRITING = TokenPrices(input_usd=Decimal(30), output_usd=Decimal(30))
EXAMPLES = [Example(prompt=f"{n} plus one", reference=str(n + 1)) for n in range(6)]
TARGET = "anthropic.claude-test-v1:0"


def metric(example: Example, text: str) -> float:
    return float(text.endswith(f" {example.reference}"))


def says(system: str, text: str) -> str:
    """A model that adds where its prompt has both words, and that proposes the second where it has read the first."""
    if text.endswith("plus one"):
        return f"It is {int(text.split()[0]) + 1}" if "ADD" in system and "DIGITS" in system else "no idea"
    words = "ADD in DIGITS" if "ADD" in text else "ADD"
    if "proposed_instruction" in system:
        return f"[[ ## proposed_instruction ## ]]\n{words}\n\n[[ ## proposed_prefix_for_output_field ## ]]\nIs:\n"
    return f"```\n{words}\n```"


class Model:
    """A metered model in this process. `says` answers a system prompt and a text."""

    local = True

    def __init__(self, meter: Meter | None = None, answer: Callable[[str, str], str] = says) -> None:
        self.meter = meter or Meter(PRICES, budget_usd=Decimal(10))
        self.asked: list[str] = []
        self._answer = answer

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        self.meter.room(10, max_tokens)
        system = "\n".join(m.content for m in messages if m.role == "system")
        text = next(m.content for m in messages if m.role == "user")
        self.asked.append(text)
        self.meter.book(10, 5)
        return Completion(text=self._answer(system, text), model="m", input_tokens=10, output_tokens=5)


def found_by(search: Any, model: Any = None, **options: Any) -> Any:
    return optimise(model or Model(), "Be kind.", EXAMPLES[:3], EXAMPLES[3:], metric=metric, search=search, **options)


@pytest.fixture
def bedrock() -> Iterator[LocalBedrock]:
    with LocalBedrock(rewrite=lambda prompt: f"{prompt} {'DIGITS' if 'ADD' in prompt else 'ADD'}") as server:
        assert isinstance(server, LocalBedrock)
        yield server


def rewriter(server: LocalBedrock, meter: Meter | None = None) -> BedrockRewriter:
    session = boto3.Session("AKIAPLANTED000000", "planted-secret", region_name="us-east-1")
    meter = meter or Meter(REWRITING, budget_usd=Decimal(10))
    return BedrockRewriter(session, TARGET, meter, endpoint_url=server.url)


# What every search goes through


def passes_over(task: Task) -> None:
    for prompt in ("ADD", "Be brief.", "ADD in DIGITS"):
        with suppress(Exception):
            task.validate(prompt)


@pytest.mark.parametrize("search", [Gepa(), Copro(breadth=2, depth=1), passes_over], ids=["gepa", "dspy", "another"])
def test_a_metric_that_fails_scores_nothing_and_ends_the_search(search: Any) -> None:
    """A library that takes the failure for a wrong answer would pay on, and keep what it could not judge."""
    if isinstance(search, Copro):
        pytest.importorskip("dspy", reason="it needs an environment of its own (pyproject.toml)")
    for error in (InvalidInput("the judge ended"), ValueError("a defect of the metric")):
        judged: list[str] = []

        def breaks(example: Example, text: str, error: Exception = error, judged: list[str] = judged) -> float:
            judged.append(text)
            if len(judged) > 4:
                raise error
            return 0.0

        with pytest.raises(type(error), match=str(error)):
            optimise(Model(), "Be kind.", EXAMPLES[:3], EXAMPLES[3:], metric=breaks, search=search)
        assert len(judged) == 5


def test_what_was_found_before_a_verifier_broke_is_kept_with_the_true_reason() -> None:
    def breaks(example: Example, text: str) -> float:
        if "idea" in text and found:
            raise InvalidInput("the judge ended")
        return metric(example, text)

    found: list[float] = []

    def search(task: Task) -> None:
        found.append(task.validate("ADD in DIGITS"))
        task.validate("Be brief.")

    kept = optimise(Model(), "Be kind.", EXAMPLES[:3], EXAMPLES[3:], metric=breaks, search=search)
    assert (kept.prompt, kept.score, kept.note) == (
        "ADD in DIGITS",
        1.0,
        "ended early: an answer could not be judged",
    )


def test_a_rewriting_goes_on_from_no_prompt_that_was_refused() -> None:
    """Its 0 is as good as a first prompt's 0, and each further rewriting of it would be paid for and refused."""

    def answer(system: str, text: str) -> str:
        if "TOO LONG" in system:
            raise ProviderRefused("refused", status=400)
        return says(system, text)

    rewritten = Model(answer=lambda system, text: f"{text} TOO LONG" if len(rewritten.asked) == 1 else "ADD in DIGITS")
    found = found_by(Rewriting(rewritten, times=2), Model(answer=answer))
    assert rewritten.asked == ["Be kind.", "Be kind."]
    assert (found.prompt, found.score, found.refused) == ("ADD in DIGITS", 1.0, 1)


def test_a_training_batch_as_large_as_the_validation_is_no_validation() -> None:
    def search(task: Task) -> None:
        for prompt in ("ADD in DIGITS", "ADD"):
            task.run(prompt, task.training)

    found = found_by(search)
    assert (found.prompt, found.score, found.candidates) == ("Be kind.", 0.0, 0)


def test_equals_go_to_the_first_prompt_and_nothing_is_validated_twice() -> None:
    model = Model()

    def search(task: Task) -> None:
        assert [task.validate(p) for p in ("Be brief.", "Be kind.", "Be brief.")] == [0.0] * 3

    found = found_by(search, model)
    assert (found.prompt, found.candidates, len(model.asked)) == ("Be kind.", 1, 6)


def test_a_worse_candidate_is_not_kept() -> None:
    found = optimise(
        Model(), "ADD in DIGITS", EXAMPLES[:1], EXAMPLES[1:], metric=metric, search=lambda task: [task.validate("x")]
    )
    assert (found.prompt, found.seed_score, found.score) == ("ADD in DIGITS", 1.0, 1.0)


@pytest.mark.parametrize("error", [ProviderUnavailable("lost"), OverBudget("too much")])
def test_an_error_that_a_library_passes_over_ends_the_search_all_the_same(error: StepforgeError) -> None:
    def answer(system: str, text: str) -> str:
        if "broken" in system:
            raise error
        return says(system, text)

    model = Model(answer=answer)

    def search(task: Task) -> None:
        task.validate("ADD in DIGITS")
        for prompt in ("broken", "Be brief."):
            try:
                task.validate(prompt)
            except StepforgeError:
                continue

    if isinstance(error, OverBudget):
        found = found_by(search, model)
        assert (found.stopped_by_budget, found.prompt) == (True, "ADD in DIGITS")
    else:
        with pytest.raises(ProviderUnavailable, match="lost"):
            found_by(search, model)
    assert len(model.asked) == 7


def test_a_refused_answer_fails_its_whole_batch_and_no_other() -> None:
    def answer(system: str, text: str) -> str:
        if "PICKY" in system and text.startswith("4"):
            raise ProviderRefused("content", status=400)
        return says(system, text)

    def search(task: Task) -> None:
        assert [score for _, score in task.run("ADD in DIGITS PICKY", task.training)] == [1.0] * 3
        assert task.validate("ADD in DIGITS PICKY") == task.validate("ADD in DIGITS PICKY") == 0.0
        task.validate("ADD in DIGITS")

    model = Model(answer=answer)
    found = found_by(search, model)
    assert (found.prompt, found.candidates, found.refused, found.note) == ("ADD in DIGITS", 2, 1, "")
    # The first prompt's three, three of training, one right and one refused, and three.
    assert len(model.asked) == 3 + 3 + 2 + 3


def test_refusals_that_are_not_in_a_row_do_not_end_a_search() -> None:
    def answer(system: str, text: str) -> str:
        if "LONG" in system:
            raise ProviderRefused("too long", status=413)
        return says(system, text)

    def search(task: Task) -> None:
        for number in range(12):
            assert task.validate(f"LONG {number}") == 0.0
            if number % 4 == 3:
                task.run(f"Be brief {number}.", task.training)
        task.validate("ADD in DIGITS")

    assert found_by(search, Model(answer=answer)).words.endswith("0.00 to 1.00, 13 tried beside it, 12 refused")


@pytest.mark.parametrize("fault", ["validationException", "accessDeniedException"])
def test_a_service_that_refuses_the_second_rewriting_leaves_the_first(fault: str, bedrock: LocalBedrock) -> None:
    def adds_at_once(system: str, text: str) -> str:
        if "ADD" not in system:
            return "no idea"
        bedrock.rewriter.failing = [fault]
        return f"It is {int(text.split()[0]) + 1}"

    found = found_by(Rewriting(rewriter(bedrock), times=2), Model(answer=adds_at_once))
    assert (found.prompt, found.seed_score, found.score, found.stopped_by_budget) == ("Be kind. ADD", 0.0, 1.0, False)
    assert found.note.startswith("ended early: a call was refused with status 40")
    bedrock.rewriter.failing = [fault]
    with pytest.raises(ProviderRefused):
        found_by(Rewriting(rewriter(bedrock), times=2), Model(answer=adds_at_once))


def test_a_defect_of_a_library_is_not_swallowed() -> None:
    def search(task: Task) -> None:
        task.validate("ADD in DIGITS")
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        found_by(search)


# Each search


def test_a_rewriting_goes_on_from_what_is_no_worse(bedrock: LocalBedrock) -> None:
    found = found_by(Rewriting(rewriter(bedrock), times=2))
    assert (found.prompt, found.seed_score, found.score) == ("Be kind. ADD DIGITS", 0.0, 1.0)
    assert bedrock.rewriter.asked == [(TARGET, "Be kind."), (TARGET, "Be kind. ADD")]


def test_dspy_finds_the_prompt_that_a_model_proposes_and_prints_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    dspy = pytest.importorskip("dspy", reason="it needs an environment of its own (pyproject.toml)")
    model = Model()
    with caplog.at_level(logging.DEBUG):
        found = found_by(Copro(breadth=2, depth=2, validated=2), model)
    assert (found.prompt, found.score, found.candidates) == ("ADD in DIGITS", 1.0, 2)
    # The first prompt, then 2 and 2 of which each is tried on 3 examples, three proposals, two validated.
    assert (found.calls, len(model.asked)) == (3 + 4 * 3 + 3 + 2 * 3,) * 2
    said = capfd.readouterr()
    for text in ("plus one", "DIGITS", "Be kind."):
        assert text not in caplog.text + said.out + said.err
    from dspy.clients.base_lm import GLOBAL_HISTORY

    assert (len(dspy.cache.memory_cache), len(dspy.cache.disk_cache), GLOBAL_HISTORY) == (0, 0, [])


def test_dspy_stops_with_the_money_and_where_a_model_proposes_nothing() -> None:
    pytest.importorskip("dspy", reason="it needs an environment of its own (pyproject.toml)")
    poor = Model(Meter(PRICES, budget_usd=Decimal("0.0045")))
    found = found_by(Copro(breadth=2, depth=9), poor)
    assert (found.stopped_by_budget, found.prompt, found.score) == (True, "ADD in DIGITS", 1.0)
    assert found.spent_usd <= Decimal("0.0045")
    deaf = Model(answer=lambda system, text: "no idea")
    found = found_by(Copro(), deaf)
    assert (found.prompt, found.note) == ("Be kind.", "the model proposed nothing in the form that dspy asks for")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, extra, search in (("gepa", "prompts", Gepa()), ("dspy", "dspy", Copro())):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=rf"stepforge\[{extra}\]"):
            found_by(search)


# Bedrock's rewriting


def test_a_rewriting_is_paid_out_of_the_same_budget_at_its_own_rate(bedrock: LocalBedrock) -> None:
    meter = Meter(PRICES, budget_usd=Decimal(10))
    found = found_by(Rewriting(rewriter(bedrock, meter.at(REWRITING))), Model(meter))
    # Two validations of three answers, and "Be kind." (8 bytes) to "Be kind. ADD" (12), 2.5 bytes a token.
    assert found.spent_usd == 6 * PRICE_OF_AN_ANSWER + Decimal(30) * (4 + 5) / 1_000_000
    poor = Meter(PRICES, budget_usd=Decimal("0.1"))
    stopped = found_by(Rewriting(rewriter(bedrock, poor.at(REWRITING))), Model(poor), max_tokens=9)
    assert (stopped.stopped_by_budget, stopped.prompt) == (True, "Be kind.")
    assert len(bedrock.rewriter.asked) == 1


PRICE_OF_AN_ANSWER = Decimal(10 + 5 * 5) / 1_000_000


@pytest.mark.parametrize(
    ("name", "kind", "charged"),
    [
        ("throttlingException", Throttled, False),
        ("validationException", ProviderRefused, False),
        ("accessDeniedException", ProviderRefused, False),
        ("internalServerException", ProviderUnavailable, True),
        ("badGatewayException", ProviderUnavailable, True),
        ("dependencyFailedException", ProviderUnavailable, True),
    ],
)
def test_a_stream_that_ends_with_an_error_raises_and_is_booked_where_it_may_be_charged(
    name: str, kind: type[StepforgeError], charged: bool, bedrock: LocalBedrock, caplog: pytest.LogCaptureFixture
) -> None:
    bedrock.rewriter.failing = [name]
    asked = rewriter(bedrock)
    with caplog.at_level(logging.DEBUG), pytest.raises(kind) as raised:
        asked.ask([Message(role="user", content="a planted prompt")], max_tokens=MOST_TOKENS)
    assert (asked.meter.spent_usd > 0) == charged
    assert "planted" not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("fault", "kind", "charged"),
    [
        ("throttled", Throttled, False),
        ("error", ProviderUnavailable, True),
        ("lost", ProviderUnavailable, True),
        ("dropped", ProviderUnavailable, True),
        ("wrong_schema", ProviderUnavailable, True),
        ("echo", ProviderRefused, False),
    ],
)
def test_a_call_that_fails_raises_and_is_sent_once(
    fault: Any, kind: type[StepforgeError], charged: bool, bedrock: LocalBedrock, caplog: pytest.LogCaptureFixture
) -> None:
    bedrock.fail(fault, path="/optimize-prompt")
    asked = rewriter(bedrock)
    with caplog.at_level(logging.DEBUG), pytest.raises(kind) as raised:
        asked.ask([Message(role="user", content="a planted prompt")], max_tokens=MOST_TOKENS)
    assert bedrock.calls("POST", "/optimize-prompt") == 1
    assert (asked.meter.spent_usd > 0) == charged
    assert "planted" not in str(raised.value) + caplog.text


# Settings


def spec(**given: Any) -> TuneSpec:
    tokens = TokenRange(low=90, high=110, method="o200k")
    method = given.pop("method", "prompt")
    file = DatasetFile(format="prompt", method=method, sha256="0" * 64, bytes=9, rows=10, tokens=tokens)
    return TuneSpec(provider="anthropic", environment="dev", base_model="claude", method=method, training=file, **given)


BEDROCK = {
    "type": "bedrock",
    "target_model_id": TARGET,
    "token_usd": 30,
    "as_of": "2026-11-01",
    "source": "the price list",
}


def test_another_optimiser_is_another_launch_and_none_keeps_the_key_that_it_had() -> None:
    assert launch_key(spec(), "anthropic:a") == KEY_BEFORE_THERE_WAS_A_CHOICE
    chosen = [GepaOptimiser(), GepaOptimiser(max_metric_calls=9), DspyOptimiser(type="dspy")]
    assert [spec(optimiser=one).how for one in (None, *chosen[1:])] == [
        "prompt by gepa",
        "prompt by gepa",
        "prompt by dspy",
    ]
    keys = [launch_key(spec(optimiser=one), "anthropic:a") for one in chosen]
    assert len(set(keys)) == 3
    # Said or not, it is the same search.
    assert keys[0] == KEY_BEFORE_THERE_WAS_A_CHOICE


def test_words_about_an_optimiser_pay_for_no_second_search() -> None:
    google = {"type": "vertex", "project": "p", "location": "us-central1"}
    rate = {name: BEDROCK[name] for name in ("token_usd", "as_of", "source")}
    for given in (BEDROCK, {**google, **rate}):
        key = launch_key(spec(optimiser=given), "anthropic:a")
        for words in ({"as_of": "2026-11-20"}, {"source": "our bill"}):
            assert launch_key(spec(optimiser={**given, **words}), "anthropic:a") == key
        for setting in ({"times": 2}, {"token_usd": 40}):
            assert launch_key(spec(optimiser={**given, **setting}), "anthropic:a") != key
    with_secret = spec(optimiser={**google, **rate, "credentials_secret": "stepforge/dev/finetune/vertex"})
    assert launch_key(with_secret, "anthropic:a") == key


KEY_BEFORE_THERE_WAS_A_CHOICE = "sf-794a65f4aa437fdb6fc77816a7c00aeee44c1b6e"


def test_settings_that_mean_nothing_or_lead_elsewhere_are_refused() -> None:
    with pytest.raises(ValidationError, match="searches no prompt"):
        spec(method="sft", optimiser=GepaOptimiser())
    other = spec().training.model_copy(update={"sha256": "1" * 64})
    with pytest.raises(ValidationError, match="splits its own validation off"):
        spec(validation=other)
    with pytest.raises(ValidationError, match="endpoint_url is for a local server"):
        BedrockOptimiser.model_validate({**BEDROCK, "endpoint_url": "https://attacker.example"})
    with pytest.raises(ValidationError, match="give token_usd"):
        BedrockOptimiser.model_validate({name: value for name, value in BEDROCK.items() if name != "token_usd"})


def test_the_state_machine_has_no_dspy() -> None:
    from tests.unit.finetune.test_anthropic import plan

    settings: Any = plan(folder_uri="s3://bucket/prompts").provider
    settings.check_machine(BedrockOptimiser.model_validate(BEDROCK))
    with pytest.raises(InvalidInput, match="no dspy"):
        settings.check_machine(DspyOptimiser(type="dspy"))


def test_the_real_client_of_claude_is_searched_by_bedrock_s_words(bedrock: LocalBedrock) -> None:
    with LocalAnthropic(answer=lambda system, messages: says(system, str(messages[-1]["content"]))) as server:
        meter = Meter(PRICES, budget_usd=Decimal(10))
        model = AnthropicModel(SecretStr("sk-test"), "claude-test", meter, base_url=server.url)
        found = found_by(Rewriting(rewriter(bedrock, meter.at(REWRITING)), times=2), model)
    assert (found.prompt, found.score, found.local_fake) == ("Be kind. ADD DIGITS", 1.0, True)
