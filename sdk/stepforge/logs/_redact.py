"""Secrets and people out of texts and values. Pure; never raises; what is redacted stays as it is when redacted again.

Not covered: secrets without a format of their own, a name beside them or a known prefix (a bare `hunter2`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stepforge.logs._names import is_secret, kind_of
from stepforge.logs._rules import RULES, Rule, is_card, mark

LONGEST = 32_768
"""Characters of one text that are looked at and kept."""
_MARGIN = 4_096
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
        return _apply(text)
    kept = _apply(_cut(text, longest + _MARGIN))[:longest]
    return f"{_whole(kept)} [cut: {len(text)} characters]"


def _apply(text: str) -> str:
    lower = text.lower()
    for rule in RULES:
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


def plain(value: Any, name: str = "", *, longest: int = LONGEST) -> Any:
    """A value of an event as JSON knows them, redacted at every depth; `name` is the key that it stands under.

    Bounded: 8 levels, 256 items of each list or mapping. What JSON does not know becomes its `str`.
    """
    return _plain(value, name, 0, longest)


def _plain(value: Any, name: str, depth: int, longest: int) -> Any:
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return _text(value, name, longest)
    if kind is int:
        return _number(value, name)
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if depth >= _DEEPEST:
        return f"[cut: deeper than {_DEEPEST}]"
    if isinstance(value, Mapping):
        return _mapping(value, name, depth, longest)
    if isinstance(value, list | tuple | set | frozenset):
        return _items(value, name, depth, longest)
    if isinstance(value, bytes | bytearray):
        return _text(bytes(value[: longest + _MARGIN + 1]).decode(errors="replace"), name, longest)
    return _text(_said(value), name, longest)


def _said(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be printed must not stop who logs it
        return f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"


def _text(text: str, name: str, longest: int) -> str:
    if name and (kind := kind_of(name)) and is_secret(kind, text, name=name):
        return mark("phone" if kind == "phone" else "secret")
    return redact(text, longest=longest)


def _number(value: int, name: str) -> int | str:
    kind = kind_of(name) if name else None
    if kind is not None and kind != "perhaps" and is_secret(kind, str(value), name=name):
        return mark("phone" if kind == "phone" else "secret")
    if value.bit_length() > 63:
        # Integers beyond 64 bits are no JSON number for most readers.
        return f"0x{value:x}"[:80] if value.bit_length() > 256 else str(value)
    return mark("card") if value > 10**12 and is_card(str(value)) else value


def _mapping(value: Mapping[Any, Any], name: str, depth: int, longest: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    everything = _hides_all(name)
    titled = _title(value)
    try:
        for index, (key, item) in enumerate(value.items()):
            if index >= _MOST_ITEMS:
                found["..."] = f"[cut: {len(value)} items]"
                break
            said = key if type(key) is str else _said(key)
            under = titled if titled and said.lower() in ("value", "parametervalue", "stringvalue") else said
            if everything and not isinstance(item, Mapping | list | tuple):
                under = "secret"
            found[redact(said, longest=1_024)] = _plain(item, under, depth + 1, longest)
    except RuntimeError as error:  # another thread changes it meanwhile
        found["..."] = f"[cut: {error}]"
    return found


def _hides_all(name: str) -> bool:
    return name.lower().endswith(_CONTAINERS) or (bool(name) and kind_of(name) == "secret")


def _title(value: Mapping[Any, Any]) -> str:
    """The name in {"Name": "password", "Value": ...}, as AWS writes tags, parameters and headers."""
    for key in ("Name", "name", "Key", "key", "ParameterKey"):
        if isinstance(title := value.get(key), str):
            return title
    return ""


def _items(value: Any, name: str, depth: int, longest: int) -> list[Any]:
    under = "secret" if _hides_all(name) else name
    try:
        items = list(value)
    except RuntimeError as error:
        return [f"[cut: {error}]"]
    if len(items) == 2 and type(items[0]) is str and type(items[1]) in (str, bytes) and kind_of(items[0]) is not None:
        # A header or an option as a pair.
        return [redact(items[0], longest=longest), _plain(items[1], items[0], depth + 1, longest)]
    found = [_plain(item, under, depth + 1, longest) for item in items[:_MOST_ITEMS]]
    return found if len(items) <= _MOST_ITEMS else [*found, f"[cut: {len(items)} items]"]
