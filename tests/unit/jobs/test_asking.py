"""How a model is asked, what is taken as its answer, and SRL's instances and reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.small_model import write_small_model

from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Provenance, Record, Step
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.work import SrlWork
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.judging import Told
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.rl.rewards import FORMAT_PENALTY, similarity
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.asking import STEP, THINK, Asker, answer_of, plain_context
from stepforge_jobs.training.srl import instances, judge
from stepforge_jobs.training.text import Codec, scratch_tokenizer

RECORD = Record(
    id="r",
    domain="d",
    source="user",
    split="train",
    group="g",
    prompt="What is 17 + 25?",
    steps=(
        Step(action="7 + 5 = 12", title="Ones"),
        Step(action="ls", title="Look", observation="a.txt"),
        Step(action="10 + 20 + 12 = 42", title="Tens"),
        Step(action="42"),
    ),
    verifier="d@1",
    provenance=Provenance(generator="g"),
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    from transformers import AutoTokenizer

    folder = write_small_model(tmp_path_factory.mktemp("model"))
    return Codec(AutoTokenizer.from_pretrained(folder), step_end=None)


def text(codec: Codec, ids: list[int]) -> str:
    return str(codec.tokenizer.decode(ids, skip_special_tokens=False))


def test_a_plain_context_is_that_of_the_record_and_options_change_it() -> None:
    counting = CountingDomain().record("train", 1, seed=0)
    assert all(plain_context(counting, k) == counting.context(k) for k in range(len(counting.steps)))
    assert plain_context(RECORD, 2) == "What is 17 + 25?\n7 + 5 = 12\nls\na.txt\n"
    assert plain_context(RECORD, 3, window=2) == "What is 17 + 25?\nls\na.txt\n10 + 20 + 12 = 42\n"
    assert plain_context(RECORD, 3, window=1, next_title=True) == "What is 17 + 25?\n10 + 20 + 12 = 42\n"
    assert plain_context(RECORD, 2, window=1, next_title=True) == "What is 17 + 25?\nls\na.txt\n**Tens**\n"


def test_a_step_is_asked_for_through_the_chat_template_with_the_think_prompt(codec: Codec) -> None:
    (ids,) = Asker(codec, "think").steps([(RECORD, 2)], next_title=True, window=1)
    assert text(codec, ids) == (
        f"<|im_start|>system\n{THINK}{STEP} Write it as `N. **Title** action`, N being its number.<|im_end|>\n"
        "<|im_start|>user\nWhat is 17 + 25?\n\nThe last 1 of the 2 steps so far:\n2. **Look** ls\nObservation: a.txt\n"
        "The title of the next step, 3: **Tens**<|im_end|>\n<|im_start|>assistant\n"
    )
    (chat,) = Asker(codec, "chat").prompts(["Hello"])
    assert text(codec, chat) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_without_a_system_turn_gets_it_in_the_users(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = refusing + "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}<think>\n"
    monkeypatch.setattr(codec.tokenizer, "chat_template", template)
    asker = Asker(codec, "think")
    (ids,) = asker.prompts(["Q"])
    assert text(codec, ids).startswith(f"[user]{THINK}")
    # The template opened the thoughts, so the completion closes them alone.
    (done,) = codec.targets(["seven</think> 12"], end=True)
    assert asker.action(done) == "12"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>a</think>12", "12"),
        (" <think>\na\n</think>\n\n2. **Tens** 42 ", "2. **Tens** 42"),
        ("12", None),
        ("<think>a</think>", None),
        ("<think>a</think>  ", None),
        ("<think>a", None),
        ("a</think>12", None),
        ("<think><think>a</think>12", None),
        ("<think>a</think>12</think>", None),
        ("so <think>a</think>12", None),
    ],
)
def test_an_answer_follows_one_pair_of_tags(written: str, answer: str | None) -> None:
    assert answer_of(written) == answer


def test_the_reward_is_of_the_action_alone_and_a_failed_format_is_logged_apart(codec: Codec) -> None:
    work = SrlWork()
    asker = Asker(codec, work.asking)
    written = ["<think>x</think>2. **Any** 10 + 20 = 30", "<think>x</think>10 + 20 = 30", "10 + 20 = 30"]
    completions = codec.targets(written, end=True)
    unended = completions[0][:-1]
    found = judge(asker, work, ["10 + 20 + 12 = 42"] * 4, [*completions, unended])
    wanted = similarity("10 + 20 = 30", "10 + 20 + 12 = 42")
    assert found.rewards == [wanted, wanted, -1.0, -1.0]
    assert found.metrics == {Metric.FORMAT_FAILURES: 0.5, Metric.SIMILARITY: wanted}


def test_equal_completions_are_judged_once_a_record_and_records_with_one_id_are_told_apart(codec: Codec) -> None:
    asked: list[str] = []

    class Judge:
        def verdicts(self, pairs: Sequence[tuple[Record, str]], *, told: Told | None = None) -> list[Verdict]:
            asked.extend(f"{record.prompt} {text}" for record, text in pairs)
            return [Verdict(accepted=text == record.prompt, reward=0.0, partial=0.0) for record, text in pairs]

    first, second = (RECORD.model_copy(update={"prompt": prompt}) for prompt in ("a", "b"))
    a, b, c = codec.targets(["a", "b", "<think>x"], end=True)
    rows = [(first, a), (first, a), (second, a), (second, b), (first, a[:-1])]
    found = verdicts_of(Judge(), Asker(codec), [r for r, _ in rows], [t for _, t in rows])
    assert [verdict.accepted for verdict in found] == [True, True, False, True, False]
    assert asked == ["a a", "b a", "b b"]
    assert found[-1].reason == "the completion did not end"
    (unthought,) = verdicts_of(Judge(), Asker(codec, "think"), [first], [c])
    assert "is not <think>thoughts</think> and then an answer" in unthought.reason


def test_the_papers_instances_are_all_steps_but_the_last() -> None:
    single = RECORD.model_copy(update={"id": "s", "steps": RECORD.steps[:1]})
    assert instances([RECORD, single], SrlWork()) == [(RECORD, 0), (RECORD, 1), (RECORD, 2)]
    assert len(instances([RECORD, single], SrlWork(instances="all"))) == 5
    with pytest.raises(InvalidInput, match="instances = 'all'"):
        instances([single], SrlWork())


def test_a_whole_solution_is_compared_at_once_without_the_heads_of_its_steps(codec: Codec) -> None:
    work = SrlWork(instances="whole", asking="plain")
    expert = "add two\nhalve it"
    right, unfinished, half = codec.targets(["1. **One** add two\n2. **Two** halve it", "add two", "add two"], end=True)
    judged = judge(Asker(codec), work, [expert] * 3, [right, unfinished[:-1], half])
    assert judged.rewards == [1.0, FORMAT_PENALTY, similarity("add two", expert)]


def test_the_defaults_of_srl_are_the_papers() -> None:
    work = SrlWork()
    assert (work.instances, work.asking, work.dynamic_sampling, work.next_title, work.window) == (
        "paper",
        "think",
        True,
        False,
        None,
    )
    assert (work.group_size, work.temperature, work.beta, work.gradient_norm) == (8, 1.0, 0.0, 1.0)


def test_a_model_that_cannot_be_asked_so_says_what_to_set(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Codec(scratch_tokenizer(CountingDomain.vocabulary, step_end=";"), step_end=";")
    with pytest.raises(InvalidInput, match=r"38 words.*asking = 'plain'"):
        Asker(words, "think")
    monkeypatch.setattr(codec.tokenizer, "chat_template", None)
    with pytest.raises(InvalidInput, match="no chat template"):
        Asker(codec, "chat")
    (ids,) = Asker(codec, "think").prompts(["Q"])
    assert text(codec, ids) == f"{THINK}Write only the solution.\n\nQ\n"


def test_a_word_level_tokenizer_of_another_maker_is_not_taken_for_ours(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "one": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    theirs = Codec(AutoTokenizer.from_pretrained(tmp_path), step_end=None)
    assert theirs.words is None
    assert theirs.contexts(["one unknown"]) == [[2, 0]]
    ours = scratch_tokenizer(["one"], step_end=";")
    ours.save_pretrained(tmp_path / "ours")
    assert Codec(AutoTokenizer.from_pretrained(tmp_path / "ours"), step_end=None).words == {"one"}
