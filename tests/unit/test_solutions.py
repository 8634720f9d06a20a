"""Solutions as text: what is a step, what is dropped and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.contracts.solutions import parse_solution, report_of, without_head
from stepforge.contracts.user_records import RecordsFile, read_user_files
from stepforge.errors import InvalidInput

WHOLE = "1. **Ones** 7 + 5 = 12\n2. **Tens:** 10 + 20 + 12\n   = 42\n3. **Sum** 42"


def test_a_step_has_a_number_a_title_and_an_action_of_one_line() -> None:
    found = parse_solution(WHOLE)
    assert [(step.title, step.action) for step in found.steps] == [
        ("Ones", "7 + 5 = 12"),
        ("Tens", "10 + 20 + 12 = 42"),
        ("Sum", "42"),
    ]
    assert found.dropped == ()


@pytest.mark.parametrize(
    ("text", "steps", "whys"),
    [
        ("Let us see.\n\nIt is easy.\n" + WHOLE, 3, ["before the first step"]),
        ("1. **Ones** 12\n2. plain words\n3. **Sum** 42", 1, ["no title", "after a dropped step"]),
        ("1. **Ones** 12\n3. **Sum** 42\n4. **End** 42", 1, ["number out of order", "after a dropped step"]),
        ("1. **Ones**\n2. **Sum** 42", 0, ["no action", "after a dropped step"]),
        ("2. **Sum** 42", 0, ["number out of order"]),
        ("1. **List** of:\n5. five\n7. seven\n2. **Sum** 12", 2, []),
        ("1. **List** of:\n1. one\n2. two\n3. three\n2. **Sum** 6", 2, []),
        ("A plan:\n1. add\n2. carry\n" + WHOLE, 3, ["before the first step"]),
        ("1.**Ones** 12\n2.**Sum** 42", 2, []),
        ("1. ** ** 12\n2. **:** 42", 0, ["no title", "after a dropped step"]),
        ("1. **Open 42", 0, ["no title"]),
        ("1. **Open\nwith **bold** words", 0, ["no title"]),
        ("no steps at all", 0, ["before the first step"]),
        ("", 0, []),
    ],
    ids=[
        "preamble",
        "no-title",
        "gap",
        "no-action",
        "late-start",
        "list-within",
        "list-from-1",
        "plan",
        "no-space",
        "empty-title",
        "unclosed",
        "unclosed-then-bold",
        "prose",
        "empty",
    ],
)
def test_what_does_not_conform_is_dropped_with_its_reason(text: str, steps: int, whys: list[str]) -> None:
    found = parse_solution(text)
    assert len(found.steps) == steps
    assert [piece.why for piece in found.dropped] == whys


def test_emphasis_within_a_title_and_a_list_within_an_action_stay_whole() -> None:
    (step,) = parse_solution("1. ***Bold*** of 3:\r\n1. one\r\n2. two").steps
    assert (step.title, step.action) == ("*Bold*", "of 3: 1. one 2. two")


@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z][a-z ]{0,8}[a-z]", fullmatch=True), st.integers(0, 99)), max_size=6))
def test_steps_that_are_written_down_are_read_back(steps: list[tuple[str, int]]) -> None:
    text = "\n".join(f"{n}. **{title}** {value} = {value}" for n, (title, value) in enumerate(steps, start=1))
    found = parse_solution(text)
    assert [(step.title, step.action) for step in found.steps] == [(title, f"{v} = {v}") for title, v in steps]
    assert [without_head(line) for line in text.splitlines()] == [step.action for step in found.steps]


@given(st.text(alphabet="123.* abA\n", max_size=60))
def test_no_text_is_lost_without_being_counted(text: str) -> None:
    found = parse_solution(text)
    letters = sum(character in "abA" for character in text)
    kept = "".join(step.title + step.action for step in found.steps) + "".join(piece.text for piece in found.dropped)
    assert sum(character in "abA" for character in kept) == letters


def test_the_report_counts_every_reason_and_shows_examples() -> None:
    texts = [WHOLE, "prose\n1. **Ones** 12\n3. **Sum** 42", "nothing " + "x" * 300]
    report = report_of(parse_solution(text) for text in texts)
    assert (report.solutions, report.steps, report.records_without_steps) == (3, 4, 1)
    assert report.dropped == {"before the first step": 2, "number out of order": 1}
    assert [len(example.text) for example in report.examples] == [5, 120, len("3. **Sum** 42")]


def file(tmp_path: Path, *rows: dict[str, object]) -> RecordsFile:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RecordsFile(path, path.name, "0" * 64)


def test_records_may_bring_their_solution_as_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "solution": WHOLE},
        {"prompt": "b", "solution": "prose", "answer": "42", "split": "rl"},
        {"prompt": "c", "solution": "prose"},
    ]
    solutions: list = []
    found = read_user_files([file(tmp_path, *rows)], domain="sums", verifier=None, solutions=solutions)
    assert [(record.prompt, len(record.steps)) for record in found] == [("a", 3), ("b", 0)]
    assert len(solutions) == 3
    assert found[0].steps[1].title == "Tens"


def test_solutions_without_a_single_step_are_refused_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none of the 1 solutions.*before the first step.*'prose'"):
        read_user_files([file(tmp_path, {"prompt": "c", "solution": "prose"})], domain="sums", verifier=None)
    both = file(tmp_path, {"prompt": "c", "solution": WHOLE, "steps": ["x"]})
    with pytest.raises(InvalidInput, match="not both"):
        read_user_files([both], domain="sums", verifier=None)
