"""What becomes of personal data in records that go to a provider: refused, replaced by placeholders, or kept.

A record's id, domain and verifier stay as they are: by them records are told apart and judged. Not covered: the packed
code of a user's verifier, files beside the records, and what people ask a model that serves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

from pydantic import ValidationError

from stepforge.contracts.base import first_problem
from stepforge.contracts.records import Record
from stepforge.errors import InvalidInput
from stepforge.finetune.people import CALLING_CODE, PLAIN, Found, Kind, kinds_in, people_in, texts_of

Personal = Literal["refuse", "redact", "keep"]
SYSTEM = "the plan's system prompt"
CHOICES = (
    'take it out, or choose with `personal` in the plan: "redact" sends a placeholder in the place of each, "keep" '
    "sends it as it is"
)
_AS_THEY_ARE = ("id", "domain", "source", "split", "stratum", "verifier")
_MOST_PASSES = 4
"""What stood before a number may have hidden the next one."""
_SHORTEST = 7
"""Digits that are looked for in other places of a record too."""


class Placeholders:
    """Of one record: the same value is the same placeholder wherever it stands, another one has a number.

    >>> said = Placeholders("Ann <ann@example.org>, bob@example.org", "ANN@example.org")
    >>> said.replaced("Ann <ann@example.org>, bob@example.org"), said.replaced("ANN@example.org")
    ('Ann <[email]>, [email 2]', '[email]')
    """

    def __init__(self, *values: Any) -> None:
        """`values` are all of the record's: texts, and what JSON knows."""
        self._marks: dict[str, str] = {}
        self._digits: dict[str, str] = {}
        """Of phones and cards, as they may be written elsewhere in the record."""
        texts = [found for value in values for found in texts_of(value)]
        self._taken = {mark for text, _ in texts for mark in re.findall(r"\[(?:email|phone|card)(?: \d+)?\]", text)}
        for text, begins in texts:
            for found in _within(text, begins):
                self._add(found.kind, text[found.start : found.end])
        longest = sorted(self._digits, key=len, reverse=True)
        parts = "|".join(r"[ ./()-]{0,3}".join(digits) for digits in longest)
        self._elsewhere = re.compile(rf"(?<![\d.])\(?0?(?:{parts})(?![\d]|\.\d)") if parts else None

    def _add(self, kind: Kind, value: str) -> None:
        if (key := _key(kind, value)) in self._marks:
            return
        digits = _digits(value).lstrip("0") if kind != "email" else ""
        if kind == "phone" and (same := self._same(digits)) is not None:
            self._marks[key] = same
            return
        count = 1 + len({mark for known, mark in self._marks.items() if known.startswith(kind)})
        while (mark := f"[{kind}]" if count == 1 else f"[{kind} {count}]") in self._taken:
            count += 1
        self._taken.add(mark)
        self._marks[key] = mark
        for part in {digits, *(_nationally(value) if kind == "phone" else ())}:
            if len(part) >= _SHORTEST:
                self._digits.setdefault(part, mark)

    def _same(self, digits: str) -> str | None:
        """The mark of a phone that is this one but for a calling code."""
        for known, mark in self._digits.items():
            short, long = sorted((known, digits), key=len)
            if len(short) >= _SHORTEST and long.endswith(short) and len(long) - len(short) <= 3:
                return mark
        return None

    def replaced(self, value: Any, name: str = "") -> Any:
        """The value with placeholders, its names too; `name` is what it stands under."""
        if isinstance(value, dict):
            return {self.replaced(str(key)): self.replaced(item, str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.replaced(item, name) for item in value]
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, int) and not isinstance(value, bool) and self._marks:
            (found,) = list(texts_of(value, name))[:1] or [(str(value), 0)]
            text = self._spans(*found)[found[1] :]
            return value if text == str(value) else text
        return value

    def _text(self, text: str, name: str) -> str:
        ((whole, begins),) = texts_of(text, name)
        return self._spans(whole, begins)[begins:]

    def _spans(self, text: str, begins: int) -> str:
        kept, position = [], 0
        for found in _within(text, begins):
            kept += [text[position : found.start], self._marks[_key(found.kind, text[found.start : found.end])]]
            position = found.end
        text = "".join([*kept, text[position:]])
        if self._elsewhere is None:
            return text
        return text[:begins] + self._elsewhere.sub(self._known, text[begins:])

    def _known(self, found: re.Match[str]) -> str:
        digits = _digits(found[0]).lstrip("0")
        return self._digits.get(digits, found[0])


