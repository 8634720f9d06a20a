"""Secrets and people out of texts and values. Pure; never raises; what is redacted stays as it is when redacted again.

Not covered: secrets without a format of their own, a name beside them or a known prefix (a bare `hunter2`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from stepforge.logs._names import is_about, is_secret, kind_of, names_a_secret
from stepforge.logs._rules import KEYS, RULES, Rule, is_card, mark

LONGEST = 32_768
"""Characters of one text that are looked at and kept."""
_MARGIN = 4_096
_MOST_PASSES = 6
_SHORT = 16
"""A word of letters alone that is shorter has none of the formats."""
_DEEPEST = 8
_MOST_ITEMS = 256
_CONTAINERS = ("secrets", "credentials")


def redact(text: str, *, longest: int = LONGEST) -> str:
    """The text without secrets, e-mail addresses, phone and card numbers: `[redacted:kind]` stands for each.

    A text over `longest` characters is cut, at a place where no word is cut in two, and says how much is missing.

    >>> redact("POST https://ann:hunter2@example.org/ as ann@example.org, api_key=0123456789")
    'POST https://ann:[redacted:password]@example.org/ as [redacted:email], api_key=[redacted:secret]'
    """
    if len(text) <= longest:
        return text if len(text) < _SHORT and text.isalpha() else _apply(text)
    kept = _apply(_cut(text, longest + _MARGIN))[:longest]
    return f"{_whole(kept)} [cut: {len(text)} characters]"


def secrets_in(text: str) -> list[str]:
    """The kinds of what `redact` would hide as a secret; addresses and numbers of people are none.

    >>> secrets_in("https://ann:hunter2@example.org/ as ann@example.org"), secrets_in("ann@example.org")
    (['password'], [])
    """
    return [kind for kind in _kinds(text, redact(text, longest=len(text))) if kind not in _OF_PEOPLE]


def keys_in(text: str) -> list[str]:
    """The kinds of keys that their own form gives away; a password in a sentence is none of them.

    >>> keys_in("use hf_" + "x7Kd" * 9 + ", the password is hunter2")
    ['api-key']
    """
    return _kinds(text, _once(text, KEYS))


def _kinds(text: str, redacted: str) -> list[str]:
    return [kind for kind in dict.fromkeys(_MARKED.findall(redacted)) if mark(kind) not in text]


_MARKED = re.compile(r"\[redacted:([a-z-]+)\]")
_OF_PEOPLE = ("email", "phone", "card")


def _apply(text: str) -> str:
    """Until nothing changes: what stood before a secret may have hidden what comes after it."""
    for _ in range(_MOST_PASSES):
        before, text = text, _once(text)
        if text == before:
            break
    return text


def _once(text: str, rules: tuple[Rule, ...] = RULES) -> str:
    lower = text.lower()
    for rule in rules:
        if not rule.hints or _hinted(rule, lower):
            text = rule.apply(text)
    return text


def _hinted(rule: Rule, lower: str) -> bool:
    # A loop, as any() with a generator costs twice as much for hints as short as these.
    for hint in rule.hints:  # noqa: SIM110
        if hint in lower:
            return True
    return False


def _cut(text: str, length: int) -> str:
    """Up to the last space of the first `length` characters, so that no half of a secret is taken for none."""
    head = text[:length]
    space = max(head.rfind(" ", length - _MARGIN), head.rfind("\n", length - _MARGIN))
    return head[: space if space >= 0 else length - _MARGIN].rstrip(" \n0123456789-().+")


def _whole(kept: str) -> str:
    """Without the beginning of a mark that the cut has halved."""
    opened = kept.rfind("[redacted:")
    return kept[:opened] if opened >= 0 and "]" not in kept[opened:] else kept


class Budget:
    """Characters that the values of one line may have looked at, so that a line's time is bounded too."""

    def __init__(self, characters: int = 4 * LONGEST) -> None:
        self.left = characters

    def redact(self, text: str) -> str:
        if self.left <= 0:
            return f"[cut: {len(text)} characters]"
        longest = min(LONGEST, self.left)
        self.left -= min(len(text), longest) + 16
        return redact(text, longest=longest)


