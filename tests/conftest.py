"""`--proof FILE` writes what was run, with which versions, how long it took and how it ended, to be committed."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

_VERSIONS = ("stepforge", "torch", "transformers", "trl", "peft", "tokenizers", "ministack", "botocore", "pydantic")

_REAL_CONNECT = socket.socket.connect
_REAL_LOOKUP = socket.getaddrinfo


def _elsewhere(host: object) -> bool:
    """Whether a host is not this machine. Names count as elsewhere, but for those that RFC 6761 keeps for loopback."""
    if host in (None, "", b""):
        return False
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return not (text == "localhost" or text.endswith(".localhost") or text == socket.gethostname())
    return not (address.is_loopback or address.is_unspecified)


@pytest.fixture(autouse=True)
def no_paid_calls(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """No test reaches beyond this machine, where calls are paid for, unless the fixture `paid_calls` opens the way."""
    if "paid_calls" in request.fixturenames:
        yield
        return

    def connect(self: socket.socket, address: object) -> object:
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and _elsewhere(address[0]):
            pytest.fail(f"a test reached for {address[0]}:{address[1]}: use a local server of stepforge.testing")
        return _REAL_CONNECT(self, address)  # type: ignore[arg-type]

    def lookup(host: object, *args: object, **kwargs: object) -> object:
        if _elsewhere(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests look up no names: {host!r}")
        return _REAL_LOOKUP(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield


@pytest.fixture
def paid_calls() -> None:
    """Ask for it, and the test may call what costs money. Nothing in `make test` does."""


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
