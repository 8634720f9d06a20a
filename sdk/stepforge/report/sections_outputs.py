"""What the model writes: which rules fail where, and good and bad outputs side by side."""

from __future__ import annotations

from itertools import zip_longest

from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.reports import EvaluationReport, RuleFailure
from stepforge.report import charts
from stepforge.report.data import Example, ReportData
from stepforge.report.html import Markup, el, join, raw, table
from stepforge.report.verdict import SPLIT_NAMES
from stepforge.report.words import count, listing, missing, note, percent, plural, section

MOST_RULES = 20
MOST_REASONS = 5


def rules(data: ReportData) -> Markup:
    title = "Failures by rule"
    if data.evaluation is None:
        return section("rules", title, missing("The evaluation is not done, so no rule has been counted yet."))
    if not data.evaluation.rule_failures:
        return section("rules", title, missing("The evaluation counted no rules: the verifier reports none."))
    return section("rules", title, _bars(data.evaluation), _unreadable(data))


def _bars(evaluation: EvaluationReport) -> Markup:
    cells = {(failure.split, failure.rule): failure for failure in evaluation.rule_failures}
    splits = [split for split in TEST_SPLITS if any(found == split for found, _ in cells)]
    names = list(dict.fromkeys(rule for _, rule in cells))
    worst = {name: max(_share(cells.get((split, name))) for split in splits) for name in names}
    failing = sorted((name for name in names if worst[name] > 0), key=lambda name: (-worst[name], name))
    never = sorted(name for name in names if worst[name] == 0)
    parts: list[object] = []
    if failing:
        rows: list[list[object]] = [
            [el("code", name), *(_bar_cell(cells.get((split, name))) for split in splits)]
            for name in failing[:MOST_RULES]
        ]
        columns: list[object] = ["Rule", *(SPLIT_NAMES[split] for split in splits)]
        which = evaluation.metadata.get("rule_failures")
        caption = "Completions that fall short of a rule, hard or soft, of those it was applied to" + (
            f" ({which})" if which else ""
        )
        parts.append(table(columns, rows, caption=caption, class_="bars"))
    if len(failing) > MOST_RULES:
        parts.append(note(f"{plural(len(failing) - MOST_RULES, 'rule')} with fewer failures left out."))
    if never:
        parts.append(note(f"Never failed: {listing(never)}."))
    return join(parts)


def _share(failure: RuleFailure | None) -> float:
    return failure.failed / failure.count if failure and failure.count else 0.0


def _bar_cell(failure: RuleFailure | None) -> Markup:
    if failure is None or not failure.count:
        return el("td", "not applied", class_="missing")
    share = _share(failure)
    number = el("span", percent(share), el("small", f"{count(failure.failed)} of {count(failure.count)}"))
    return el("td", charts.bar(share), number)


def _unreadable(data: ReportData) -> Markup | None:
    if not data.completions:
        return None
    total = sum(data.unreadable.values())
    if not total:
        return note(f"All {count(data.completions)} completions of the evaluation could be read.")
    ordered = sorted(data.unreadable.items(), key=lambda pair: -pair[1])
    items = [
        el("li", reason, " ", el("span", f"× {count(number)}", class_="times"))
        for reason, number in ordered[:MOST_REASONS]
    ]
    more = (
        [el("li", f"and {plural(len(ordered) - MOST_REASONS, 'other reason')}")] if len(ordered) > MOST_REASONS else []
    )
    share = percent(total / data.completions)
    return join(
        el("p", f"{count(total)} of {count(data.completions)} completions ({share}) could not be read:"),
        el("ul", items, more, class_="reasons"),
    )


# ── Examples ─────────────────────────────────────────────────────────────────────────────────────


def examples(data: ReportData) -> Markup:
    title = "Good and bad outputs"
    if data.evaluation is None:
        return section("examples", title, missing("The evaluation is not done, so there is no output to show yet."))
    if not data.examples:
        return section("examples", title, missing("The evaluation kept no completions, so there is no output to show."))
    good = [example for example in data.examples if example.preview.accepted]
    bad = [example for example in data.examples if not example.preview.accepted]
    parts: list[object] = []
    if not any(example.fragment for example in data.examples):
        parts.append(missing("This domain draws no previews: the outputs are shown as text."))
    if not good:
        parts.append(missing("No completion was accepted, so there is no good output to show."))
    if not bad:
        parts.append(missing("No completion was refused, so there is no bad output to show."))
    heads = [el("h3", "Accepted", class_="good"), el("h3", "Refused", class_="bad")]
    cards: list[Markup] = []
    for index, pair in enumerate(zip_longest(good, bad)):
        for example in pair:
            cards.append(el("div") if example is None else _card(example, index))
    parts += [
        note(
            "Chosen by a seed, not by hand: by turns from the splits, and the refused ones by what failed first. "
            "How often each happens is in the tables above."
        ),
        el("div", heads, cards, class_="pairs"),
    ]
    return section("examples", title, parts)


def _card(example: Example, index: int) -> Markup:
    preview = example.preview
    word = "Accepted" if preview.accepted else "Refused"
    why: list[object] = []
    if preview.reason:
        why = [el("p", "Could not be read: ", preview.reason, class_="why")]
    elif preview.failed_rules:
        # A soft rule below 1 lowers the reward and refuses nothing.
        said = "Accepted, yet short of " if preview.accepted else "Falls short of "
        why = [el("p", said, join_codes(preview.failed_rules), class_="short" if preview.accepted else "why")]
    return el(
        "article",
        el(
            "header",
            el("span", word, class_=f"badge {'good' if preview.accepted else 'bad'}"),
            el("span", el("code", preview.record), class_="record"),
            el("small", f"{SPLIT_NAMES[preview.split]}, {preview.decoding}"),
        ),
        _drawing(example, f"{word} output {index + 1}"),
        why,
        el(
            "dl",
            *([el("dt", "Prompt"), el("dd", el("pre", preview.prompt))] if preview.prompt else []),
            el("dt", "Completion"),
            el("dd", el("pre", preview.completion or "(empty)")),
        ),
        class_="card good" if preview.accepted else "card bad",
    )


def join_codes(names: tuple[str, ...]) -> Markup:
    return join([[", " if index else None, el("code", name)] for index, name in enumerate(names)])


FRAME_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--page:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--page:#171c24}}
html{background:var(--page);color:var(--ink);font:13px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
body{margin:0;overflow-wrap:anywhere}table{max-width:100%}svg,img{width:auto;height:auto;max-width:100%;max-height:210px}pre{white-space:pre-wrap}
"""
FRAME_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"


def _drawing(example: Example, title: str) -> Markup | None:
    """The domain's fragment in a frame without scripts, forms, origin or network.

    The frame's own policy is written before the fragment, so that nothing in it can come first.
    """
    if example.fragment is None:
        return None
    document = join(
        raw("<!doctype html>"),
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=FRAME_POLICY),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", raw(FRAME_STYLE)),
        raw(example.fragment),
    )
    # str: as an attribute the whole document is escaped.
    return el("iframe", srcdoc=str(document), sandbox="", title=title, referrerpolicy="no-referrer")
