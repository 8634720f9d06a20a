"""`--proof FILE` writes what was run, with which versions, how long it took and how it ended, to be committed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

_VERSIONS = ("stepforge", "torch", "transformers", "trl", "peft", "tokenizers", "ministack", "botocore", "pydantic")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proof", type=Path, help="Write one line a test, its seconds and its end to this file.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    target: Path | None = config.getoption("--proof")
    if target is None:
        return
    seconds: dict[str, float] = {}
    ended: dict[str, str] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            ended[report.nodeid] = outcome
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
    words = [str(word) for word in config.invocation_params.args if not str(word).startswith("--proof")]
    lines = [
        f"pytest {' '.join(word for word in words if word != str(target))}",
        f"python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        ", ".join(f"{name} {_version(name)}" for name in _VERSIONS),
        *(f"{outcome:<7} {seconds.get(test, 0.0):7.1f} s  {test}" for test, outcome in ended.items()),
        f"{len(ended)} tests, {sum(seconds.values()):.0f} s, "
        f"{sum(outcome == 'passed' for outcome in ended.values())} passed",
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")


def _version(name: str) -> str:
    if name == "stepforge":
        import stepforge

        return stepforge.__version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
