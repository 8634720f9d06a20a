"""What is redacted and what is not: figures on a corpus, properties on anything, linear time on hostile text."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.log_corpus import leaks, ordinary_lines, planted

from stepforge.logs import plain, redact

KINDS = (
    *("secret", "password-x", "token", "api_key=", "password:", "Authorization:", "Bearer", "eyJhbGciOi.abcd.ef"),
    *("://a:b@c", "[redacted:secret]", "sk-0123456789abcdef0123", "ann@example.org", "+49 30 901820123", "phone"),
    *("4111 1111 1111 1111", "AKIAIOSFODNN7EXAMPLE", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
    *("=", ":", ",", ";", '"', "'", "\\", "{", "}", "(", ")", "&", "?", "--password", "\n", "hf_", "4155552671"),
)
PIECES = st.lists(st.one_of(st.sampled_from(KINDS), st.text(max_size=12)), max_size=8).map(" ".join) | st.lists(
    st.sampled_from(KINDS), max_size=12
).map("".join)


@pytest.mark.parametrize("half", ["tuning", "held_out"])
def test_planted_secrets_are_found(half: Any) -> None:
    found = list(planted(half, each=60))
    missed = Counter(
        item.kind
        for item in found
        if leaks(item.secret, line := redact(item.line)) or leaks(json.dumps(item.secret)[1:-1], line)
    )
    assert 1 - missed.total() / len(found) >= 0.99, missed


@pytest.mark.parametrize("half", ["tuning", "held_out"])
def test_ordinary_lines_stay_as_they_are(half: Any) -> None:
    lines = ordinary_lines(half)
    changed = [line for line in lines if redact(line) != line]
    assert len(changed) / len(lines) <= 0.01, changed[:5]


@settings(max_examples=150, deadline=None)
@given(PIECES)
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_any_text_can_be_redacted(text: str) -> None:
    assert isinstance(redact(text), str)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ,.", max_size=80))
def test_words_stay_words(text: str) -> None:
    assert redact(text) == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(VALUES)
def test_any_value_becomes_json(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"user": {"password": "hunter2"}}, {"user": {"password": "[redacted:secret]"}}),
        ({"Name": "db_password", "Value": "hunter2"}, {"Name": "db_password", "Value": "[redacted:secret]"}),
        ([("Authorization", "Bearer abc123def456")], [["Authorization", "[redacted:secret]"]]),
        ({"credentials": {"b": ["y2"]}}, {"credentials": {"b": ["[redacted:secret]"]}}),
        ({"phone": 4155552671}, {"phone": "[redacted:phone]"}),
        ({"card": 4111111111111111}, {"card": "[redacted:card]"}),
        ({"ann@example.org": 1}, {"[redacted:email]": 1}),
        ({"completion_tokens": 12, "pad_token": "[PAD]"}, {"completion_tokens": 12, "pad_token": "[PAD]"}),
        ({"secretArn": "arn:aws:secretsmanager:x"}, {"secretArn": "arn:aws:secretsmanager:x"}),
        (b"password=hunter2", "password=[redacted:secret]"),
        (PurePosixPath("/a/ann@example.org"), "/a/[redacted:email]"),
        (ValueError("token: abcdEFGH12345678"), "token: [redacted:secret]"),
        (MappingProxyType({"pwd": "x1"}), {"pwd": "[redacted:secret]"}),
        (float("nan"), "nan"),
        ({"token": {"v": "hunter2xx9", "type": "bearer"}}, {"token": {"v": "[redacted:secret]", "type": "bearer"}}),
    ],
)  # fmt: skip
def test_values_are_redacted_at_every_depth(value: Any, expected: Any) -> None:
    assert plain(value) == expected


def test_a_value_that_contains_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "[cut: deeper than 8]" in json.dumps(plain(loop))


def test_a_value_that_cannot_be_printed_is_named() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert plain({"x": Unprintable()}) == {"x": "<Unprintable that cannot be printed: RuntimeError>"}


def test_an_odd_mapping_does_not_end_the_program() -> None:
    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise OSError("gone")

    assert "cannot be read" in json.dumps(plain({"x": Odd(a=1)}))


HOSTILE = {
    "one letter": "a",
    "addresses": "a@",
    "domains": "x@a.",
    "pairs": "password=",
    "quotes": 'a="\\',
    "digits": "4",
    "spaced digits": "4 ",
    "addresses with users": "a://b:",
    "keys begun": "-----BEGIN PRIVATE KEY",
    "tokens begun": "eyJ",
    "prefixes": "sk-",
    "phones": "+1 2-",
    "options": "--a ",
    "schemes": "bearer ",
    "headers": "authorization:",
    "sentences": "password is ",
    "names": "_.a-",
    "elements": "<secret>",
    "named": '"name":"secret","value":"',
    "calls": "call me ",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_of_hostile_text_is_bounded(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    started = time.thread_time()
    redacted = redact(text)
    assert time.thread_time() - started < 0.5
    assert len(redacted) < 40_000
    assert redacted.endswith(f"[cut: {len(text)} characters]")


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_grows_with_the_length_and_no_faster(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        times = []
        for _ in range(3):
            started = time.thread_time()
            redact(text, longest=length)
            times.append(time.thread_time() - started)
        return min(times)

    seconds(1_000)
    # Squared growth would make it 64 times as long.
    assert seconds(80_000) < 24 * seconds(10_000) + 0.02


@pytest.mark.parametrize("before", range(32_700, 32_790, 3))
def test_a_secret_at_the_cut_does_not_come_through_in_part(before: int) -> None:
    secret = "hunter2hunter2hunter2"
    line = redact("x " * (before // 2) + f" password={secret} and more {'y' * 5000}")
    assert "hunter" not in line


@pytest.mark.parametrize(
    "text",
    [
        "using " + "a1B2" * 13 + "AAAA" + "c3D4" * 7,
        r'{"a":"{\\\"password\\\":\\\"hunter2xx9\\\"}"}',
        "password: >\n  hunter2xx9",
        "password: |-\n  hunter2xx9",
        "secret%3Dhunter2xx9",
        "postgres://ann:hunter2xx9/ter2@db/x",
    ],
)
def test_secrets_in_unusual_places_are_found(text: str) -> None:
    found = redact(text)
    assert "[redacted:" in found
    assert not any(part in found for part in ("hunter2", "ter2", "a1B2a1B2"))


def test_a_port_with_a_path_is_no_password() -> None:
    assert "8080/a" in redact("http://host:8080/a@b")
