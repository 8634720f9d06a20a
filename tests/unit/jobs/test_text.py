"""Between text and tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepforge.errors import InvalidInput
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.text import Codec, scratch_tokenizer


@pytest.fixture
def codec() -> Codec:
    return Codec(scratch_tokenizer(CountingDomain.vocabulary, step_end=";"), step_end=";")


def test_a_context_and_its_targets_are_the_tokens_of_the_whole_text(codec: Codec) -> None:
    record = CountingDomain().record("train", 0, seed=0)
    (context,) = codec.contexts([record.context(0)])
    (target,) = codec.targets([record.solution], end=True)
    (whole,) = codec.contexts([record.context(len(record.steps))])
    assert context + target == [*whole, codec.eos]
    assert codec.decode(target).split() == record.solution.split()


def test_a_step_ends_with_its_terminator_or_the_end_of_the_text(codec: Codec) -> None:
    (step,) = codec.targets(["n3 ;"], end=False)
    assert codec.stops == {codec.eos, step[-1]}
    assert codec.decode(step) == "n3 ;"


@pytest.mark.parametrize("text", ["n3 sideways", "n3 <eos>", "<pad>"])
def test_a_word_that_the_model_does_not_know_is_refused(codec: Codec, text: str) -> None:
    with pytest.raises(InvalidInput, match="is not among the 38 words that the model knows"):
        codec.contexts([text])


def test_a_misspelt_word_is_told_with_the_nearest_one(codec: Codec) -> None:
    with pytest.raises(InvalidInput, match=r"the word 'donw' .*; did you mean 'down'\?"):
        codec.contexts(["n3 donw x2 :"])


def test_without_a_terminator_the_line_break_is_a_word_and_survives(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    scratch_tokenizer(["one", "two", "go"], step_end=None).save_pretrained(tmp_path)
    codec = Codec(AutoTokenizer.from_pretrained(tmp_path), step_end=None)
    (context,) = codec.contexts(["go  one\n"])
    (target,) = codec.targets(["one two\ntwo"], end=True)
    assert codec.decode(target) == "one two\ntwo"
    assert context[-1] in codec.stops
    assert codec.decode(target[:3]) == "one two"


def test_a_vocabulary_without_words_or_with_a_word_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no vocabulary"):
        scratch_tokenizer([], step_end=";")
    with pytest.raises(InvalidInput, match="a word twice"):
        scratch_tokenizer(["a", "b", "a"], step_end=";")
