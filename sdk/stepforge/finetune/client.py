"""What people do about paid tunes in an environment: start the machine, agree or refuse, stop, look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from stepforge.connection import Connection
from stepforge.contracts.decisions import Question
from stepforge.contracts.names import Machine, spend_table
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.grounds import Grounds
from stepforge.errors import InvalidInput, OverBudget
from stepforge.finetune.datasets import Item
from stepforge.finetune.entries import Entry, Stage
from stepforge.finetune.evaluation import Verify
from stepforge.finetune.flow import evaluate, register, release, retrieve
from stepforge.finetune.graders import is_own
from stepforge.finetune.holding import shipped
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.ledger_dynamodb import TableLedger, Waiting
from stepforge.finetune.pairs import heldout, trained
from stepforge.finetune.personal import asked_sent
from stepforge.finetune.plan import Plan
from stepforge.finetune.provider import ChecksServing, Deployed
from stepforge.finetune.request import Flow, Output, Request, Start, Tools, submit
from stepforge.finetune.settings import NO_SECRET
from stepforge.finetune.spec import launch_key
from stepforge.machines import executions
from stepforge.machines.executions import Execution

MACHINE: Machine = "finetune"


@dataclass(frozen=True)
class Tunes:
    """Paid tunes of one environment."""

    connection: Connection

    @property
    def ledger(self) -> TableLedger:
        return TableLedger(self.connection.client("dynamodb"), spend_table(self.connection.name))

    def start(
        self,
        plan: Plan,
        records: Sequence[Item],
        folder: Path,
        *,
        domain: str,
        catalogue: Catalogue,
        today: date,
        question: Question | None = None,
        arm: str | None = None,
        grounds: Grounds | None = None,
    ) -> tuple[Execution, tuple[str, ...]]:
        """Upload data and request, and start the machine, or adopt what runs or is done; and warnings about the price.

        Records of test splits stay out of the data: by them the tuned model is judged.
        With a question the verdict has to launch `arm`, here and in the machine, which is given the same `grounds`;
        None: what `catalogue` says, and no experience or criteria.
        Raises InvalidInput, UnknownName, UnknownPrice, ModelGone, DoesNotPay before anything is uploaded.
        """
        if plan.lacks_secret():
            raise InvalidInput(NO_SECRET)
        if plan.verifier is not None and is_own(plan.verifier):
            raise InvalidInput(
                f"the machine judges by verifiers that ship, not by {plan.verifier!r}: use `stepforge finetune "
                "launch`, `watch`, and `register --verifier`, which judge on this machine"
            )
        if plan.teacher is not None:
            _hold_teacher(f"{plan.provider.type}/{plan.base_model}", plan.teacher.model)
        request, rows, warnings = self._request(
            plan,
            records,
            folder,
            domain=domain,
            catalogue=catalogue,
            today=today,
            question=question,
            arm=arm,
            grounds=grounds,
        )
        start = submit(self._tools(), request, folder, rows)
        found = executions.start_or_adopt(
            self._states, self._machine, MACHINE, start.request_sha256, start.model_dump(mode="json")
        )
        return found, warnings

    def register(
        self,
        plan: Plan,
        records: Sequence[Item],
        folder: Path,
        *,
        key: str,
        ledger: Ledger,
        verify: Verify,
        domain: str,
        catalogue: Catalogue,
    ) -> Output:
        """Evaluate and register what was launched from this machine, as the state machine would.

        `ledger` is the one that it was launched with, `verify` judges answers. Keys are found as a person's are. The
        same plan and data give the same package, whoever registers it. Raises InvalidInput where plan and data are not
        those of the launch, or it has not succeeded.
        """
        entry = ledger.entry(key)
        # The day of the launch: on a later one the catalogue may know that the base model has gone.
        day = entry.reserved_at.date()
        request, rows, _ = self._request(plan, records, folder, domain=domain, catalogue=catalogue, today=day)
        tools = replace(self._tools(), ledger=ledger, secrets=None)
        provider = tools.provider(request)
        if (found := launch_key(request.spec, provider.target)) != key:
            raise InvalidInput(
                f"this plan and data are launch {found}, not {key}: give those that it was launched with"
            )
        if entry.stage != Stage.SUCCEEDED:
            raise InvalidInput(
                f"launch {key} is {entry.stage.value!r}, and only what succeeded is registered: `stepforge finetune "
                "watch` follows it to its end"
            )
        releases = isinstance(provider, Deployed)
        if isinstance(provider, ChecksServing):
            provider.check_serving(request.spec)
        flow = Flow(
            start=submit(tools, request, folder, rows),
            key=key,
            stage=entry.stage,
            estimate_usd=str(entry.estimate_usd),
            wait_seconds=0,
            releases=releases,
        )
        try:
            flow = retrieve(tools, flow)
            while flow.evaluation is None:
                flow = evaluate(tools, flow, verify, seconds=float("inf"))
        finally:
            if releases:
                flow = release(tools, flow)
        return register(tools, flow)

    def _request(
        self,
        plan: Plan,
        records: Sequence[Item],
        folder: Path,
        *,
        domain: str,
        catalogue: Catalogue,
        today: date,
        question: Question | None = None,
        arm: str | None = None,
        grounds: Grounds | None = None,
    ) -> tuple[Request, bytes, tuple[str, ...]]:
        """The request, its held-out records, and warnings about the price. Writes the data below `folder`.

        Personal data are refused or replaced in both, as the plan says.
        """
        if plan.environment != self.connection.name:
            raise InvalidInput(
                f"the plan is for environment {plan.environment!r}, but this is {self.connection.name!r}: make them one"
            )
        judged_by = asked_sent(heldout(records), plan.personal)
        if not judged_by:
            raise InvalidInput('no record is held out: mark some with "split": "test_new", by which it will be judged')
        if (question is None) != (arm is None):
            raise InvalidInput("--question and --arm belong together: the verdict has to choose that arm")
        if question is not None:
            grounds = grounds or Grounds.of(question, catalogue=catalogue)
            grounds.choose(question, arm)
        # As the provider sees it: the request lies in the environment's bucket, and is asked and judged by.
        plan = plan.model_copy(update={"system": plan.system_sent})
        terms = plan.terms(catalogue, today)
        spec = plan.spec(trained(records), folder)
        rows = "".join(record.model_dump_json() + "\n" for record in judged_by).encode()
        request = Request(
            plan=plan,
            spec=spec,
            price=terms.price,
            shutdown=terms.shutdown,
            needed_until=plan.needed_until or today,
            domain=domain,
            heldout_sha256=sha256(rows).hexdigest(),
            question=question,
            arm=arm,
            grounds=grounds,
        )
        return request, rows, terms.warnings

    def get(self, name: str) -> Execution:
        """The execution of this name. Raises InvalidInput where there is none."""
        found = executions.describe(self._states, executions.execution_arn(self._machine, name))
        if found is None:
            raise InvalidInput(
                f"there is no tune {name!r} in {self.connection.name!r}: `stepforge finetune start` names it"
            )
        return found

    def waiting(self, execution: Execution) -> Entry | None:
        """The launch that an execution wants a person to agree to; None where it waits for nobody. Reads no token."""
        sha256_ = (execution.input or {}).get("request_sha256")
        for entry in self.ledger.entries():
            if entry.stage == Stage.NEEDS_APPROVAL and sha256_ is not None and self.ledger.asked(entry.key) == sha256_:
                return entry
        return None

    def approve(self, key: str, *, by: str, up_to_usd: Decimal | None = None) -> Entry:
        """Agree to the cost of a launch, and let its execution go on.

        Raises OverBudget where there is no room, or where it may cost more than `up_to_usd`: then it waits on.
        """
        waiting = self._waiting(key)
        most = self.ledger.entry(key).estimate_usd
        if up_to_usd is not None and most > up_to_usd:
            raise OverBudget(
                f"launch {key} may cost {most:,.2f} USD, and you agree to {up_to_usd:,.2f}: it waits on. Agree to "
                "more, or refuse it"
            )
        start = Start(request_uri=waiting.request_uri, request_sha256=waiting.request_sha256)
        entry = self.ledger.approve(key, by=by, budgets=self._tools().request(start).plan.budgets)
        self._tell("send_task_success", key, taskToken=waiting.token, output="{}")
        return entry

    def refuse(self, key: str, *, by: str, why: str) -> Entry:
        """Refuse the cost of a launch: its execution ends, and nothing was sent."""
        waiting = self._waiting(key)
        if not by.strip():
            raise InvalidInput("a refusal needs the name of who refuses: --by 'NAME'")
        cause = f"{by} refused it" + (f": {why}" if why else "")
        entry = self.ledger.withdraw(key, cause)
        self._tell("send_task_failure", key, taskToken=waiting.token, error="NotApproved", cause=cause)
        return entry

    def stop(self, name: str) -> Execution:
        """Stop an execution: by its event the job is cancelled, and with it its charge."""
        found = self.get(name)
        executions.stop(self._states, found.arn, cause="stopped with stepforge")
        return self.get(name)

    def _waiting(self, key: str) -> Waiting:
        entry = self.ledger.entry(key)
        waiting = self.ledger.waiting(key)
        if waiting is None:
            raise InvalidInput(f"launch {key} waits for nobody, it is {entry.stage.value!r}")
        return waiting

    def _tell(self, call: str, key: str, **given: str) -> None:
        states = self._states
        try:
            getattr(states, call)(**given)
        except (states.exceptions.TaskTimedOut, states.exceptions.TaskDoesNotExist) as error:
            raise InvalidInput(
                f"the execution of launch {key} waits no more: it timed out or was told before. Start the plan again"
            ) from error

    def _tools(self) -> Tools:
        return Tools(
            ledger=self.ledger,
            s3=self.connection.client("s3"),
            sagemaker=self.connection.client("sagemaker"),
            secrets=_none,
            bucket=self.connection.environment.bucket,
            environment=self.connection.name,
        )

    @property
    def _states(self) -> Any:
        return self.connection.client("stepfunctions")

    @property
    def _machine(self) -> str:
        machines = self.connection.environment.machines
        if MACHINE not in machines:
            raise InvalidInput(f"environment {self.connection.name!r} has no machine for paid tunes: deploy it again")
        return machines[MACHINE]


def _hold_teacher(student: str, teacher: str) -> None:
    """The machine's word: pairs of one's own would let whoever starts it say who may teach whom."""
    try:
        shipped().pair(student, teacher)
    except InvalidInput as error:
        known = ", ".join(shipped().taught_by(student)) or "none"
        raise InvalidInput(
            f"the machine takes teachers that the catalogue which ships has for {student!r}, and {teacher!r} is none "
            f"of them ({known}): choose one, or use `stepforge finetune launch --catalogue`, `watch` and `register`"
        ) from error


def _none(name: str) -> str:
    raise AssertionError(f"nothing here calls a provider: {name}")
