"""Records of the user's: what a line may leave out, and what a message says about a line that cannot be read."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from stepforge.contracts.records import Record
from stepforge.contracts.user_records import RecordsFile, read_user_files
from stepforge.errors import InvalidInput
from stepforge.installation.user_code import stage_records
from stepforge.recipes import RECORDS_RECIPE, Recipe, load_recipe


def read(path: Path, *, verifier: str | None = None) -> list[Record]:
    return read_user_files([RecordsFile(path, path.name, "0" * 64)], domain="sums", verifier=verifier)


def lines(count: int) -> list[str]:
    return [json.dumps({"prompt": f"{n} + 1 =", "answer": n + 1}) for n in range(count)]


def test_a_malformed_line_17_is_named_with_its_field_and_nothing_is_read_further(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join([*lines(16), '{"prompt": "x", "anser": "y"}', "not json either"]))
    with pytest.raises(InvalidInput, match=r"^r\.jsonl line 17: field 'anser'"):
        stage_records(path, into=tmp_path / "staged", domain="sums", verifier=None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "x"}', "needs 'answer' or 'steps'"),
        ('{"prompt": "", "answer": "1"}', "'prompt'"),
        ('{"answer": "1"}', "'prompt'"),
        ('{"prompt": "x", "steps": "abc"}', "'steps'"),
        ('{"prompt": "x", "steps": [""]}', "'steps"),
        ('{"prompt": "x", "answer": "1", "split": "test"}', "'split'"),
        ('{"prompt": "x", "answer": "1", "split": "train"}', "needs steps"),
        ('{"prompt": "x", "scenario": {"n": NaN}}', "Invalid JSON"),
        ("[1, 2]", r'a line must be an object, as in \{"prompt": ..., "answer": ...\}; this is an array$'),
        ("null", "a line must be an object, .*this is null$"),
        ("3", "a line must be an object, .*this is a number$"),
        ('{"prompt": "x", "answer": 1e999}', "field 'answer': a number beyond"),
        ('{"prompt": "x", "scenario": {"n": [0, -1e999]}}', "field 'scenario.n.1': a number beyond"),
        ('{"prompt": "x", "answer": "1", "answer": "2"}', "field 'answer': given 2 times"),
        ('{"prompt": "x", "scenario": {"n": 1, "n": 1}}', "field 'n': given 2 times"),
        ('{"prompt": " \\n\\t", "answer": "1"}', "field 'prompt': .* white space alone"),
        ('{"prompt": "x", "steps": ["1", "  "]}', "field 'steps': step 1 .* white space alone"),
        ('{"prompt": "x", "steps": [{"action": " "}]}', "field 'steps': step 0 .* white space alone"),
        ('{"prompt": "x\\u0000", "answer": "1"}', "field 'prompt': its text has the character NUL"),
        ('{"prompt": "x", "steps": ["1\\u0000"]}', "field 'steps.0': its text has the character NUL"),
        *(
            (json.dumps({"prompt": "x", "answer": "1", "id": name}), "field 'id': .* is no id: use letters")
            for name in ("../../etc", "/etc", "a/b", "a\\b", ".hidden", "a b", "a\n", "-rf")
        ),
        ('{"prompt": "x"', r"Invalid JSON: EOF while parsing an object at column 14$"),
        ('{"question": "x", "answer": "1"}', r"field 'question': no such field.*There are: .*prompt.* \(1 more\)"),
        ('{"promt": "x", "answer": "1"}', "field 'promt': no such field; did you mean 'prompt'"),
        ('{"prompt": "x", "steps": [{"acton": "1"}]}', "field 'steps.0.Step.acton': no such field"),
        ('{"prompt": "x", "answer": "1", "verifier": "other@1"}', "'verifier'"),
    ],
)
def test_each_mistake_has_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InvalidInput, match=f"line 1.*{reason}"):
        read(path, verifier="sums@1")


@pytest.mark.parametrize("name", ["q-1", "7", "train:0012.v2", "_x", "käse"])
def test_an_id_is_kept_as_it_is_given(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"prompt": "x", "answer": 0.5, "id": name}))
    assert [(record.id, record.answer) for record in read(path)] == [(name, "0.5")]


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(lines(1)[0].encode() + b'\n{"prompt": "\xff", "answer": "1"}\n')
    with pytest.raises(InvalidInput, match="line 2"):
        read(path)


def test_a_byte_order_mark_windows_line_ends_and_empty_lines_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + "\r\n\r\n".join(lines(3)).encode() + b"\r\n")
    assert [record.answer for record in read(path)] == ["1", "2", "3"]


def test_two_equal_records_are_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join([lines(1)[0], lines(2)[1], lines(1)[0]]))
    with pytest.raises(InvalidInput, match=r"line 3: .* line 1; .*leave one out"):
        read(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n \n")
    with pytest.raises(InvalidInput, match="are empty"):
        read(path)


def test_an_added_record_changes_no_other(tmp_path: Path) -> None:
    short, long = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    short.write_text("\n".join(lines(50)))
    long.write_text("\n".join(["", *reversed(lines(100))]))
    first, second = ({r.id: (r.split, r.group) for r in read(path)} for path in (short, long))
    assert len(first) == 50
    assert all(second[key] == value for key, value in first.items())


def test_what_was_checked_is_what_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines(5)))
    records = stage_records(path, into=tmp_path / "staged", domain="sums", verifier=None)
    assert (tmp_path / "staged" / "records.jsonl").read_bytes() == path.read_bytes()
    assert len(records) == 5
    with pytest.raises(InvalidInput, match="is not a file"):
        stage_records(tmp_path, into=tmp_path / "other", domain="sums", verifier=None)


# ── What a recipe makes of them ──────────────────────────────────────────────────────────────────


def recipe(*, own: bool = False) -> Recipe:
    return load_recipe("sums", path=RECORDS_RECIPE, overrides={"leave_out_idle": "false"} if own else {})


def records(tmp_path: Path, *, steps: bool, count: int = 60) -> list[Record]:
    path = tmp_path / "r.jsonl"
    rows = [{"prompt": f"p{n}", "answer": "1", **({"steps": ["1"]} if steps else {})} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return read(path)


def test_records_without_steps_are_trained_on_by_rlvr_alone(tmp_path: Path) -> None:
    assert [s.name for s in recipe().for_records(records(tmp_path, steps=False)).stages] == ["rlvr"]


def test_records_with_steps_take_every_stage(tmp_path: Path) -> None:
    assert [s.name for s in recipe().for_records(records(tmp_path, steps=True)).stages] == ["sft", "srl", "rlvr"]


def test_a_recipe_of_ones_own_is_not_cut_in_silence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="stage 'sft' reads split 'train'"):
        recipe(own=True).for_records(records(tmp_path, steps=False))


@pytest.mark.parametrize(("split", "reason"), [("test_known", "neither 'train' nor 'rl'"), ("rl", "no test split")])
def test_records_on_one_side_alone_are_refused_before_the_run(tmp_path: Path, split: str, reason: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "1", "split": split}))
    with pytest.raises(InvalidInput, match=reason):
        recipe().for_records(read(path))
