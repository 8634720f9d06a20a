"""How training went: learning curves by stage, and the distance from where each stage began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import TRAINING
from stepforge.report import charts
from stepforge.report.charts import SMOOTH_FROM, Segment, smoothing
from stepforge.report.data import ReportData, StageView
from stepforge.report.html import Markup, el, join, table
from stepforge.report.scales import finite
from stepforge.report.verdict import other_weights
from stepforge.report.words import count, duration, listing, missing, note, number, section


@dataclass(frozen=True)
class CurveKind:
    """One chart: a metric of the stages for which it means the same thing."""

    name: str
    metric: Metric
    title: str
    unit: str
    explanation: str
    types: tuple[str, ...] = TRAINING
    bounds: tuple[float | None, float | None] = (None, None)
    rounding: float = 0.0
    """Values that never exceed this are rounding errors of zero: a chart of them would show nothing but noise."""


COLOURS = 6
"""Colour classes of the style sheet; more stages than this begin again."""
RL = ("srl", "rlvr")
CURVES = (
    CurveKind(
        "reward",
        Metric.REWARD,
        "Reward",
        "mean reward",
        "Mean over all rollouts of a step. In SRL it is the similarity to the expert's step (−1 where the format "
        "fails), in RLVR the verifier's word on the whole answer.",
        types=RL,
        bounds=(0.0, None),
    ),
    CurveKind(
        "zero-spread",
        Metric.ZERO_SPREAD,
        "Groups without spread",
        "share of groups",
        "Groups whose rollouts all have one reward teach nothing. Near 1, a stage has no signal.",
        types=RL,
        bounds=(0.0, 1.0),
    ),
    CurveKind(
        "loss-sft",
        Metric.LOSS,
        "Loss of supervised stages",
        "nats a token",
        "Cross-entropy on the expert's tokens.",
        types=("sft",),
        bounds=(0.0, None),
    ),
    CurveKind(
        "loss-rl",
        Metric.LOSS,
        "Loss of policy-gradient stages",
        "loss",
        "With GRPO and PPO near 0 by construction: advantages add up to 0. A drift or a spike matters, not the level.",
        types=RL,
        bounds=(0.0, None),
        rounding=1e-5,
    ),
    CurveKind(
        "format-failures",
        Metric.FORMAT_FAILURES,
        "Format failures",
        "share of rollouts",
        "Rollouts that could not be read, or did not end.",
        types=RL,
        bounds=(0.0, None),
    ),
    CurveKind(
        "entropy",
        Metric.ENTROPY,
        "Entropy",
        "nats a token",
        "Of the policy's own tokens. Near 0 it no longer explores.",
        types=RL,
        bounds=(0.0, None),
    ),
)
KL = CurveKind(
    "kl", Metric.KL, "KL to the stage's initial policy", "nats a token", "Measured at checkpoints.", bounds=(0.0, None)
)


def training(data: ReportData) -> Markup:
    title = "Learning curves"
    if not data.stages:
        return section("training", title, missing("No training stage is done, so there is no curve yet."))
    drawn = [chart for kind in CURVES if (chart := _chart(kind, data)) is not None]
    absent = [kind for kind in CURVES if not any(_points(kind, stage) for stage in data.stages)]
    parts: list[object] = [el("div", drawn, class_="charts"), note(_smoothing_words(data))]
    if absent:
        names = listing([kind.title.lower() for kind in absent])
        parts.append(missing(f"No stage of this run reports {names}, so there is no chart of it."))
    unfinished = [job.stage for job in data.jobs if job.type in KL.types and job.status != "Completed"]
    if unfinished:
        parts.append(missing(f"Not done, and so without a curve: {listing(unfinished)}."))
    return section("training", title, parts, _summary(data))


def _smoothing_words(data: ReportData) -> str:
    text = (
        "Stages stand in the order in which they ran, each with its own axis of optimiser steps over one shared scale."
    )
    windows = {smoothing(len(curve)) for stage in data.stages for curve in stage.curves.values()} - {1}
    if windows:
        text += (
            f" Where a stage has {SMOOTH_FROM} points or more, the thin line is every step and the bold one the mean "
            f"of the {min(windows)}{f' to {max(windows)}' if len(windows) > 1 else ''} around it."
        )
    return text


def _points(kind: CurveKind, stage: StageView) -> list[tuple[float, float]]:
    return finite(stage.curves.get(kind.metric, ())) if stage.report.type in kind.types else []


def _chart(kind: CurveKind, data: ReportData) -> Markup | None:
    """None where no stage has a point."""
    segments = [
        Segment(stage.stage, index % COLOURS, stage.report.steps, stage.curves.get(kind.metric, ()))
        for index, stage in enumerate(data.stages)
        if _points(kind, stage)
    ]
    if not segments:
        return None
    largest = max(abs(value) for segment in segments for _, value in finite(segment.points))
    if largest <= kind.rounding:
        words = (
            f"{kind.explanation} Here it is 0 but for rounding (at most {number(largest)}): every update is made on "
            "the weights that sampled, so the gradient carries what there is to learn and the value nothing."
        )
        return el("figure", el("figcaption", el("strong", kind.title), " ", el("span", words)))
    description = "; ".join(_segment_words(segment) for segment in segments)
    svg = charts.curves(
        segments,
        name=f"curve-{kind.name}",
        title=kind.title,
        description=f"{kind.unit} by optimiser step. {description}.",
        unit=kind.unit,
        bounds=kind.bounds,
    )
    notes: list[str] = [kind.explanation]
    lost = sum(len(segment.points) - len(finite(segment.points)) for segment in segments)
    if lost:
        values = "1 value is" if lost == 1 else f"{lost} values are"
        notes.append(f"{values} not finite and left out: training was unstable there.")
    return el("figure", el("figcaption", el("strong", kind.title), " ", el("span", " ".join(notes))), svg)


def _segment_words(segment: Segment) -> str:
    points = finite(segment.points)
    return f"{segment.label}: from {number(points[0][1])} to {number(points[-1][1])} in {segment.steps} steps"


def kl(data: ReportData) -> Markup:
    title = "Distance from the starting policy"
    chart = _chart(KL, data)
    if chart is None:
        words = (
            "No stage of this run reports KL." if data.stages else "No training stage is done, so there is no KL yet."
        )
        return section("kl", title, missing(f"{words} How far the model moved from where it began is not known."))
    rows: list[list[object]] = []
    for stage in data.stages:
        points = _points(KL, stage)
        if not points:
            rows.append([stage.stage, el("td", "not reported", colspan=3, class_="missing")])
            continue
        highest = max(value for _, value in points)
        settings: dict[str, Any] = next((job.settings for job in data.jobs if job.stage == stage.stage), {})
        cells: list[Markup] = [el("td", number(value), class_="num") for value in (points[-1][1], highest)]
        rows.append([stage.stage, *cells, el("td", _penalty(settings), class_="num")])
    columns: list[object] = ["Stage", "Last", "Highest", "KL penalty (beta)"]
    reported = [stage for stage in data.stages if _points(KL, stage)]
    measured = {str(stage.report.choices.get("kl_metric", "")) for stage in reported} - {""}
    how = f"How it is measured: {'; '.join(sorted(measured))}." if measured else None
    return section(
        "kl",
        title,
        el(
            "div",
            chart,
            el("div", table(columns, rows, caption="KL, nats a token"), note(how) if how else None),
            class_="charts",
        ),
        [missing(sentence) for sentence in other_weights(data)],
        note(
            "Small is close to where the stage started. A stage that starts from random weights has no such distance."
        ),
    )


def _penalty(settings: dict[str, Any]) -> str:
    """A weight that stands, or the cap below which a moving one holds the KL."""
    beta, held = settings.get("beta"), settings.get("kl")
    words = [number(beta)] if beta else []
    words += [f"held below {number(held['cap'])}"] if held else []
    return ", ".join(words) or "none"


def _count_cell(value: int) -> Markup:
    return el("td", count(value), class_="num")


def _summary(data: ReportData) -> Markup:
    columns: list[object] = ["Stage", "Type", "Steps", "Tokens learnt from", "Time", "Parameters", "Last values"]
    rows: list[list[object]] = []
    for stage in data.stages:
        report = stage.report
        wanted = (Metric.REWARD, Metric.LOSS, Metric.ENTROPY)
        last = ", ".join(f"{name} {number(report.metrics[name])}" for name in wanted if name in report.metrics)
        rows.append(
            [
                stage.stage,
                report.type.upper(),
                _count_cell(report.steps),
                _count_cell(report.tokens),
                el("td", duration(report.seconds), class_="num"),
                _count_cell(report.parameters),
                el("td", last or "–", class_="wide"),
            ]
        )
    return join(table(columns, rows, caption="What each stage did"))
