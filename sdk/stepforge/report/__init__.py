"""A run's report: one HTML file with which a model's owner decides.

`collect` reads a run, `render` draws what was read and is pure, `write_report` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stepforge.errors import InvalidInput
from stepforge.report.data import ReportData
from stepforge.report.page import render

if TYPE_CHECKING:
    from stepforge.contracts.reports import EvaluationReport
    from stepforge.pipelines import Run

__all__ = ["ReportData", "check_target", "collect", "render", "write_report"]


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
    Raises IntegrityError where an artifact was altered, InvalidInput where one is malformed or `path` cannot be a file.
    """
    check_target(path)
    text = render(collect(run, prices=prices, base=base))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_target(path: Path) -> None:
    """Raises InvalidInput where a report cannot be written to `path`: no folder is made, so that none is mistyped."""
    if path.is_dir():
        raise InvalidInput(f"{str(path)!r} is a folder: name a file in it, such as {str(path / 'run.html')!r}")
    if not path.parent.is_dir():
        raise InvalidInput(f"the folder {str(path.parent)!r} of {path.name!r} does not exist: make it first")
