"""Where a text has somebody's e-mail address, phone or card number.

The rules of the logs, which would rather hide a number too many, find a phone in every second table of offsets. Here
what is found stops a tune or changes what is learnt, so a number has to look like nobody else's: a calling code and the
groups of a phone, the issuer and check digit of a card, and no table around it, unless a word says what it is. Linear
in the text's length. Not covered: names, postal addresses, dates of birth, accounts, documents' and IP numbers; phones
in their national form without a word beside them, but for those of North America; what is spelt out or split in two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from stepforge.logs import is_card

Kind = Literal["email", "phone", "card"]
KINDS: tuple[Kind, ...] = ("email", "phone", "card")


class Found(NamedTuple):
    """`text[start:end]`."""

    kind: Kind
    start: int
    end: int


def people_in(text: str) -> list[Found]:
    """What belongs to people, in order and without overlaps.

    >>> text = "Ann, ann@example.org, +49 30 901820, at +49.5 +30.9 -18.2"
    >>> [(found.kind, text[found.start : found.end]) for found in people_in(text)]
    [('email', 'ann@example.org'), ('phone', '+49 30 901820')]
    """
    # A character for a character, so that places stay where they are.
    text = text.translate(PLAIN)
    found: list[Found] = []
    if "@" in text or "%40" in text or _SPELT_HINT.search(text):
        found += _emails(text)
    if _SEVEN_DIGITS.search(text):
        found += _cards(text)
        found += _phones(text)
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
        elif one.end > kept[-1].end:
            kept[-1] = kept[-1]._replace(end=one.end)
    return kept


PLAIN: dict[int, str] = {
    **{first + digit: str(digit) for first in (0xFF10, 0x0660, 0x06F0, 0x0966) for digit in range(10)},
    **dict.fromkeys((0xA0, 0x2007, 0x2009, 0x202F), " "),
    **dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF, 0x2010, 0x2011, 0x2012, 0x2013), "-"),
    **{0xFF20: "@", 0xFF0E: ".", 0xFF0B: "+"},
}
"""Digits of other scripts, signs and spaces that people see as the plain ones, and what nobody sees."""
_SEVEN_DIGITS = re.compile(r"\d(?:[^\w\n]{0,3}\d){6}")

# ── E-mail ───────────────────────────────────────────────────────────────────────────────────────

_EMAIL = re.compile(
    r"(?<![\w.%+'-])(?P<local>(?:[\w.+'-]|%(?!40))++)(?:@|%40)"
    r"(?P<domain>[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.(?P<top>xn--[\w-]{2,59}|[^\W\d_]{2,24}))(?!-|_*[^\W_])"
)
_SPELT_HINT = re.compile(r"(?i)[\[({] ?at ?[\])}]")
_SPELT = re.compile(
    r"(?i)(?<![\w.+-])[\w.+-]{1,64}+ {0,2}[\[({] ?at ?[\])}] {0,2}[\w-]{1,63}+"
    r"(?: {0,2}[\[({] ?dot ?[\])}] {0,2}[\w-]{2,63}+|\.[\w-]{2,63}+){1,8}"
)
_NOT_DOMAINS = re.compile(
    r"(?i)(?:png|jpe?g|gif|svg|webp|tga|dds|wav|ogg|mp3|fbx|glb|gltf|internal|local|py|[jt]s|json|toml|ya?ml|whl|g?zip|gz"
    r"|weight|bias|shape|grad)$"
)

_PARAGUAY = re.compile(r"(?i)\.(?:com|org|net|edu|gov|coop|mil|una)\.py$")


def _emails(text: str) -> Iterator[Found]:
    for found in _EMAIL.finditer(text):
        # `git@host`, `hero@2x.png` and `x@self.weight` belong to nobody.
        code = found["domain"].split(".")[0].lower() in ("self", "cls")
        file = _NOT_DOMAINS.match(found["top"]) and not _PARAGUAY.search(found["domain"])
        if not (code or file or found["local"].lower() == "git"):
            yield Found("email", *found.span())
    for found in _SPELT.finditer(text):
        yield Found("email", *found.span())


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────

_BREAKS = re.compile(r"[\s,;|\[\](){}\"']+")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?%?$")
_NEAR = 48
"""Characters to either side that may hold the neighbours."""


def _neighbours(text: str, start: int, end: int) -> tuple[str, str]:
    """The words before and after; empty at the ends of the text."""
    before = [word for word in _BREAKS.split(text[max(0, start - _NEAR) : start]) if word]
    after = [word for word in _BREAKS.split(text[end : end + _NEAR]) if word]
    return (before[-1] if before else ""), (after[0] if after else "")


def _among_numbers(text: str, start: int, end: int) -> bool:
    return all(_NUMBER.match(word) for word in _neighbours(text, start, end))


# ── Cards ────────────────────────────────────────────────────────────────────────────────────────

_CARD = re.compile(
    r"(?<![^\W_])(?<!\d[.+/-])(?<![.+-])(?<!(?<!\d)0,)"
    r"(?:(?P<bare>\d{13,19}+)"
    r"|\d{4}(?P<s>[ .-])\d{4}(?P=s)\d{4}(?P=s)\d{4}"
    r"|3[47]\d{2}(?P<t>[ -])\d{6}(?P=t)\d{5}|3\d{3}(?P<u>[ -])\d{6}(?P=u)\d{4})"
    r"(?![^\W_]|[.-]\d)"
)
_CARD_WORDS = re.compile(
    r"(?i)(?<![^\W_])(?:cards?|visa|master ?card|amex|american express|maestro|kreditkarte|tarjeta|carte bancaire"
    r"|cvv|cvc|card_?(?:number|no|nr))(?![^\W_])"
)
_SAID_TO_BE = re.compile(
    r"(?i)(?:id|seed|hash|uu?id|guid|time|timestamp|ms|ns|offset|checksum|crc|frame|tick|index|serial|nonce|key|version)"
    r"[\"'\])]{0,2}\s{0,2}(?:(?:is|was)\s)?[:=#]?\s{0,2}[\"']?$"
)
"""What a long number is, right before it."""
_LONG = re.compile(r"(?<!\d)\d{10,}+")
_FOUR_BEFORE = re.compile(r"(?<!\d)\d{4} $")
_FOUR_AFTER = re.compile(r" \d{4}(?!\d)")
_ROW = re.compile(r"(?<![\d.-])\d{4}(?: \d{4}){3}(?![\d.])")
_APART = str.maketrans("", "", " .-")


def _cards(text: str) -> Iterator[Found]:
    hits = [found for found in _CARD.finditer(text) if is_card(found[0].translate(_APART))]
    if not hits:
        return
    named = bool(_CARD_WORDS.search(text))
    bare = {found.start() for found in hits if found["bare"]}
    counted = not named and sum(found.start() not in bare for found in _LONG.finditer(text)) > len(bare)
    rows: bool | None = None
    for found in hits:
        start, end = found.span()
        if not named and found["bare"]:
            # Of random numbers of 16 digits one in 43 has an issuer and a check digit; 13 and 14 have few cards left.
            said = _SAID_TO_BE.search(text[max(0, start - _NEAR) : start])
            if counted or said or end - start < 15 or _among_numbers(text, start, end):
                continue
        elif not named and text[start + 4] == " ":
            rows = _has_rows(text) if rows is None else rows
            longer = _FOUR_BEFORE.search(text[max(0, start - 6) : start]) or _FOUR_AFTER.match(text, end)
            if rows or longer:
                continue
        yield Found("card", start, end)


def _has_rows(text: str) -> bool:
    """Whether most groups of four fours in it, of tables and drawings, are no card's."""
    rows = [is_card(found[0].translate(_APART)) for found in _ROW.finditer(text)]
    return rows.count(False) > rows.count(True)


