"""Verdicts on this machine: the rules of a domain, or a user's own verifier, in a process that has them.

The SDK imports no domain, and a user's code may hang, print or end its process: it runs as it does in a job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.user_records import plugin_version
from stepforge.errors import InvalidInput
from stepforge.installation.user_code import plugin_for


class Judge:
    """`judge(record, completion)` gives a verdict. `verifier` is a user's `package.module:function`.

    >>> from stepforge.contracts.records import Provenance
    >>> record = Record(id="r", domain="records", source="user", split="rl", group="g", prompt="2 + 2 =", answer="4",
    ...                 verifier="records@1", provenance=Provenance(generator="user@1"))
    >>> with Judge("records") as judge:
    ...     judge(record, "4").accepted, judge(record, "5").accepted
    (True, False)
    """

    def __init__(self, domain: str, verifier: str | None = None) -> None:
        """Raises InvalidInput where the domain or the verifier is not found, or stepforge_jobs is not installed."""
        self._domain, self._verifier = domain, verifier
        self._temporary = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Judge:
        staged = plugin_for(self._domain, self._verifier, into=Path(self._temporary.name) / "plugin")
        begin: dict[str, Any] = {"name": self._domain}
        if staged is not None:
            plugin = staged.plugin
            about = {"folder": str(staged.folder), "domain": plugin.domain, "verifier": plugin.verifier}
            begin |= {**about, "version": plugin_version("0" * 64)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stepforge_jobs.domains.judge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # What is importable here is importable there, wherever it was put on the path.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            self._ask(begin)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._temporary.cleanup()

    def __call__(self, record: Record, completion: str) -> Verdict:
        given = {"record": record.model_dump(mode="json"), "completion": completion}
        return Verdict.model_validate(self._ask(given))

    def _ask(self, given: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(given) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise InvalidInput(
                "the judge of answers ended: is stepforge_jobs installed here? `python -m stepforge_jobs.domains.judge`"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InvalidInput(f"{self._verifier or self._domain!r} cannot judge: {answer['message']}")
        return answer
