"""The page needs nothing else, runs nothing, escapes everything, and says what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.report.sample import STAGES, evaluation, report_data

from stepforge.contracts.previews import Preview
from stepforge.report import render
from stepforge.report.data import Example, ReportData
from stepforge.report.html import Markup, clean, el, join
from stepforge.report.sections_training import kl

HOSTILE = (
    "</pre></style></title>'\"><script>alert(1)</script><img src=//evil.example onerror=alert(1)><svg onload=alert(1)>"
)
VOID = {"meta", "br", "hr", "img", "link", "input", "col"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, text, and whether everything is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(report_data()))


def hostile_data() -> ReportData:
    data = report_data()
    preview = Preview(
        record=HOSTILE[:100],
        split="test_new",
        accepted=False,
        prompt=HOSTILE,
        completion=HOSTILE,
        failed_rules=(HOSTILE,),
    )
    spoilt = data.evaluation.model_copy(  # type: ignore[union-attr]
        update={
            "rule_failures": tuple(f.model_copy(update={"rule": HOSTILE}) for f in data.evaluation.rule_failures)  # type: ignore[union-attr]
        }
    )
    return data.model_copy(
        update={
            "domain": HOSTILE,
            "cause": HOSTILE,
            "evaluation": spoilt,
            "unreadable": {HOSTILE: 3},
            "recipe": HOSTILE,
            "command": HOSTILE,
            "notes": (HOSTILE,),
            "examples": (Example(preview=preview, fragment=HOSTILE), Example(preview=preview)),
        }
    )


# ── Self-contained, safe ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", [report_data(), hostile_data()], ids=["plain", "hostile"])
def test_the_page_has_no_script_no_handler_and_fetches_nothing(data: ReportData) -> None:
    page = Page(render(data))
    assert not {"script", "img", "link", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "action", "background")]
        assert str(attributes.get("href", "#")).startswith("#")
    assert page.open == []


def test_the_style_sheet_fetches_nothing() -> None:
    assert not re.search(r"url\(|@import", render(report_data()))


def test_hostile_text_is_shown_as_text() -> None:
    page = Page(render(hostile_data()))
    # Domain (head and heading), note, rule, reason, record, prompt, completion, failed rule, recipe, command.
    assert page.text.count("<script>alert(1)</script>") >= 10


def test_a_policy_forbids_requests_and_scripts(page: Page) -> None:
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_a_fragment_stands_in_a_frame_without_rights_and_behind_its_own_policy() -> None:
    frames = Page(render(hostile_data())).all("iframe")
    assert len(frames) == 1
    assert frames[0]["sandbox"] == ""
    document = frames[0]["srcdoc"]
    assert document is not None
    assert document.index("Content-Security-Policy") < document.index("<script>")


def test_control_and_direction_characters_are_shown_and_do_nothing() -> None:
    assert clean("a\x00b\u202ec\ud800d\r\ne\tf") == "a\\x00b\\u202ec\\ud800d\ne\tf"


def test_only_markup_is_passed_through() -> None:
    assert el("b", "<i>", Markup("<u>"), None, [1, "&"], title='"') == '<b title="&quot;">&lt;i&gt;<u>1&amp;</b>'
    assert isinstance(join("a"), Markup)


def test_the_same_data_give_the_same_bytes() -> None:
    assert render(report_data()) == render(report_data())


# ── Accessible ───────────────────────────────────────────────────────────────────────────────────


def test_ids_are_unique_and_every_reference_resolves(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in str(attributes.get("aria-labelledby") or "").split():
            assert name in ids
        if href := attributes.get("href"):
            assert href[1:] in ids


def test_every_table_has_headers_and_a_caption(page: Page) -> None:
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(header["scope"] in ("col", "row", "rowgroup") for header in page.all("th"))


def test_a_drawing_has_a_title_or_is_hidden_from_readers(page: Page) -> None:
    for svg in page.all("svg"):
        assert (svg.get("role") == "img" and svg.get("aria-labelledby")) or svg.get("aria-hidden") == "true"


def test_headings_do_not_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def luminance(colour: str) -> float:
    parts = (
        [int(c * 2, 16) for c in colour[1:]] if len(colour) == 4 else [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    )
    linear = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_and_lines_have_contrast(theme: int) -> None:
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for graphics (1.4.11)."""
    blocks = re.findall(r":root \{([^}]*)\}", render(report_data()))
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", blocks[theme]))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    text = [(ink, ground) for ink in ("ink", "soft") for ground in ("page", "card", "sunk")]
    text += [(tone, f"{tone}-ground") for tone in ("good", "caution", "bad", "neutral")]
    text += [("good", "card"), ("bad", "card")] + ([("link", "page")] if theme < 2 else [])
    for pair in text:
        assert contrast(*pair) >= 4.5, pair
    for line in ("s0", "s1", "s2", "s3", "s4", "s5", "ours", "champion", "base", "bar"):
        assert contrast(line, "card") >= 3, line