# ── Phones ───────────────────────────────────────────────────────────────────────────────────────

CALLING_CODE = re.compile(
    r"1|7|2(?:[07]|[1-689]\d)|3(?:[0-469]|[578]\d)|4(?:[013-9]|2\d)|5(?:[1-8]|[09]\d)|6(?:[0-6]|[789]\d)"
    r"|8(?:[1246]|[05789]\d)|9(?:[0-58]|[679]\d)"
)
"""Calling codes (ITU-T E.164)."""
_CODE_ALONE = re.compile(rf"(?:{CALLING_CODE.pattern})[ /(-]")
_RUN = r"\(?\d{1,15}+\)?(?:(?: / |[ ./-])?\(?\d{1,15}+\)?){0,8}+(?!\d)"
_INTERNATIONAL = re.compile(rf"(?<![^\W_])(?<!\d[./-])(?:\+|(?<!-)00(?=[1-9]))(?P<run>{_RUN})")
_AMERICAN = re.compile(
    r"(?<![^\W_])(?<!\d[.,+/ -])(?<![.+-])(?:1[-. ])?"
    r"(?:\((?P<a>[2-9]\d\d)\)[ -]?(?P<b>[2-9]\d\d)[-. ](?P<c>\d{4})"
    r"|(?P<d>[2-9]\d\d)(?P<s>[-.])(?P<e>[2-9]\d\d)(?P=s)(?P<f>\d{4}))"
    r"(?![^\W_]|[.-]\d)(?!\s?(?:k?Hz|px|ms|dB|m|s)\b)"
)
_NAMES = (
    r"(?:tele)?phones?|tel|fax|whatsapp|msisdn|telefon(?:nummern?)?|tél|téléphone|teléfono|rufnummer|mobilnummer"
    r"|handynummer"
)
_LOOSE_NAMES = r"mobile|cell|mobil|handy|sms|(?:my|his|her|their|our) (?:new |old )?number"
"""Breakpoints, grids and messages are called so too."""
_CALLED = re.compile(
    rf"(?i)(?<![^\W_])(?:(?P<name>{_NAMES})|(?P<loose>{_LOOSE_NAMES}))"
    r"(?P<said>\.?[ _-]?(?:phone[ _-]?)?(?:numbers?|num|no|nr|#))?(?P<dot>\.?)(?: \([^\W\d_]{1,12}\)(?=:))?[\"']?"
    r"(?P<is> is| was)?"
    r"\s{0,2}(?P<mark>[:=#]?)\s{0,2}[\"']?"
    rf"(?P<value>(?:\+|00)?{_RUN})"
)
_ASKED = re.compile(
    r"(?i)(?<![^\W_])(?:call|dial|phone|text|ring|reach)(?:ed|ing|s)? (?:me|us|him|her|them)(?: back)?"
    rf"(?: (?:at|on|under|via))?:? (?P<value>(?:\+|00)?{_RUN})"
)
_ANOTHER = re.compile(rf"(?: ?[,;|] ?| (?:and|or|und|oder|y|et) )(?P<value>(?:\+|00)?{_RUN})")
"""After one that a word has called a phone."""
_GROUP = re.compile(r"(?P<between>[ ./()-]*)(?P<digits>\d+)")
_DATE = re.compile(r"\d{4}[-/. ]\d\d?[-/. ]\d\d?(?!\d)|\d\d?[-/.]\d\d?[-/.]\d{4}(?!\d)")
_SIGNED = re.compile(r"(?<![\w.])-\d{5,}+(?![\d-])")
"""A negative number: then a plus is a sign too."""
_DECIMAL = re.compile(r"[+-]?\d*\.\d+$|-\d")
_PHONE_WORDS = re.compile(rf"(?i)(?<![^\W_])(?:{_NAMES}|(?:mobile|cell)[ _-]?(?:phone|number|no|nr))s?(?![^\W_])")


