"""The parts of the page that decide: the verdict, and the held-out scores as numbers and as intervals."""

from __future__ import annotations

from stepforge.contracts.records import TEST_SPLITS, Split
from stepforge.contracts.reports import EvaluationReport, Interval
from stepforge.report import charts
from stepforge.report.data import ReportData
from stepforge.report.html import Markup, el, join, table
from stepforge.report.verdict import DECODINGS, SPLIT_NAMES, cells, difference, score, verdict
from stepforge.report.words import (
    count,
    interval_text,
    is_share,
    mean_text,
    missing,
    note,
    percent,
    room_for_doubt,
    section,
)

MARKS = {"good": "✓", "caution": "!", "bad": "✕", "neutral": "•"}
DIFFERENCE_MARKS = {
    "higher": "▲ ours is higher",
    "lower": "▼ ours is lower",
    "no difference supported": "≈ too close to call",
}
METRIC_NAMES = {"exact_match": "exact match", "partial": "partial credit"}


def verdict_box(data: ReportData) -> Markup:
    said = verdict(data)
    reasons = el("ul", [el("li", reason) for reason in (*said.reasons, *data.notes)])
    mark = el("span", MARKS[said.tone], class_="mark", aria_hidden="true")
    return el(
        "section",
        el("h2", mark, el("span", said.headline), id="verdict"),
        reasons,
        _tiles(data),
        _decision(data),
        class_=f"verdict {said.tone}",
        aria_labelledby="verdict",
    )


def _tiles(data: ReportData) -> Markup | None:
    """The headline number of every split."""
    if data.evaluation is None:
        return None
    tiles = []
    for split in TEST_SPLITS:
        greedy, sampled = (score(data.evaluation, split, decoding) for decoding in DECODINGS)
        first = greedy or sampled
        if first is None:
            continue
        lines = [el("p", _against(data, split, "greedy" if greedy else "sampled", first), class_="tile-note")]
        if greedy and sampled:
            lines.insert(0, el("p", f"sampled {percent(sampled.mean)}", class_="tile-note"))
        tiles.append(
            el(
                "div",
                el("h3", SPLIT_NAMES[split]),
                el("p", percent(first.mean), class_="big"),
                el(
                    "p",
                    f"accepted, {'greedy' if greedy else 'sampled'}; 95 %: {interval_text(first)}",
                    class_="tile-note",
                ),
                lines,
                class_="tile",
            )
        )
    return el("div", tiles, class_="tiles")


def _against(data: ReportData, split: object, decoding: object, ours: Interval) -> str:
    parts = []
    for reference in data.references:
        theirs = score(reference.evaluation, split, decoding)  # type: ignore[arg-type]
        parts.append(f"{reference.role} {percent(theirs.mean)}" if theirs else f"{reference.role} not scored")
    return "; ".join(parts) if parts else "nothing to compare with"


def _decision(data: ReportData) -> Markup:
    """What was decided, and what to type. Nothing where there is no version to decide about."""
    package = data.package
    if package is None:
        return missing("No version of this run is in the registry, so there is nothing to approve or reject.")
    name = package.reference
    approve, reject = f"approve {name} --comment 'why'", f"reject {name} --comment 'why'"
    because = f" ({package.reason})" if package.reason else ""
    if package.state.startswith("Production"):
        said, verbs = f"serves now{because}. Nothing is left to decide; see it with:", [f"show {name}"]
    elif package.state == "rejected":
        said, verbs = f"was rejected{because}. To promote it all the same:", [f"{approve} --yes"]
    elif package.state == "superseded":
        said, verbs = f"served once, and was superseded {package.reason}. To bring it back:", [approve]
    elif package.state.startswith("Approved"):
        said, verbs = f"is {package.state}{because}. To promote it again, or to take that back:", [approve, reject]
    else:
        said, verbs = "waits for a person in the registry. To decide:", [approve, reject]
    flag = "" if data.environment == "local" else f" --env {data.environment}"
    commands = "\n".join(f"stepforge registry {verb}{flag}" for verb in verbs)
    return el(
        "div",
        el("p", "Version ", el("strong", name), f" {said}"),
        el("pre", el("code", commands), class_="command"),
        class_="decision",
    )


# ── Held-out scores ──────────────────────────────────────────────────────────────────────────────


def scores(data: ReportData) -> Markup:
    if data.evaluation is None:
        return section("scores", "Held-out scores", missing("The evaluation is not done, so there is no score yet."))
    if not cells(data.evaluation):
        body: list[object] = [missing("The evaluation holds no score of accepted completions on a test split.")]
    else:
        body = [_main_table(data, data.evaluation), _how_to_read(data, data.evaluation)]
    return section("scores", "Held-out scores", body, _all_metrics(data.evaluation))


