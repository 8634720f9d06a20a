"""The parts of the page that decide: the verdict, and the held-out scores as numbers and as intervals."""

from __future__ import annotations

import re

from stepforge.contracts.records import TEST_SPLITS
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
    section,
)

MARKS = {"good": "✓", "caution": "!", "bad": "✕", "neutral": "•"}
DIFFERENCE_MARKS = {"higher": "▲ higher", "lower": "▼ lower", "no difference supported": "≈ no difference supported"}
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
                el("p", f"accepted, {'greedy' if greedy else 'sampled'}; 95 %: {interval_text(first)}", class_="tile-note"),
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
    """What to type. Nothing where there is no version to decide about."""
    found = re.fullmatch(r"arn:[^:]*:sagemaker:[^:]*:[^:]*:model-package/(?:stepforge-)?(.+)/(\d+)", data.package_arn)
    if found is None:
        return missing("No version of this run is in the registry, so there is nothing to approve or reject yet.")
    reference, flag = f"{found[1]}/{found[2]}", "" if data.environment == "local" else f" --env {data.environment}"
    return el(
        "div",
        el("p", "Version ", el("strong", reference), " in the registry. To decide:"),
        el(
            "pre",
            el("code", f"stepforge registry approve {reference} --comment 'why'{flag}\n"),
            el("code", f"stepforge registry reject  {reference} --comment 'why'{flag}"),
            class_="command",
        ),
        class_="decision",
    )


# ── Held-out scores ──────────────────────────────────────────────────────────────────────────────


def scores(data: ReportData) -> Markup:
    if data.evaluation is None:
        return section("scores", "Held-out scores", missing("The evaluation is not done, so there is no score yet."))
    if not cells(data.evaluation):
        body: list[object] = [missing("The evaluation holds no score of accepted completions on a test split.")]
    else:
        body = [_main_table(data, data.evaluation), _how_to_read(data)]
    return section("scores", "Held-out scores", body, _all_metrics(data.evaluation))


def _main_table(data: ReportData, evaluation: EvaluationReport) -> Markup:
    columns: list[object] = ["Split", "Decoding", "Accepted", "95 % interval", charts.unit_axis(), "Records"]
    for reference in data.references:
        columns += [reference.role.capitalize(), "Difference"]
    rows: list[list[object]] = []
    for index, (split, decoding, ours) in enumerate(cells(evaluation)):
        plotted: list[tuple[str, Interval]] = [("challenger", ours)]
        others: list[object] = []
        for reference in data.references:
            theirs = score(reference.evaluation, split, decoding)
            if theirs is None:
                others += [el("td", "not scored"), el("td", "–")]
                continue
            plotted.append((reference.role, theirs))
            word = difference(ours, theirs)
            others.append(el("td", percent(theirs.mean), el("small", interval_text(theirs)), class_="num"))
            others.append(el("td", DIFFERENCE_MARKS[word], class_=f"difference {word.split()[0]}"))
        title = f"{SPLIT_NAMES[split]}, {decoding}"
        plot = charts.intervals(plotted, name=f"interval-{index}", title=title)
        rows.append(
            [
                join(SPLIT_NAMES[split], el("small", el("code", split))),
                decoding,
                el("td", el("strong", percent(ours.mean)), class_="num"),
                el("td", interval_text(ours), class_="num"),
                el("td", plot, class_="plot-cell"),
                el("td", count(ours.count), class_="num"),
                *others,
            ]
        )
    return table(columns, rows, caption="Share of completions that pass every hard rule", class_="scores")


def _how_to_read(data: ReportData) -> Markup:
    key = [el("span", el("i", class_="key ours"), "this model")]
    key += [el("span", el("i", class_="key theirs"), reference.role) for reference in data.references]
    seeds = (
        "Intervals are 95 % bootstrap intervals over held-out records of one training run: they cover the choice of "
        "records, not of the seed. Two scores are called different where their intervals do not touch."
    )
    parts: list[object] = [el("p", key, class_="legend"), note(seeds)]
    roles = {reference.role for reference in data.references}
    if "champion" not in roles:
        parts.append(missing("No champion's scores are shown: none is registered in this group, or none could be read."))
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
        for decoding in DECODINGS:
            found = [score(evaluation, split, decoding, name) for name in names]
            if any(found):
                shown = [_metric_cell(value, name) for value, name in zip(found, names, strict=True)]
                rows.append([join(SPLIT_NAMES[split], el("small", el("code", split))), decoding, *shown])
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