def _is_of_a_table(text: str, start: int, end: int, other: re.Pattern[str]) -> bool:
    beside = _neighbours(text, start, end)
    return any(other.match(word) for word in beside) or all(_NUMBER.match(word) for word in beside)


def _phones(text: str) -> Iterator[Found]:
    named = bool(_PHONE_WORDS.search(text))
    signed = not named and bool(_SIGNED.search(text))
    for found in _INTERNATIONAL.finditer(text):
        plus, start = found[0][0] == "+", found.start("run")
        if signed if plus else not _CODE_ALONE.match(found["run"]):
            continue  # a sign, or a number with zeros before it
        size = _longest(text, start, found["run"], _is_international)
        if size and (named or not _is_of_a_table(text, found.start(), start + size, _DECIMAL if plus else _NUMBER)):
            yield Found("phone", found.start(), start + size)
    for found in _AMERICAN.finditer(text):
        groups = [part for part in found.group("a", "b", "c", "d", "e", "f") if part]
        if not named and (_is_sequence(groups) or _among_numbers(text, *found.span())):
            continue
        if groups[0][1:] != "11" and groups[1][1:] != "11":
            yield Found("phone", *found.span())
    for pattern in (_CALLED, _ASKED):
        for found in pattern.finditer(text):
            value, start, fits = found["value"], found.start("value"), _is_dialled
            if pattern is _CALLED:
                fits = _is_dialled_loosely if found["loose"] and not found["said"] else _is_dialled
                if not any(found.group("said", "dot", "is", "mark")):
                    fits = _is_dialled_whole
            while size := _longest(text, start, value, fits):
                yield Found("phone", start, start + size)
                if (another := _ANOTHER.match(text, start + size)) is None:
                    break
                value, start, fits = another["value"], another.start("value"), _is_dialled_loosely


Groups = list[tuple[str, str]]
"""What stands before the digits, and the digits."""