def _main_table(data: ReportData, evaluation: EvaluationReport) -> Markup:
    """A row for each split and decoding; the name of a split spans its rows."""
    columns: list[object] = ["Split", "Decoding", "This model", charts.unit_axis()]
    columns += [reference.role.capitalize() for reference in data.references] + ["Records"]
    found = cells(evaluation)
    rows: list[list[object]] = []
    for index, (split, decoding, ours) in enumerate(found):
        plotted: list[tuple[charts.Who, Interval]] = [("ours", ours)]
        others: list[object] = []
        for reference in data.references:
            theirs = score(reference.evaluation, split, decoding)
            if theirs is not None:
                plotted.append((reference.role, theirs))
            others.append(_other_cell(ours, theirs))
        plot = charts.intervals(plotted, name=f"interval-{index}", title=f"{SPLIT_NAMES[split]}, {decoding}")
        spanned = [s for s, _, _ in found].count(split)
        first = [] if index and found[index - 1][0] == split else [_split_header(split, spanned)]
        rows.append(
            [
                *first,
                el("td", decoding),
                _number_cell(ours),
                el("td", plot, class_="plot-cell"),
                *others,
                el("td", count(ours.count), class_="num"),
            ]
        )
    return table(columns, rows, caption="Share of completions that pass every hard rule", class_="scores")


def _split_header(split: Split, rows: int) -> Markup:
    name = join(SPLIT_NAMES[split], el("small", el("code", split)))
    return el("th", name, scope="rowgroup" if rows > 1 else "row", rowspan=rows if rows > 1 else None)


def _number_cell(ours: Interval) -> Markup:
    return el("td", el("strong", percent(ours.mean)), el("small", interval_text(ours)), class_="num")


def _other_cell(ours: Interval, theirs: Interval | None) -> Markup:
    if theirs is None:
        return el("td", "not scored", class_="missing")
    word = difference(ours, theirs)
    mark = el("span", DIFFERENCE_MARKS[word], class_=f"difference {word.split()[0]}")
    return el("td", percent(theirs.mean), " ", mark, el("small", interval_text(theirs)), class_="num")


def _how_to_read(data: ReportData, evaluation: EvaluationReport) -> Markup:
    key = [el("span", charts.mark_key("ours"), "this model")]
    key += [
        el("span", charts.mark_key(r.role), r.role, f" ({r.name})" if r.name != r.role else "") for r in data.references
    ]
    seeds = (
        "Intervals are 95 % bootstrap intervals over held-out records of one training run: they cover the choice of "
        "records, not of the seed. Two scores are called different where their intervals do not touch; "
        "otherwise they are too close to call."
    )
    parts: list[object] = [el("p", key, class_="legend"), note(seeds)]
    if doubt := room_for_doubt(value for _, _, value in cells(evaluation)):
        parts.append(note(doubt))
    roles = {reference.role for reference in data.references}
    if "champion" not in roles:
        parts.append(
            missing("No champion's scores are shown: none is registered in this group, or none could be read.")
        )
    if "base" not in roles:
        parts.append(missing("The base model was not evaluated in this run, so there is no column for it."))
    return join(parts)


def _all_metrics(evaluation: EvaluationReport) -> Markup | None:
    """Every other metric, a column each."""
    names = list(dict.fromkeys(s.metric for s in evaluation.scores if s.metric != "accepted"))
    if not names:
        return None
    rows: list[list[object]] = []
    for split in TEST_SPLITS:
        of_split = {d: [score(evaluation, split, d, name) for name in names] for d in DECODINGS}
        scored = [decoding for decoding, values in of_split.items() if any(values)]
        for decoding in scored:
            shown = [_metric_cell(value, name) for value, name in zip(of_split[decoding], names, strict=True)]
            first = [_split_header(split, len(scored))] if decoding == scored[0] else []
            rows.append([*first, el("td", decoding), *shown])
    shares = [name for name in names if is_share(name)]
    columns: list[object] = ["Split", "Decoding", *(el("span", METRIC_NAMES.get(name, name)) for name in names)]
    explain = "Reward is the product of the hard rules times the weighted mean of the soft ones, from 0 to 1."
    if any(name.startswith("pass@") for name in shares):
        explain += " pass@k is the chance that one of k samples is accepted."
    return join(
        el("h3", "Other metrics"),
        table(columns, rows, caption="Means, with the 95 % interval below each", class_="metrics"),
        note(explain),
    )


def _metric_cell(value: Interval | None, metric: str) -> Markup:
    if value is None:
        return el("td", "–", class_="num")
    return el("td", mean_text(value, metric), el("small", interval_text(value, metric)), class_="num")
