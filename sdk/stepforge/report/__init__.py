"""A run's report: one HTML file with which a model's owner decides.

`collect` reads a run, `render` draws what was read and is pure, `write_report` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stepforge.report.data import ReportData
from stepforge.report.page import render

if TYPE_CHECKING:
    from stepforge.contracts.reports import EvaluationReport
    from stepforge.pipelines import Run

__all__ = ["ReportData", "collect", "render", "write_report"]


def collect(run: Run, *, prices: Mapping[str, float] | None = None, base: EvaluationReport | None = None) -> ReportData:
    """Read what a report shows: see `stepforge.report.reading.read_run`."""
    from stepforge.report.reading import read_run

    return read_run(run, prices=prices, base=base)


def write_report(
    run: Run, path: Path, *, prices: Mapping[str, float] | None = None, base: EvaluationReport | None = None
) -> Path:
    """Write the report of a run to `path`, by rename, and return it.

    `prices` maps an instance type to US dollars an hour: one that is not there is called unknown, never free. `base`
    is an evaluation of the model that training started from, shown beside the run's own.
    Raises IntegrityError where an artifact was altered, InvalidInput where one is malformed.
    """
    text = render(collect(run, prices=prices, base=base))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path
