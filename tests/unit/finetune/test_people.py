"""What belongs to somebody is found, and what records of games are made of is not."""

from __future__ import annotations

import time

import pytest

from stepforge.contracts.records import SPLITS
from stepforge.finetune.people import kinds_in, people_in
from stepforge.logs import redact
from stepforge_jobs.domains import DOMAINS, load_domain
from tests.unit.finetune.contents import HARMLESS, TRUE, harmless

FRAMES = ("{}", "Quest giver. {} Reward: 300 gold.", "a;b\n{}\nc", '{{"note": "{}"}}', "| Ann | {} | 12 |")


def found_in(text: str) -> list[tuple[str, str]]:
    return [(found.kind, text[found.start : found.end]) for found in people_in(text)]


@pytest.mark.parametrize(("kind", "text", "value"), TRUE, ids=[text for _, text, _ in TRUE])
def test_what_belongs_to_somebody_is_found(kind: str, text: str, value: str) -> None:
    assert (kind, value) in found_in(text)


@pytest.mark.parametrize("frame", FRAMES)
def test_it_is_found_wherever_it_stands(frame: str) -> None:
    missed = [text for kind, text, value in TRUE if (kind, value) not in found_in(frame.format(text))]
    assert missed == []


def test_no_text_of_a_game_holds_what_belongs_to_somebody() -> None:
    """In 14 kinds of made-up content; the rules of the logs find something in more than a third of these texts."""
    texts = list(harmless(150))
    assert [(name, found_in(text)) for name, text in texts if people_in(text)] == []
    marks = ("[redacted:phone]", "[redacted:card]", "[redacted:email]")
    eager = sum(any(mark in redact(text, longest=len(text)) for mark in marks) for _, text in texts)
    assert eager > len(texts) / 3
    assert len(texts) == 150 * len(HARMLESS)


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_no_record_of_a_domain_that_ships_holds_any(name: str) -> None:
    domain = load_domain(name)
    sizes = {split: min(300, size) if (size := domain.size(split)) is not None else 300 for split in SPLITS}
    records = [domain.record(split, index, seed=1) for split, count in sizes.items() for index in range(count)]
    assert [record.id for record in records if kinds_in(record.model_dump(mode="json"))] == []
    assert len(records) > 1_000 or name == "records"


@pytest.mark.parametrize(
    "text",
    [
        "dx: +491234567 and +4531234567 then -87654321 too",
        "sold for 4222222222222 gold",
        "row 1234 4111 1111 1111 1111",
        "row 4111 1111 1111 1111 1234",
        "+49 0815 4711 123",
        "notch at 415-830-1245 Hz",
        "deals +12.50 +30.25 -10.75 12.5",
        "v2.415.555.0123",
        "tel: 2026-11-22",
        "y = x@w.weight_0 + h@self.proj.py",
        "+49 30 901820_id",
        "phones (3): 320, 480, 768",
        "phone: 1200000",
        "0010 0020 0030 0040",
    ],
)
def test_what_only_looks_like_it_is_nobody_s(text: str) -> None:
    assert found_in(text) == []


def test_a_number_of_a_record_is_somebody_s_where_its_name_says_so() -> None:
    assert kinds_in({"phone": 14155550123}) == ("phone",)
    assert kinds_in({"credit_card": [4111111111111111]}) == ("card",)
    assert kinds_in({"seed": 4111111111111111, "ids": [14155550123], "discard": 4111111111111111}) == ()
    assert kinds_in([{"ann@example.org": True}]) == ("email",)


def test_a_table_of_cards_is_told_from_a_table_of_numbers_by_its_words() -> None:
    rows = "4111111111111111 | 9876543210123456\n" + "5500005555555559 | 1234567890123456\n" * 2
    assert kinds_in(f"left | right | up\n{rows}1234567890123456\n") == ()
    assert kinds_in(f"card | order\n{rows}") == ("card",)


@pytest.mark.parametrize(
    "text",
    ["1 " * 30_000, "+1 " * 20_000, "+49 " + "1/" * 30_000, "4111 1111 1111 1111\n" * 3_000, "x" * 60_000 + "@b",
     "4111111111111111 " * 3_000, "tel 12 " * 9_000, "[at]" * 15_000, "+4930901820 " * 5_000,
     "tel: 030 901820, " * 4_000, "tel: " + "030 901820, " * 4_000, "tel" * 9_000, "a@" + "_" * 30_000,
     "a@b.cd" + "_" * 30_000, "a@xn--" + "b" * 30_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_time_grows_with_the_length_and_no_faster(text: str) -> None:
    """Of processor. What grows with the square takes tens of seconds here."""
    began = time.process_time()
    people_in(text)
    assert time.process_time() - began < 3
