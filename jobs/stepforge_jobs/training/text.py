"""Between text and tokens: a tokenizer with the project's conventions about where steps and solutions end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from stepforge.errors import InvalidInput

PAD, EOS = "<pad>", "<eos>"


def scratch_tokenizer(vocabulary: Sequence[str], *, step_end: str | None) -> Any:
    """A word-level tokenizer of exactly these words. Where no word ends a step, the line break is a word too."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not vocabulary:
        raise InvalidInput("the dataset has no vocabulary, so no model can start from scratch: give --model PATH")
    words = [PAD, EOS, *(["\n"] if step_end is None else []), *vocabulary]
    if len(set(words)) != len(words):
        raise InvalidInput(f"the vocabulary has a word twice, or {PAD!r} or {EOS!r} itself")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    spaces = pre_tokenizers.Split(Regex(r"\s+" if step_end is not None else r"[^\S\n]+"), "removed")
    lines = pre_tokenizers.Split("\n", "isolated")
    tokenizer.pre_tokenizer = spaces if step_end is not None else pre_tokenizers.Sequence([lines, spaces])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left")


class Codec:
    """Encode contexts and targets, decode completions.

    `stops` are the tokens that end a step: the end of the text, the word `step_end`, or without it any token with a
    line break.
    """

    def __init__(self, tokenizer: Any, *, step_end: str | None) -> None:
        self.tokenizer = tokenizer
        self.step_end = step_end
        if tokenizer.eos_token_id is None:
            raise InvalidInput(
                "the tokenizer has no end-of-text token (eos_token): set one in its tokenizer_config.json"
            )
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos

    @cached_property
    def words(self) -> frozenset[str] | None:
        """The known words of a word-level tokenizer; None where the tokenizer splits any text."""
        model = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "model", None)
        known = frozenset(self.tokenizer.get_vocab()) - frozenset(self.tokenizer.all_special_tokens)
        return known if type(model).__name__ == "WordLevel" else None

    @cached_property
    def stops(self) -> frozenset[int]:
        if self.step_end is not None:
            ids = self.tokenizer(self.step_end, add_special_tokens=False)["input_ids"]
            if len(ids) == 1:
                return frozenset({self.eos, ids[0]})
            raise InvalidInput(
                f"the step terminator {self.step_end!r} is {len(ids)} tokens of this tokenizer; it must be one"
            )
        # "Ċ" is how byte-level tokenizers write the line break.
        breaks = {
            index
            for token, index in self.tokenizer.get_vocab().items()
            if "\n" in token or "Ċ" in token or token == "<0x0A>"
        }
        return frozenset({self.eos, *breaks})

    def contexts(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of what a policy reads, with the tokenizer's own opening token where it has one."""
        listed = list(texts)
        self._check(listed)
        rows = self.tokenizer(listed, add_special_tokens=True)["input_ids"] if listed else []
        return [row[:-1] if row and row[-1] == self.eos and len(row) > 1 else list(row) for row in rows]

    def targets(self, texts: Iterable[str], *, end: bool) -> list[list[int]]:
        """Token ids of what a policy writes; `end` appends the end of the text."""
        listed = list(texts)
        self._check(listed)
        rows = self.tokenizer(listed, add_special_tokens=False)["input_ids"] if listed else []
        return [[*row, self.eos] if end else list(row) for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion without special tokens, and without the line break that ends a step."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        if self.words is not None and self.step_end is None:
            text = "\n".join(line.strip(" ") for line in text.split("\n"))
        return text.rstrip("\n")

    def _check(self, texts: Sequence[str]) -> None:
        if self.words is None:
            return
        for text in texts:
            for word in text.split():
                if word not in self.words:
                    near = get_close_matches(word, self.words, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise InvalidInput(
                        f"the word {word!r} is not among the {len(self.words)} words that the model knows{hint}"
                    )
