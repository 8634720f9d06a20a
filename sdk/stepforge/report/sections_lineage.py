"""Where the model comes from and how to make it again: data, gate, lineage, settings, choices, command."""

from __future__ import annotations

import json
from typing import Any

from stepforge.contracts.records import SPLITS
from stepforge.contracts.work import TRAINING
from stepforge.report.data import JobView, ReportData
from stepforge.report.html import Markup, el, join, table
from stepforge.report.verdict import SPLIT_NAMES, lineage_checks
from stepforge.report.words import count, listing, missing, note, plural, section, short

MOST_FINDINGS = 10


def data_and_gate(data: ReportData) -> Markup:
    return section("data", "Data and gate", _dataset(data), _gate(data))


def _dataset(data: ReportData) -> Markup:
    if data.dataset is None:
        return missing("The dataset is not made yet.")
    found = data.dataset
    if not found.counts:
        return missing("The manifest of the dataset does not say how many records each split has.")
    splits = [split for split in SPLITS if found.counts.get(split)]
    items = [
        el("div", el("dt", SPLIT_NAMES[split], el("small", el("code", split))), el("dd", count(found.counts[split])))
        for split in splits
    ]
    verifier = join(" Judged by ", el("code", found.verifier), ".") if found.verifier else None
    total = sum(found.counts.values())
    return join(
        el("p", f"{plural(total, 'record')} in {plural(len(splits), 'split')}.", verifier),
        el("dl", items, class_="counts"),
    )


def _gate(data: ReportData) -> Markup:
    gate = data.gate
    if gate is None:
        return missing("The gate has not given its word yet.")
    word = el("span", "Passed" if gate.passed else "Refused", class_=f"badge {'good' if gate.passed else 'bad'}")
    looked = ", ".join(f"{name} {count(number)}" for name, number in gate.checked.items())
    head = el("p", word, f" Records looked at, by check: {looked}." if looked else " It names no check.")
    head = join(head, *(el("p", "Warning, record ", el("code", w.record), f": {w.message}") for w in gate.warnings))
    if not gate.findings:
        return head
    rows: list[list[object]] = [
        [el("code", f.record), f.check, el("code", f.rule), f.message] for f in gate.findings[:MOST_FINDINGS]
    ]
    shown = min(MOST_FINDINGS, len(gate.findings))
    caption = f"Findings: {shown} of {max(gate.total_findings, len(gate.findings)):,}"
    return join(head, table(["Record", "Check", "Rule", "What is wrong"], rows, caption=caption))


# ── Lineage ──────────────────────────────────────────────────────────────────────────────────────


def lineage(data: ReportData) -> Markup:
    title = "Lineage"
    if not data.jobs:
        return section("lineage", title, missing("No job has been planned yet."))
    steps = [_step(job.stage, job.status, short(job.artifact.sha256) if job.artifact else None) for job in data.jobs]
    steps += [_step(stage, "later", None) for stage in data.later]
    if data.package_arn:
        steps.append(_step("registry", "registered", el("code", data.package_arn.rpartition("model-package/")[2])))
    checks = [
        el(
            "li",
            el("span", "✓" if check.holds else "✕", class_="good" if check.holds else "bad", aria_hidden="true"),
            " ",
            _check(check),
        )
        for check in lineage_checks(data)
    ]
    return section(
        "lineage",
        title,
        el("ol", steps, class_="flow"),
        el("ul", checks, class_="checks") if checks else missing("Too little is done to check any link."),
        [_job(job) for job in data.jobs],
    )


def _check(check: Any) -> str:
    text: str = check.text
    return text[0].upper() + text[1:] if check.holds else f"It does not hold that {text}"


def _step(name: str, status: str, digest: Markup | None) -> Markup:
    done = status in ("Completed", "registered")
    return el(
        "li",
        el("strong", name),
        digest or el("span", status.lower()),
        class_="done" if done else "failed" if status in ("Failed", "Stopped") else "open",
    )


