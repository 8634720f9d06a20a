"""The errors that stepforge raises, named after the boundary that was crossed.

StepforgeError
├── UserError                what was given cannot work: exit code 2, nothing was changed
│   ├── UnknownName          a domain, run, model or environment that does not exist
│   ├── InvalidInput         a file, record or option that is malformed
│   │   └── AddressRefused   a key was not stored for the address that it was to be sent to
│   ├── GateRefused          the data did not pass the reliability gate
│   ├── UnknownPrice         something has no price, and an unknown price is never zero
│   ├── OverBudget           it would cost more than may be spent; nothing was sent
│   ├── DoesNotPay           the evaluator advises against a launch that was to depend on it
│   ├── ModelGone            a base model cannot be tuned, or shuts down too soon
│   └── MissingExtra         a part of stepforge that is installed on request
├── IntegrityError           bytes differ from their recorded digest
│   ├── ArtifactRefused      a model's files may not be served
│   └── WebhookRefused       a message that its provider did not sign
├── IdentityConflict         a name is taken by something with another identity
├── JobFailed                a training job ended without success
│   ├── AlgorithmError       the job's own code failed: running it again would fail again
│   ├── InvalidJob           the job could not start with what it was given
│   ├── CapacityError        the cloud had no such instance free
│   │   └── InstanceTypeUnavailable  the same, and the next type of the list is tried
│   ├── InternalServerError  the cloud failed
│   ├── ResourceLimitExceeded  the account's quota is used up
│   ├── Stopped              someone stopped it: exit code 7
│   ├── MaxRuntimeExceeded   it ran longer than it may: 8
│   ├── MaxWaitTimeExceeded  it waited for a spot instance longer than it may: 9
│   ├── Interrupted          its spot instance was taken away, or the local server went: 10
│   ├── NameTaken            not a failure: another environment has this attempt's name, and the next is tried
│   └── JobStillRunning      not a failure: another execution runs the same job
├── RunFailed                an execution of a state machine ended without success
│   ├── SmokeFailed          a deployed model does not answer as it did in its evaluation
│   ├── EndpointFailed       an endpoint did not come up with what it was given
│   ├── PromotionBusy        another promotion of the same group has the candidate endpoint
│   ├── ApprovalRefused      a person said no
│   └── ApprovalExpired      nobody answered in time
├── ProviderError            a paid provider did not do what was asked
│   ├── ProviderRefused      it said no: nothing was created, nothing is charged
│   ├── ProviderUnavailable  no answer that can be read: what it did is not known
│   ├── NotReady             not a failure: what was asked for is being made; ask again later
│   └── LaunchUncertain      it is not known yet whether a job was created: launching again looks for it first
├── DiskFull                 no space is left where a job writes; what was there is unharmed
├── Diverged                 training has left the numbers: a loss, gradient or weight is inf or nan
├── SamplerFailed            the engine that samples for training ended, hung, or answered what cannot be
├── Throttled                the cloud asks to call later
├── Detached                 not a failure: who followed went away, and what runs goes on: exit code 130
├── WatchdogError            a guarded call was ended or refused
│   ├── BudgetExceeded       it took longer than it may
│   ├── HeartbeatMissed      it gave no sign of life
│   ├── CircuitOpen          what it calls has failed often: it is left alone for a while
│   └── TooManyAbandoned     as many earlier calls as may do hang still
└── EnvironmentUnavailable   the cloud, the local server or a part of it cannot be reached
    └── SecretUnavailable    no value of a secret could be had in time, and none that is young enough is cached
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StepforgeError(Exception):
    """The root of the hierarchy. `exit_code` is what the CLI ends with."""

    exit_code = 1


class UserError(StepforgeError, ValueError):
    exit_code = 2


class UnknownName(UserError):
    """A name that is not among those that exist.

    `known` is what there is, newest first where it is only a part of that (`newest`); None where nobody asked.

    >>> str(UnknownName("domain", "facal", ["facial"]))
    "unknown domain 'facal': did you mean 'facial'? There are: facial"
    >>> str(UnknownName("job", "sft", ["gate-1", "dataset-1"], newest=True))
    "unknown job 'sft': The newest are: gate-1, dataset-1"
    """

    def __init__(self, what: str, given: str, known: Iterable[str] | None, *, newest: bool = False) -> None:
        if known is None:
            super().__init__(f"unknown {what} {given!r}")
            return
        names = list(known) if newest else sorted(known)
        near = difflib.get_close_matches(given, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        there = "The newest are" if newest else "There are"
        listing = f"{there}: {', '.join(names)}" if names else "There are none"
        super().__init__(f"unknown {what} {given!r}: {hint}{listing}")


class InvalidInput(UserError):
    pass


class AddressRefused(InvalidInput):
    pass


class GateRefused(UserError):
    pass


class UnknownPrice(UserError):
    pass


class OverBudget(UserError):
    exit_code = 11


class DoesNotPay(UserError):
    exit_code = 12


class ModelGone(UserError):
    pass


class MissingExtra(UserError):
    """A module that an extra of the package brings.

    >>> str(MissingExtra("openai", extra="openai"))
    "this needs the extra 'openai' (openai is missing): pip install 'stepforge[openai]'"
    """

    def __init__(self, module: str, *, extra: str) -> None:
        super().__init__(f"this needs the extra {extra!r} ({module} is missing): pip install 'stepforge[{extra}]'")


class IntegrityError(StepforgeError):
    exit_code = 3


class ArtifactRefused(IntegrityError):
    pass


class WebhookRefused(IntegrityError):
    pass


class IdentityConflict(StepforgeError):
    exit_code = 3


class JobFailed(StepforgeError):
    exit_code = 4


class AlgorithmError(JobFailed):
    pass


class InvalidJob(JobFailed):
    pass


class CapacityError(JobFailed):
    pass


class InstanceTypeUnavailable(CapacityError):
    pass


class InternalServerError(JobFailed):
    pass


class ResourceLimitExceeded(JobFailed):
    pass


class Stopped(JobFailed):
    exit_code = 7


class MaxRuntimeExceeded(JobFailed):
    exit_code = 8


class MaxWaitTimeExceeded(JobFailed):
    exit_code = 9


class Interrupted(JobFailed):
    exit_code = 10


class NameTaken(JobFailed):
    pass


class JobStillRunning(JobFailed):
    pass


class RunFailed(StepforgeError):
    exit_code = 4


class SmokeFailed(RunFailed):
    pass


class EndpointFailed(RunFailed):
    pass


class PromotionBusy(RunFailed):
    pass


class ApprovalRefused(RunFailed):
    pass


class ApprovalExpired(RunFailed):
    pass


class ProviderError(StepforgeError):
    exit_code = 5


class ProviderRefused(ProviderError):
    """`status` is HTTP's, where an answer came."""

    def __init__(self, *given: object, status: int | None = None) -> None:
        super().__init__(*given)
        self.status = status

    @property
    def for_good(self) -> bool:
        """Whether the same call would be refused again, whatever key, credit or network it is sent with."""
        status = self.status or 0
        return 400 <= status < 500 and status not in (401, 402, 403, 407, 429)

    @property
    def of_this_question(self) -> bool:
        """Whether another question may be answered: this one may be too long, or its content is refused."""
        return self.status in (400, 413, 422)


class ProviderUnavailable(ProviderError):
    pass


class NotReady(ProviderError):
    exit_code = 4


class LaunchUncertain(ProviderError):
    pass


class DiskFull(StepforgeError):
    exit_code = 6


class Diverged(StepforgeError):
    pass


class SamplerFailed(StepforgeError):
    pass


class Throttled(StepforgeError):
    pass


class Detached(StepforgeError):
    exit_code = 130


class WatchdogError(StepforgeError):
    exit_code = 5


class BudgetExceeded(WatchdogError, TimeoutError):
    pass


class HeartbeatMissed(WatchdogError, TimeoutError):
    pass


class CircuitOpen(WatchdogError):
    """`again_seconds`: about how long until a call is let through."""

    def __init__(self, message: str, *, again_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.again_seconds = again_seconds


class TooManyAbandoned(WatchdogError):
    pass


class EnvironmentUnavailable(StepforgeError):
    exit_code = 5


class SecretUnavailable(EnvironmentUnavailable):
    pass
