"""Paid fine-tunes: one protocol, a file for each provider, and a ledger of what was spent.

Clients of providers are extras (`stepforge[openai]`, `[vertex]`, `[anthropic]`, `[prompts]`) and are loaded by the
provider that needs them. Prices are the catalogue's (`stepforge.economics`): an estimate takes one as an
argument.
"""

from __future__ import annotations

from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, State, Tuned
from stepforge.finetune.provider import Provider
from stepforge.finetune.spec import (
    PROVIDERS,
    DatasetFile,
    Grader,
    Hyperparameters,
    Method,
    ProviderName,
    Teacher,
    TokenRange,
    TuneSpec,
    launch_key,
)

__all__ = [
    "PROVIDERS",
    "Completion",
    "DatasetFile",
    "Estimate",
    "Grader",
    "Hyperparameters",
    "Job",
    "Message",
    "Method",
    "Prepared",
    "Provider",
    "ProviderName",
    "State",
    "Teacher",
    "TokenRange",
    "TuneSpec",
    "Tuned",
    "launch_key",
]