def _job(job: JobView) -> Markup:
    pairs: list[tuple[str, object]] = [("Job", el("code", job.name))]
    pairs += [("ARN", el("code", attempt.arn)) for attempt in job.attempts if attempt.name == job.name and attempt.arn]
    if job.artifact is not None:
        pairs += [("Artifact", el("code", job.artifact.sha256)), ("Lies at", el("code", job.artifact.uri))]
    pairs += [("Spec", el("code", job.spec_sha256)), ("Code", el("code", job.code_sha256))]
    others = [attempt for attempt in job.attempts if attempt.name != job.name]
    pairs += [(f"Also {attempt.status}", join(el("code", attempt.name), " ", attempt.failure)) for attempt in others]
    return el(
        "div",
        el("h3", job.stage, el("small", f"{job.type}, {job.status}")),
        el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in pairs]),
        class_="job",
    )


# ── Settings and choices ─────────────────────────────────────────────────────────────────────────


def choices(data: ReportData) -> Markup:
    return section("choices", "Settings and choices", _choices(data), _settings(data), _versions(data))


def _choices(data: ReportData) -> Markup:
    """What is the same in all stages stands once."""
    if not any(stage.report.choices for stage in data.stages):
        return missing("No stage has recorded a choice where the paper is silent.")
    keys = list(dict.fromkeys(key for stage in data.stages for key in stage.report.choices))
    rows: list[list[object]] = []
    for key in keys:
        values: dict[str, list[str]] = {}
        for stage in data.stages:
            if key in stage.report.choices:
                values.setdefault(_value(stage.report.choices[key]), []).append(stage.stage)
        for value, names in values.items():
            everywhere = len(names) == len(data.stages) and len(names) > 1
            rows.append([key.replace("_", " "), value, "all stages" if everywhere else listing(names)])
    return join(
        note("SRL follows arXiv 2510.25992. Where the paper is silent, the choice is ours, and stands here."),
        table(["What is left open", "How it was decided", "In"], rows, caption="Choices", class_="prose"),
    )


def _settings(data: ReportData) -> Markup | None:
    """Training stages have most settings in common: a column each. The other jobs have few, and none in common."""
    jobs = [job for job in data.jobs if job.settings]
    stages = [job for job in jobs if job.type in TRAINING]
    parts: list[object] = []
    if stages:
        keys = list(dict.fromkeys(key for job in stages for key in _settings_of(job)))
        rows: list[list[object]] = [
            [key.replace("_", " "), *(el("td", _value(s[key]) if key in s else "–") for s in map(_settings_of, stages))]
            for key in keys
        ]
        caption = "Settings of the training stages"
        parts.append(table(["Setting", *(job.stage for job in stages)], rows, caption=caption, class_="settings"))
    for job in jobs:
        if job not in stages:
            listed = ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in _settings_of(job).items())
            parts.append(el("p", el("strong", f"Settings of {job.stage}: "), listed, "."))
    return join(parts)


def _settings_of(job: JobView) -> dict[str, Any]:
    return {key: value for key, value in job.settings.items() if key not in ("type", "name")}


def _versions(data: ReportData) -> Markup | None:
    found: dict[str, set[str]] = {}
    for stage in data.stages:
        for name, value in stage.report.versions.items():
            found.setdefault(name, set()).add(value)
    if not found:
        return missing("No stage has recorded versions.") if data.stages else None
    listed = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in sorted(found.items()))
    return el("p", el("strong", "Versions that trained it: "), listed, ".")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


# ── Again ────────────────────────────────────────────────────────────────────────────────────────


def reproduce(data: ReportData) -> Markup:
    parts: list[object] = []
    if data.recipe is not None:
        parts += [
            el("p", "Save this as ", el("code", "recipe.toml"), ":"),
            el("pre", el("code", data.recipe), class_="command"),
        ]
    parts.append(el("pre", el("code", data.command), class_="command"))
    if "records.jsonl" in data.command or "./model" in data.command:
        parts.append(
            note(
                "Put your own files in place of records.jsonl and ./model; their digests say whether they are the same."
            )
        )
    rows = [
        ("Pipeline", el("code", data.pipeline_sha256)),
        ("Image", el("code", data.image)),
        ("Run", el("code", data.run)),
        ("Environment", el("code", data.environment)),
        ("Report written by", f"stepforge {data.version}"),
    ]
    parts += [
        note(
            "With the same code and image the command finds this pipeline by its digest and adopts the jobs that are "
            "done; with other code, the jobs that depend on what changed run again."
        ),
        el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in rows], class_="facts"),
    ]
    return section("reproduce", "How to make it again", parts)
