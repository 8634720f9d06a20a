"""Structured logs: JSON lines with trace, request and session, redacted before any sink. docs/logs.md tells how.

Libraries log with `logging.getLogger(__name__)` and events with keys; a program calls `configure` once. Importing this
configures nothing. Prometheus and CloudWatch's metric format are in `stepforge.logs.metrics`.
"""

from __future__ import annotations

from stepforge.logs._context import context, current, environment, in_context, trace_header, trace_of
from stepforge.logs._levels import set_level
from stepforge.logs._lines import JsonLines, readable
from stepforge.logs._names import names_a_secret
from stepforge.logs._redact import keys_in, plain, redact, secrets_in
from stepforge.logs._rules import is_card
from stepforge.logs._setup import Logs, configure, flush
from stepforge.logs._sinks import Sink

__all__ = [
    "JsonLines",
    "Logs",
    "Sink",
    "configure",
    "context",
    "current",
    "environment",
    "flush",
    "in_context",
    "is_card",
    "keys_in",
    "names_a_secret",
    "plain",
    "readable",
    "redact",
    "secrets_in",
    "set_level",
    "trace_header",
    "trace_of",
]
