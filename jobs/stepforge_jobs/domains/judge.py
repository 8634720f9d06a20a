"""Verdicts for who may not import the domains: `python -m stepforge_jobs.domains.judge`, a JSON object a line.

The first line says who judges: `{"name": DOMAIN}`, or what `judging.WorkerJudge` begins with. Then each
`{"record", "completion"}` is answered with a verdict, or with `{"error", "message"}`.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TextIO

from stepforge.contracts.records import Record
from stepforge.errors import StepforgeError
from stepforge_jobs.domains import load_domain
from stepforge_jobs.domains.judging import HereJudge, Judge, WorkerJudge


def main(asked: TextIO, answers: TextIO) -> None:
    with ExitStack() as stack:
        judge: Judge | None = None
        for line in asked:
            given = json.loads(line)
            try:
                if judge is None:
                    own = given.get("domain") or given.get("verifier")
                    judge = stack.enter_context(WorkerJudge(given)) if own else HereJudge(load_domain(given["name"]))
                    answers.write("{}\n")
                else:
                    record = Record.model_validate(given["record"])
                    answers.write(judge.verdicts([(record, given["completion"])])[0].model_dump_json() + "\n")
            except (StepforgeError, ValueError) as error:
                answers.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