def _longest(text: str, start: int, run: str, fits: Callable[[Groups, str], bool]) -> int:
    """Characters of the longest beginning of a run that is a phone: what follows may be another number. 0: none."""
    if _DATE.match(run):
        return 0
    parts = list(_GROUP.finditer(run))
    for count in range(len(parts), 0, -1):
        end = parts[count - 1].end()
        after = text[start + end : start + end + 2]
        if after[:1].isalnum() or (after[:1] == "_" and after[1:] != "" and (after[1:].isalnum() or after[1:] == "_")):
            continue
        if after[:1] == "." and after[1:].isdecimal():
            continue
        prefix = run[: parts[0].start("digits")]
        if fits([(part["between"], part["digits"]) for part in parts[:count]], prefix):
            return end
    return 0


def _is_international(groups: Groups, prefix: str = "") -> bool:
    groups = [group for group in groups if group != ("(", "0") and not (group[1] == "0" and group[0].endswith("("))]
    digits = "".join(part for _, part in groups)
    code = CALLING_CODE.match(digits)
    if code is None or not 9 <= len(digits) <= 15 or not _is_parted(groups):
        return False
    national, sizes = digits[code.end() :], [len(part) for _, part in groups]
    if code[0] in ("1", "7"):
        sizes[0] -= 1
        shape = tuple(size for size in sizes if size)
        spoken = code[0] == "7" or (national[0] > "1" and national[3:4] > "1")
        return len(national) == 10 and spoken and shape in ((10,), (3, 3, 4), (3, 7), (6, 4), (3, 3, 2, 2))
    begins = national[0] != "0" or code[0] == "39"
    return begins and len(national) - len(national.rstrip("0")) < 5


def _is_parted(groups: Groups) -> bool:
    """In groups as people write them: a point is no decimal's, and of a single digit there is one at most."""
    signs = {sign for between, _ in groups[1:] if (sign := between.strip("()").strip("() ")) or between}
    if "." in signs and (len(signs) > 1 or len(groups) < 3 or any(len(part) > 4 for _, part in groups)):
        return False
    return all(len(part) >= 2 for _, part in groups[2:]) and (len(groups) == 1 or len(groups[0][1]) <= 6)


def _is_dialled(groups: Groups, prefix: str = "") -> bool:
    parts = [part for _, part in groups]
    digits = "".join(parts)
    if not 7 <= len(digits) <= 15 or len(parts) > 6 or not _is_parted(groups):
        return False
    if len(parts) == 1:
        return len(digits) - len(digits.rstrip("0")) < 4
    return prefix != "" or digits[0] == "0" or (len(parts[0]) > 1 and not _is_sequence(parts))


def _is_dialled_loosely(groups: Groups, prefix: str = "") -> bool:
    """After a word that means other things too."""
    parts = [part for _, part in groups]
    growing = all(int(a) < int(b) for a, b in pairwise(parts)) and len(parts) > 1
    shaped = tuple(map(len, parts)) in ((3, 3, 4), (10,), (11,)) and not growing
    shaped = shaped or "+" in prefix or parts[0][0] == "0"
    return shaped and _is_dialled(groups, prefix)


def _is_dialled_whole(groups: Groups, prefix: str = "") -> bool:
    """After such a word and nothing between, as one says `phone 100 200 300` of a layout."""
    parts = [part for _, part in groups]
    long = len("".join(parts)) >= 9 and len(parts) <= 3
    return long and (len(parts) == 1 or "+" in prefix or parts[0][0] == "0") and _is_dialled(groups, prefix)


def _is_sequence(groups: list[str]) -> bool:
    """Widths, bands and steps: round numbers, or each twice the one before."""
    numbers = [int(group) for group in groups]
    doubled = all(after == 2 * before for before, after in pairwise(numbers))
    return doubled or all(n % 10 == 0 for n in numbers) or all(n & (n - 1) == 0 for n in numbers)


def kinds_in(value: Any) -> tuple[Kind, ...]:
    """The kinds in a text, or in the texts, names and numbers of JSON.

    >>> kinds_in({"who": ["ann@example.org"], "phone": 5550123, "seed": 4111111111111111})
    ('email', 'phone')
    """
    found = {one.kind for text, skipped in texts_of(value) for one in people_in(text) if one.end > skipped}
    return tuple(kind for kind in KINDS if kind in found)


def texts_of(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Each text of JSON after the name that it stands under, which says what a number is, and where it begins."""
    if isinstance(value, str):
        before = f"{name}: " if name else ""
        yield before + value, len(before)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key), 0
            yield from texts_of(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item, name)
    elif isinstance(value, int) and not isinstance(value, bool) and name and abs(value) >= 10**6:
        before = f"{name}: "
        # A number by itself is a number: the name has to say that it is more.
        if _CARD_WORDS.search(before.replace("_", " ")) or _CALLED.match(f"{before}{value}"):
            yield f"{before}{value}", len(before)