def _within(text: str, begins: int) -> list[Found]:
    """What is found after the name that a text stands under."""
    return [one._replace(start=max(begins, one.start)) for one in people_in(text) if one.end > begins]


def _key(kind: Kind, value: str) -> str:
    return f"{kind}:{value.casefold() if kind == 'email' else _digits(value).lstrip('0')}"


def _nationally(phone: str) -> tuple[str, ...]:
    """The digits of an international number without its calling code, and without the zero that may stand after it."""
    code = CALLING_CODE.match(_digits(phone).lstrip("0"))
    if code is None or not phone.translate(PLAIN).lstrip("(").startswith(("+", "00")):
        return ()
    national = _digits(phone).lstrip("0")[code.end() :].lstrip("0")
    return national, code[0] + national


def _digits(text: str) -> str:
    """In Latin digits."""
    return "".join(str(int(character)) for character in text if character.isdecimal())


def redacted(record: Record, *others: str) -> tuple[Record, tuple[str, ...]]:
    """A record and texts that belong to it, with the same placeholders in all of them.

    Raises InvalidInput naming the record where it is none any more.
    """
    fields = record.model_dump(mode="json")
    content, *texts = _replaced([{name: value for name, value in fields.items() if name not in _AS_THEY_ARE}, *others])
    try:
        return Record.model_validate({**fields, **content}), tuple(texts)
    except ValidationError as error:
        raise InvalidInput(
            f"record {spoken(record.id)!r} is no record with placeholders: {first_problem(error)}. Take the personal "
            "data out of it"
        ) from None


def redacted_text(text: str) -> str:
    """A text by itself with placeholders.

    >>> redacted_text("Ask ann@example.org, or +49 30 901820.")
    'Ask [email], or [phone].'
    """
    return str(_replaced(text))


def _replaced(value: Any) -> Any:
    """What JSON knows with placeholders, in passes until none is missing."""
    for _ in range(_MOST_PASSES):
        before, value = value, Placeholders(value).replaced(value)
        if value == before:
            break
    return value


def spoken(name: str) -> str:
    """A record's id as an error may say it: ids hold addresses too."""
    return redacted_text(name)


def refuse(record: Record, kinds: Iterable[Kind], personal: Personal) -> None:
    """Raises InvalidInput where there are kinds: which, and of which record, and never what was found."""
    if not (said := ", ".join(kinds)):
        return
    if personal == "redact":
        raise InvalidInput(
            f"record {spoken(record.id)!r} holds personal data ({said}) in its id, domain or verifier, where no "
            "placeholder can stand: by them records are told apart and judged. Give it others"
        )
    raise InvalidInput(f"record {spoken(record.id)!r} holds personal data ({said}), and goes to a provider: {CHOICES}")


@lru_cache(maxsize=16)
def system_sent(system: str | None, personal: Personal) -> str | None:
    """A system prompt as it goes to a provider. Raises InvalidInput where it is refused."""
    if system is None or personal == "keep":
        return system
    if personal == "redact":
        return redacted_text(system)
    if kinds := kinds_in(system):
        raise InvalidInput(f"{SYSTEM} holds personal data ({', '.join(kinds)}), and goes to a provider: {CHOICES}")
    return system


def asked_sent(records: Iterable[Record], personal: Personal) -> list[Record]:
    """Held-out records as they are asked: of each its prompt goes to the provider.

    Raises InvalidInput naming the first that is refused.
    """
    found = [redacted(record)[0] for record in records] if personal == "redact" else list(records)
    check_asked(found, personal)
    return found


def check_asked(records: Iterable[Record], personal: Personal, *, system: str | None = None) -> None:
    """Raises InvalidInput where a prompt, or the system prompt, holds personal data, unless they are to be kept."""
    if personal == "keep":
        return
    # Placeholders stand already where they were asked for.
    system_sent(system, "refuse")
    for record in records:
        if kinds := kinds_in(record.prompt):
            raise InvalidInput(
                f"held-out record {spoken(record.id)!r} holds personal data ({', '.join(kinds)}) in its prompt, which "
                f"the tuned model is asked at the provider: {CHOICES}"
            )
