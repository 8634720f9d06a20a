"""Where a stage's time went: the phases of its steps, and how near its gradient came to what the device allows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from stepforge.contracts.metrics import PHASES, Metric
from stepforge.report.data import ReportData, StageView
from stepforge.report.html import Markup, el, table
from stepforge.report.scales import finite
from stepforge.report.words import duration, missing, note, number, percent, section

TITLE = "Where the time goes"
WORDS = (
    "Sums over all steps of the processes that kept them. Reference is the log-probabilities of the initial and of the "
    "sampling policy, and what holds a KL; the rest is evaluations at checkpoints, checkpoints and the loop. The share "
    "of the bound is the time that the operations of the forward and backward passes would take at the speed of the "
    "device's own matrix product, over the time that they took (median over steps). Tokens saved is the rollouts' "
    "tokens, each with its prompt, over those that the network read: what rollouts share is computed once."
)

RENEWAL = "Renewal is handing the weights to vLLM, with its start and with the memory that it takes and gives back."


def times(data: ReportData) -> Markup:
    """A table of all stages that measured it."""
    timed = [stage for stage in data.stages if any(phase in stage.curves for phase in PHASES)]
    if not timed:
        words = "No stage of this run reports the phases of its steps." if data.stages else "No stage is done."
        return section("time", TITLE, missing(words))
    renewed = any(Metric.RENEWAL_SECONDS in stage.curves for stage in timed)
    phases = [phase for phase in PHASES if phase != Metric.RENEWAL_SECONDS or renewed]
    names = [phase.removesuffix("_seconds").capitalize() for phase in phases]
    columns: list[object] = ["Stage", *names, "Rest", "Share of the bound", "Tokens saved"]
    rows = [_row(stage, phases) for stage in timed]
    notes = [note(WORDS)] + [note(RENEWAL)] * renewed
    return section("time", TITLE, table(columns, rows, caption=TITLE), *notes)


def _row(stage: StageView, phases: Sequence[Metric]) -> list[object]:
    whole = _sum(stage, Metric.SECONDS)
    spent = {phase: _sum(stage, phase) for phase in phases}
    rest = max(0.0, whole - sum(spent.values()))
    cells: list[object] = [stage.stage]
    cells += [_cell(_part(seconds, whole)) for seconds in (*spent.values(), rest)]
    share, ratio = (_median(stage, metric) for metric in (Metric.FLOP_SHARE, Metric.TOKEN_RATIO))
    cells += [_cell("–" if share is None else percent(share)), _cell("–" if ratio is None else f"{number(ratio)} ×")]
    return cells


def _part(seconds: float, whole: float) -> str:
    if not seconds:
        return "–"
    return f"{duration(seconds)}, {percent(seconds / whole)}" if whole else duration(seconds)


def _cell(text: str) -> Markup:
    return el("td", text, class_="num")


def _values(stage: StageView, metric: Metric) -> list[float]:
    return [value for _, value in finite(stage.curves.get(metric, ()))]


def _sum(stage: StageView, metric: Metric) -> float:
    return sum(_values(stage, metric))


def _median(stage: StageView, metric: Metric) -> float | None:
    values = _values(stage, metric)
    return median(values) if values else None
