"""The page: sections in the order in which someone decides. Pure; the same data give the same bytes."""

from __future__ import annotations

from pathlib import Path

from stepforge.report.data import ReportData
from stepforge.report.html import Markup, el, join, raw
from stepforge.report.sections_cost import cost
from stepforge.report.sections_lineage import choices, data_and_gate, lineage, reproduce
from stepforge.report.sections_outputs import examples, rules
from stepforge.report.sections_scores import scores, verdict_box
from stepforge.report.sections_time import times
from stepforge.report.sections_training import kl, training
from stepforge.report.words import duration, moment

STYLE = Path(__file__).with_name("style.css")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
)
"""Nothing is fetched and nothing runs, whatever a model wrote; frames made with srcdoc inherit it."""

CONTENTS = (
    ("scores", "Scores"),
    ("training", "Curves"),
    ("kl", "KL"),
    ("time", "Time"),
    ("rules", "Rules"),
    ("examples", "Outputs"),
    ("data", "Data"),
    ("cost", "Cost"),
    ("lineage", "Lineage"),
    ("choices", "Choices"),
    ("reproduce", "Again"),
)


def render(data: ReportData) -> str:
    """One HTML document that needs nothing else: no script, no request."""
    title = f"{data.domain}: {data.run}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("style", raw(STYLE.read_text(encoding="utf-8"))),
    )
    body = el(
        "body",
        el("a", "To the verdict", href="#verdict", class_="skip"),
        _header(data),
        el(
            "main",
            verdict_box(data),
            scores(data),
            training(data),
            kl(data),
            times(data),
            rules(data),
            examples(data),
            data_and_gate(data),
            cost(data),
            lineage(data),
            choices(data),
            reproduce(data),
        ),
        el("footer", f"stepforge {data.version} · pipeline ", el("code", data.pipeline_sha256)),
    )
    return join(raw("<!doctype html>\n"), el("html", head, body, lang="en")) + "\n"


def _header(data: ReportData) -> Markup:
    took = f", {duration((data.stopped - data.started).total_seconds())}" if data.stopped else ", not ended"
    tone = {"SUCCEEDED": "good", "RUNNING": "neutral"}.get(data.status, "bad")
    contents = [el("li", el("a", text, href=f"#{name}")) for name, text in CONTENTS]
    return el(
        "header",
        el("p", "Training report", class_="eyebrow"),
        el("h1", data.domain),
        el(
            "p",
            el("span", data.status.capitalize().replace("_", " "), class_=f"badge {tone}"),
            el("code", data.run),
            el("span", "started ", moment(data.started), took),
            el("span", "environment ", el("strong", data.environment)),
            class_="meta",
        ),
        el("nav", el("ul", contents), aria_label="Contents"),
        class_="page",
    )