# ── Contents ─────────────────────────────────────────────────────────────────────────────────────


def test_every_number_of_the_verdict_is_there(page: Page) -> None:
    for words in (
        "Better than the champion on 4 of 6 held-out scores, worse on none",
        "88.5 % 84.1–92.9",
        "stepforge registry approve facial/7 --comment 'why' --env dev",
        "$1.22 for 43 min 35 s of billable instance time in 8 attempts.",
        "23.5 % 47 of 200",
        "SequenceMatcher(autojunk=False)",
        "Also Stopped",
    ):
        assert words in page.text


def test_sections_stand_in_the_order_of_a_decision(page: Page) -> None:
    names = [attributes["aria-labelledby"] for tag, attributes in page.elements if tag == "section"]
    assert names == [
        "verdict", "scores", "training", "kl", "time", "rules", "examples", "data", "cost", "lineage", "choices",
        "reproduce",
    ]  # fmt: skip


def test_good_and_bad_outputs_alternate(page: Page) -> None:
    cards = [attributes["class"] for tag, attributes in page.elements if tag == "article"]
    assert cards == ["card good", "card bad"] * 4


def without(**changes: Any) -> str:
    return Page(render(report_data(**changes))).text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"references": (), "comparison": None}, "No champion's scores are shown"),
        ({"references": ()}, "The base model was not evaluated in this run"),
        ({"evaluation": None}, "The evaluation is not done, so there is no score yet."),
        ({"stages": ()}, "No training stage is done, so there is no curve yet."),
        ({"examples": ()}, "The evaluation kept no completions"),
        ({"examples": tuple(e for e in report_data().examples if e.preview.accepted)}, "No completion was refused"),
        (
            {"examples": tuple(e for e in report_data().examples if not e.preview.accepted)},
            "No completion was accepted",
        ),
        ({"gate": None}, "The gate has not given its word yet."),
        ({"dataset": None}, "The dataset is not made yet."),
        ({"package": None}, "No version of this run is in the registry"),
        ({"prices": None}, "what that cost is not known"),
        ({"prices": {"ml.g5.xlarge": 1.758}}, "At least $1.21"),
        ({"environment": "local"}, "It ran on this machine and cost nothing but time"),
        ({"jobs": ()}, "No job has been planned yet."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_missing_is_said(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in without(**changes)


@pytest.mark.parametrize(
    ("view", "sentence", "command"),
    [
        ({}, "waits for a person in the registry. To decide:", "registry reject facial/7 --comment 'why' --env dev"),
        (
            {"state": "Production", "reason": "it is better"},
            "Version facial/7 serves now (it is better). Nothing is left to decide",
            "registry show facial/7 --env dev",
        ),
        (
            {"state": "rejected", "reason": "worse"},
            "was rejected (worse). To promote it all the same:",
            "registry approve facial/7 --comment 'why' --yes --env dev",
        ),
        (
            {"state": "superseded", "reason": "by version 8"},
            "served once, and was superseded by version 8. To bring it back:",
            "registry approve facial/7 --comment 'why' --env dev",
        ),
        (
            {"state": "Approved, promotion failed", "reason": "promotion failed: no room"},
            "is Approved, promotion failed (promotion failed: no room). To promote it again",
            "registry reject facial/7 --comment 'why' --env dev",
        ),
    ],
    ids=["pending", "serves", "rejected", "superseded", "failed"],
)
def test_what_was_decided_is_said_with_what_can_still_be_done(view: dict, sentence: str, command: str) -> None:
    package = {**report_data().model_dump()["package"], **view}
    text = without(package=package)
    assert sentence in text
    assert command in text


def test_an_empty_run_is_a_page_too() -> None:
    empty = {"jobs", "later", "dataset", "gate", "stages", "evaluation", "references", "comparison", "examples"}
    plain = report_data().model_dump(exclude=empty | {"unreadable", "completions", "prices"})
    assert "Not finished" in Page(render(ReportData.model_validate(plain))).text


def test_the_time_of_a_stage_is_told_by_phase_with_what_is_left() -> None:
    text = Page(render(report_data())).text
    spent = "15 s, 51.7 % under 1 s, 0.7 % – 3 s, 10.3 % 6 s, 20.7 % 1 s, 3.4 % 4 s, 13.1 % 62.5 % 2.5 ×"
    assert f"Share of the bound Tokens saved rlvr {spent}" in text
    stages = tuple(stage.model_copy(update={"curves": {}}) for stage in report_data().stages)
    assert "No stage of this run reports the phases of its steps." in without(stages=stages)


def test_renewing_vllms_weights_is_told_apart_where_there_was_any() -> None:
    assert "Renewal" not in Page(render(report_data())).text
    timed = next(stage for stage in report_data().stages if "sampling_seconds" in stage.curves)
    renewed = timed.model_copy(update={"curves": timed.curves | {"renewal_seconds": ((1.0, 1.45), (2.0, 1.45))}})
    text = without(stages=(renewed,))
    assert "Stage Renewal Sampling" in text
    assert "rlvr 3 s, 10.0 % 15 s, 51.7 %" in text
    assert "handing the weights to vLLM" in text


def test_stages_without_kl_say_so() -> None:
    stages = tuple(
        stage.model_copy(update={"curves": {name: curve for name, curve in stage.curves.items() if name != "kl"}})
        for stage in report_data().stages
    )
    assert "No stage of this run reports KL." in without(stages=stages)


def test_values_that_are_not_finite_are_counted_in_words() -> None:
    stages = report_data().stages
    broken = stages[3].model_copy(update={"curves": {"reward": ((1.0, 0.5), (2.0, float("nan")), (3.0, 0.6))}})
    assert (
        "1 value is not finite" in Page(render(report_data().model_copy(update={"stages": (*stages[:3], broken)}))).text
    )


def test_rounding_errors_are_no_curve() -> None:
    stages = report_data().stages
    noise = tuple((float(step), 4e-8 * (-1) ** step) for step in range(1, 101))
    quiet = tuple(s.model_copy(update={"curves": s.curves | {"loss": noise}}) for s in stages[2:])
    page = Page(render(report_data().model_copy(update={"stages": (*stages[:2], *quiet)})))
    assert "Here it is 0 but for rounding (at most 4.00e-08)" in page.text
    assert "curve-loss-rl-title" not in [attributes.get("id") for attributes in page.all("title")]


def test_an_interval_without_width_is_explained() -> None:
    nothing = evaluation("rlvr", {"test_new": (0.0, 0.0)})
    assert "200 of a kind leave room for about 1.5 % of the other" in without(evaluation=nothing)


def test_an_unknown_price_is_never_zero() -> None:
    text = without(prices=None)
    assert "price unknown" in text
    assert "$0" not in text


def test_a_stage_of_every_name_has_its_own_label(page: Page) -> None:
    assert all(name in page.text for name in STAGES)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "none"), ({"beta": 0.05}, "0.05"), ({"beta": 0.0, "kl": {"cap": 0.1}}, "held below 0.1")],
    ids=["none", "fixed", "held"],
)
def test_the_distance_tells_what_pulled_back(settings: dict[str, object], words: str) -> None:
    data = report_data()
    jobs = [job.model_copy(update={"settings": settings}) if job.stage else job for job in data.jobs]
    page = str(kl(data.model_copy(update={"jobs": tuple(jobs)})))
    assert f'<td class="num">{words}</td>' in page