def plain(value: Any, name: str = "", budget: Budget | None = None) -> Any:
    """A value of an event as JSON knows them, redacted at every depth; `name` is the key that it stands under.

    Bounded: 8 levels, 256 items of each list or mapping, 131,072 characters. What JSON does not know becomes its `str`.
    """
    return _plain(value, name, 0, Budget() if budget is None else budget)


def _plain(value: Any, name: str, depth: int, budget: Budget) -> Any:
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return _text(value, name, budget)
    if kind is int:
        return _number(value, name)
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if depth >= _DEEPEST:
        return f"[cut: deeper than {_DEEPEST}]"
    if isinstance(value, Mapping):
        return _mapping(value, name, depth, budget)
    if isinstance(value, list | tuple | set | frozenset):
        return _items(value, name, depth, budget)
    if isinstance(value, bytes | bytearray):
        return _text(bytes(value[: LONGEST + _MARGIN + 1]).decode(errors="replace"), name, budget)
    return _text(_said(value), name, budget)


def _said(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be printed must not stop who logs it
        return f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"


def _text(text: str, name: str, budget: Budget) -> str:
    if name and (kind := kind_of(name)) and is_secret(kind, text, name=name):
        return mark("phone" if kind == "phone" else "secret")
    return budget.redact(text)


def _number(value: int, name: str) -> int | str:
    kind = kind_of(name) if name else None
    if kind is not None and kind not in ("perhaps", "header") and is_secret(kind, str(value), name=name):
        return mark("phone" if kind == "phone" else "secret")
    if value.bit_length() > 63:
        # Integers beyond 64 bits are no JSON number for most readers.
        return f"0x{value:x}"[:80] if value.bit_length() > 256 else str(value)
    return mark("card") if value > 10**12 and is_card(str(value)) else value


def _mapping(value: Mapping[Any, Any], name: str, depth: int, budget: Budget) -> dict[str, Any]:
    found: dict[str, Any] = {}
    everything, token = _hides_all(name), bool(name) and names_a_secret(name)
    try:
        titled = _title(value)
        for index, (key, item) in enumerate(value.items()):
            if index >= _MOST_ITEMS:
                found["..."] = f"[cut: {len(value)} items]"
                break
            said = key if type(key) is str else _said(key)
            under = said
            if titled and said.lower() in ("value", "parametervalue", "stringvalue"):
                under = titled
            elif token and kind_of(said) is None and not is_about(said):
                under = name
            if everything:
                under = _ALL
            found[_key(said)] = _plain(item, under, depth + 1, budget)
    except Exception as error:  # noqa: BLE001 - another thread may change it meanwhile, and its class may be anybody's
        found["..."] = f"[cut: cannot be read: {type(error).__name__}]"
    return found


_ALL = "secret"


@lru_cache(maxsize=4096)
def _key(key: str) -> str:
    return redact(key, longest=1_024)


def _hides_all(name: str) -> bool:
    return bool(name) and (name.lower().endswith(_CONTAINERS) or kind_of(name) == "secret")


def _title(value: Mapping[Any, Any]) -> str:
    """The name in {"Name": "password", "Value": ...}, as AWS writes tags, parameters and headers."""
    for key in ("Name", "name", "Key", "key", "ParameterKey"):
        if isinstance(title := value.get(key), str):
            return title
    return ""


def _items(value: Any, name: str, depth: int, budget: Budget) -> list[Any]:
    under = _ALL if _hides_all(name) else name
    try:
        items = list(value)
    except Exception as error:  # noqa: BLE001 - as with mappings
        return [f"[cut: cannot be read: {type(error).__name__}]"]
    if len(items) == 2 and type(items[0]) is str and type(items[1]) in (str, bytes) and kind_of(items[0]) is not None:
        # A header or an option as a pair.
        return [budget.redact(items[0]), _plain(items[1], items[0], depth + 1, budget)]
    found = [_plain(item, under, depth + 1, budget) for item in items[:_MOST_ITEMS]]
    return found if len(items) <= _MOST_ITEMS else [*found, f"[cut: {len(items)} items]"]
