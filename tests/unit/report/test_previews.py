"""Examples are chosen by a seed, spread over splits and causes, and drawn where the domain can draw."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stepforge.contracts.previews import CompletionRow, Preview, choose
from stepforge.contracts.records import Provenance, Record
from stepforge.contracts.rewards import Verdict
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.base import Previewable
from stepforge_jobs.evaluation.previews import write_previews


def row(
    index: int, *, accepted: bool, split: str = "test_new", rule: str = "", decoding: str = "greedy", reason: str = ""
) -> Any:
    return {
        "record": f"r{index}", "split": split, "decoding": decoding, "completion": f"c{index}", "prompt": "p",
        "accepted": accepted, "failed_rules": [rule] if rule else [], "reason": reason, "tokens": 3,
    }  # fmt: skip


GOOD = [row(i, accepted=True, split=("test_known", "test_new", "test_retained")[min(i // 40, 2)]) for i in range(90)]
BAD = [row(100 + i, accepted=False, rule="common") for i in range(60)]
BAD += [row(200, accepted=False, rule="rare"), row(201, accepted=False, reason="did not end")]
ROWS = GOOD + BAD


def chosen(rows: list[Any], **more: Any) -> list[CompletionRow]:
    return choose([CompletionRow.model_validate(r) for r in rows], **more)


def test_good_ones_are_spread_over_the_splits() -> None:
    assert Counter(r.split for r in chosen(ROWS) if r.accepted) == {"test_known": 2, "test_new": 2, "test_retained": 2}


def test_a_common_failure_does_not_crowd_out_rare_ones() -> None:
    causes = [r.reason or r.failed_rules[0] for r in chosen(ROWS) if not r.accepted]
    assert Counter(causes) == {"common": 4, "rare": 1, "did not end": 1}


def test_the_same_seed_chooses_the_same_whatever_the_order() -> None:
    assert chosen(ROWS, seed=3) == chosen(ROWS[::-1], seed=3)
    assert chosen(ROWS, seed=3) != chosen(ROWS, seed=4)


def test_records_are_different_where_there_are_enough() -> None:
    rows = [row(i % 5, accepted=True, decoding="sampled") | {"completion": f"c{i}"} for i in range(50)]
    assert len({r.record for r in chosen(rows, good=5)}) == 5
    assert len(chosen(rows, good=8)) == 8


def test_greedy_completions_come_first() -> None:
    rows = [row(i, accepted=True, decoding="sampled") for i in range(20)] + [row(50, accepted=True)]
    assert chosen(rows)[0].decoding == "greedy"


def test_fewer_rows_than_wanted_are_all_taken() -> None:
    assert len(chosen(ROWS[:2])) == 2
    assert chosen([]) == []


class Plain:
    name, version, vocabulary, step_end = "demo", "1", (), None

    def size(self, split: str) -> int | None:
        return None

    def record(self, split: Any, index: int, *, seed: int) -> Record:
        raise IndexError(index)

    def verify(self, record: Record, completion: str) -> Verdict:
        return Verdict(accepted=True, reward=1, partial=1)


class Drawn(Plain):
    def preview(self, record: Record, completion: str) -> str:
        return f"<p>{record.prompt} → {completion}</p>"


RECORDS = {
    r["record"]: Record(
        id=r["record"], domain="demo", source="template", split=r["split"], group=r["record"], prompt="p",
        verifier="demo@1", provenance=Provenance(generator="demo@1"),
    )
    for r in ROWS
}  # fmt: skip


def test_a_domain_that_draws_gets_a_fragment_for_each(tmp_path: Path) -> None:
    assert isinstance(Drawn(), Previewable)
    previews = write_previews(Drawn(), RECORDS, ROWS, tmp_path, good=2, bad=1)
    listed = [Preview.model_validate(entry) for entry in json.loads((tmp_path / "previews.json").read_text())]
    assert listed == previews
    assert [entry.accepted for entry in listed] == [True, True, False]
    for index, entry in enumerate(listed):
        assert entry.file == f"previews/{index}.html"
        assert (tmp_path / entry.file).read_text(encoding="utf-8") == f"<p>p → {entry.completion}</p>"


def test_a_domain_that_does_not_draw_gets_text_alone(tmp_path: Path) -> None:
    assert {preview.file for preview in write_previews(Plain(), RECORDS, ROWS, tmp_path)} == {None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previews.json"]


def test_a_row_of_no_record_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'r7'"):
        write_previews(Drawn(), {}, [row(7, accepted=True)], tmp_path)
