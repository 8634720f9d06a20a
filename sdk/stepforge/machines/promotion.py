"""From an approval to one execution of `promote`, however often and in whatever order its events arrive."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from stepforge.contracts.base import Contract, digest
from stepforge.contracts.events import PackageStateChange
from stepforge.contracts.names import endpoint_name, execution_name, has_prefix
from stepforge.contracts.registry import (
    APPROVED_AT,
    PROMOTION,
    PROMOTION_EVENT,
    REJECTION,
    SERVES_SINCE,
    STAMPED,
    SUPERSEDED_AT,
    PackageMetadata,
    Promotion,
)
from stepforge.contracts.serving import Fleet
from stepforge.errors import EnvironmentUnavailable
from stepforge.machines import executions
from stepforge.machines.deployment import (
    MOVING,
    Serving,
    approved_later,
    out_of_staging,
    remove_abandoned,
    remove_empty,
    serving,
    surface,
    version_of,
)
from stepforge.machines.packages import summaries
from stepforge.machines.retiring import retire

MAX_EXECUTIONS = 3
"""Executions for one approval: those that ended without a stamp were cut off, not refused."""

STAMP_SECONDS = 5
"""By which the moment that a stamp names may be before its event's."""
KEEP_PREVIOUS_DAYS = 7.0
_PROPERTY = 256
"""Characters of a customer metadata property. It takes letters, numbers, spaces and these; the description all."""
_PROPERTY_SIGNS = "_.:/=+-@"


class Decision(Contract):
    """What was done about one package."""

    package_arn: str
    action: Literal["started", "adopted", "ignored", "recorded", "removed"]
    reason: str
    execution: str | None = None


def ignored(package: dict[str, Any], event_id: str, *, live: Serving = "serves") -> str | None:
    """Why an approval of the described package starts nothing; None where it should. Pure.

    The package as it is now decides, not what an event said: events arrive late, twice and out of order. `live`: of one
    in Production.
    """
    properties = package.get("CustomerMetadataProperties", {})
    if package.get("ModelApprovalStatus") != "Approved":
        return f"the package is {package.get('ModelApprovalStatus', 'not approved')} now"
    if PackageMetadata.of(properties) is None:
        return "the package was not registered by stepforge"
    if package.get("ModelLifeCycle", {}).get("Stage") == "Production" and live != "gone":
        return "the package serves already" if live == "serves" else "its endpoint is changing: the sweep looks again"
    if PROMOTION in properties and properties.get(PROMOTION_EVENT) == event_id:
        return f"this approval was handled: {properties.get(PROMOTION)}"
    return None


def on_event(sagemaker: Any, states: Any, change: PackageStateChange, fleet: Fleet, *, machine_arn: str) -> Decision:
    """Start or adopt the promotion that an event asks for; of what is in Production too, if its endpoint is gone."""
    arn = change.ModelPackageArn
    if change.UpdatedModelPackageFields and "ModelApprovalStatus" not in change.UpdatedModelPackageFields:
        return Decision(package_arn=arn, action="ignored", reason="its approval did not change")
    if change.ModelApprovalStatus not in (None, "Approved"):
        return Decision(package_arn=arn, action="ignored", reason=f"the event says {change.ModelApprovalStatus}")
    package = sagemaker.describe_model_package(ModelPackageName=arn)
    if not change.UpdatedModelPackageFields and _stamped(package, change.approved_at):
        # AWS leaves the fields out of some events: taken for an approval, each stamp would start a promotion that fails
        # and is stamped again, for ever.
        return Decision(package_arn=arn, action="ignored", reason="its last change was the stamp of a promotion")
    if (reason := _late(sagemaker, package, change.approved_at)) is not None:
        return Decision(package_arn=arn, action="ignored", reason=reason)
    live = _live(sagemaker, package, fleet)
    return consider(
        states, package, change.event_id, machine_arn=machine_arn, live=live, approved_at=change.approved_at
    )


def _late(sagemaker: Any, package: dict[str, Any], approved_at: str | None) -> str | None:
    """Why an approval counts no more: a newer one was tried, of this version or of the one that serves."""
    if approved_at is not None and approved_at < package.get("CustomerMetadataProperties", {}).get(APPROVED_AT, ""):
        return "a newer approval of it was tried"
    return approved_later(sagemaker, package["ModelPackageGroupName"], approved_at)


def _stamped(package: dict[str, Any], changed_at: str | None) -> bool:
    """Whether what a package said last when its event was sent was said by a promotion."""
    cycle, properties = package.get("ModelLifeCycle", {}), package.get("CustomerMetadataProperties", {})
    for key, status in ((SERVES_SINCE, "Serving"), (SUPERSEDED_AT, "Superseded")):
        if cycle.get("StageStatus") == status and (key not in properties or changed_at is None):
            return True
        if changed_at is not None and key in properties and changed_at <= _after(properties[key]):
            return True
    moved = cycle.get("Stage") == "Staging" or cycle.get("StageStatus") == "CutOff"
    return moved or package.get("ApprovalDescription", "").startswith(STAMPED)


def _after(stamp: str) -> str:
    """The last moment at which an event can be of a stamp: SageMaker's clock is another than ours."""
    return (datetime.fromisoformat(stamp) + timedelta(seconds=STAMP_SECONDS)).isoformat()


def sweep(
    sagemaker: Any,
    states: Any,
    fleet: Fleet,
    *,
    machine_arn: str,
    prefix: str,
    keep_previous_days: float = KEEP_PREVIOUS_DAYS,
) -> list[Decision]:
    """Promote what is approved but was never handled, because its event was lost. `prefix`: of the groups looked at.

    Of each group only the newest Approved version counts, and only where no promotion left a stamp on it. While any
    promotion runs the sweep waits for its next turn. The package's own LastModifiedTime gives the id that its event
    had, so that an event that was only late adopts what the sweep started; a promotion that was cut off has left it on
    the package. A candidate endpoint whose promotion was stopped, and so could not clean up, is deleted: it is billed.
    The version in Production is promoted again where its endpoint is gone or serves another version, unless a newer
    approval is promoted. A version that is still in Staging goes back to where it was. An endpoint that served before a
    model of another kind, which has served for `keep_previous_days` by now, is deleted too.

    What comes up is left to the next sweep. Raises EnvironmentUnavailable, once every group was looked at, with what
    failed in which of them.
    """
    if _is_promoting(states, machine_arn):
        return []
    decisions: list[Decision] = []
    failures: dict[str, Exception] = {}
    for page in sagemaker.get_paginator("list_model_package_groups").paginate(NameContains=prefix):
        names = [one["ModelPackageGroupName"] for one in page["ModelPackageGroupSummaryList"]]
        for group in (name for name in names if has_prefix(name, prefix)):
            try:
                for decision in _sweep_group(
                    sagemaker, states, group, fleet, machine_arn=machine_arn, keep_previous_days=keep_previous_days
                ):
                    decisions.append(decision)
            except Exception as error:  # noqa: BLE001 - what is wrong with one group must not keep the others waiting
                failures[group] = error
    if failures:
        told = "; ".join(f"{group}: {type(error).__name__}: {error}" for group, error in failures.items())
        done = "; ".join(f"{one.action} {one.package_arn} {one.reason}" for one in decisions) or "nothing"
        raise EnvironmentUnavailable(
            f"the sweep failed in {len(failures)} groups, and the next one tries again: {told}. Done: {done}"
        ) from next(iter(failures.values()))
    return decisions


def _sweep_group(
    sagemaker: Any, states: Any, group: str, fleet: Fleet, *, machine_arn: str, keep_previous_days: float
) -> Iterator[Decision]:
    if remove_abandoned(sagemaker, states, group, fleet):
        said = f"the candidate endpoint of {group}: its promotion was cut off"
        yield Decision(package_arn="", action="removed", reason=said)
    idle = partial(_is_idle, states, machine_arn)
    if remove_empty(sagemaker, group, fleet, idle=idle):
        yield Decision(package_arn="", action="removed", reason=f"the endpoint of {group}: no component is on it")
    for name in retire(sagemaker, group, keep_days=keep_previous_days, idle=idle):
        said = f"the endpoint {name}: another model has served for {keep_previous_days:g} days"
        yield Decision(package_arn="", action="removed", reason=said)
    versions = list(summaries(sagemaker, group))
    newest = next((one for one in versions if one.get("ModelApprovalStatus") == "Approved"), None)
    found = None if newest is None else _heal(sagemaker, states, newest, fleet, machine_arn=machine_arn)
    if found is None or found.action != "started":
        found = _restore(sagemaker, states, versions, fleet, machine_arn=machine_arn) or found
    if found is not None:
        yield found
    tried = found.package_arn if found is not None and found.action == "started" else None
    for version in versions:
        arn, stage = version["ModelPackageArn"], version.get("ModelLifeCycle", {}).get("Stage")
        if stage == "Staging" and arn != tried:
            yield from _unstage(sagemaker, states, arn, machine_arn=machine_arn)


def _is_idle(states: Any, machine_arn: str) -> bool:
    return not _is_promoting(states, machine_arn)


def _is_promoting(states: Any, machine_arn: str) -> bool:
    running = states.list_executions(
        stateMachineArn=executions.unqualified(machine_arn), statusFilter="RUNNING", maxResults=1
    )
    return bool(running["executions"])


def _live(sagemaker: Any, package: dict[str, Any], fleet: Fleet) -> Serving:
    in_production = package.get("ModelLifeCycle", {}).get("Stage") == "Production"
    return serving(sagemaker, package, fleet) if in_production else "serves"


def _heal(sagemaker: Any, states: Any, newest: dict[str, Any], fleet: Fleet, *, machine_arn: str) -> Decision | None:
    package = sagemaker.describe_model_package(ModelPackageName=newest["ModelPackageArn"])
    properties = package.get("CustomerMetadataProperties", {})
    if PROMOTION in properties:
        return None
    change = PackageStateChange(
        ModelPackageArn=newest["ModelPackageArn"],
        ModelApprovalStatus="Approved",
        LastModifiedTime=package.get("LastModifiedTime"),
    )
    tried = properties.get(PROMOTION_EVENT, change.event_id)
    live = _live(sagemaker, package, fleet)
    approved_at = properties.get(APPROVED_AT) if PROMOTION_EVENT in properties else change.approved_at
    return consider(states, package, tried, machine_arn=machine_arn, unstamped=True, live=live, approved_at=approved_at)


def _restore(
    sagemaker: Any, states: Any, versions: list[dict[str, Any]], fleet: Fleet, *, machine_arn: str
) -> Decision | None:
    """Promote the approved version in Production again where its endpoint is gone or serves another.

    Each loss has executions of its own: their id comes from when the version was last promoted.
    """
    for summary in versions:
        if summary.get("ModelLifeCycle", {}).get("Stage") != "Production":
            continue
        package = sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
        live, properties = _live(sagemaker, package, fleet), package.get("CustomerMetadataProperties", {})
        if package.get("ModelApprovalStatus") == "Approved" and live == "gone":
            loss = digest([summary["ModelPackageArn"], "restored", properties.get(SERVES_SINCE)])
            approved_at = properties.get(APPROVED_AT)
            return consider(states, package, loss, machine_arn=machine_arn, live=live, approved_at=approved_at)
        return None
    return _take_back(sagemaker, states, versions, fleet, machine_arn=machine_arn)


def _take_back(
    sagemaker: Any, states: Any, versions: list[dict[str, Any]], fleet: Fleet, *, machine_arn: str
) -> Decision | None:
    """Delete what is live where it is a rejected version, and none is in Production to go back to."""
    rejected = {v["ModelPackageVersion"]: v for v in versions if v.get("ModelApprovalStatus") == "Rejected"}
    if not rejected:
        return None
    group = versions[0]["ModelPackageGroupName"]
    at = surface(sagemaker, group, fleet)
    live = at.find(endpoint_name(group))
    if live is None or live.status in MOVING or version_of(live.version) not in rejected:
        return None
    if _is_promoting(states, machine_arn):
        return None
    at.delete(live.name)
    said = f"{live.name} served {live.version}, which was rejected before it was promoted"
    return Decision(package_arn="", action="removed", reason=said)


def _unstage(sagemaker: Any, states: Any, arn: str, *, machine_arn: str) -> list[Decision]:
    package = sagemaker.describe_model_package(ModelPackageName=arn)
    if package.get("ModelLifeCycle", {}).get("Stage") != "Staging" or _is_promoting(states, machine_arn):
        return []
    reason = "its promotion was cut off"
    sagemaker.update_model_package(ModelPackageArn=arn, **out_of_staging(package, "CutOff", reason))
    return [Decision(package_arn=arn, action="recorded", reason=reason)]


def on_rejection(sagemaker: Any, change: PackageStateChange) -> Decision:
    """Record why a version was rejected: in its metadata, and in its life cycle unless it serves or served.

    What was recorded is not recorded again, so that the event of the record itself does nothing.
    """
    arn = change.ModelPackageArn
    package = sagemaker.describe_model_package(ModelPackageName=arn)
    if package.get("ModelApprovalStatus") != "Rejected":
        said = f"the package is {package.get('ModelApprovalStatus', 'not rejected')} now"
        return Decision(package_arn=arn, action="ignored", reason=said)
    properties = package.get("CustomerMetadataProperties", {})
    if PackageMetadata.of(properties) is None:
        return Decision(package_arn=arn, action="ignored", reason="the package was not registered by stepforge")
    reason = " ".join(package.get("ApprovalDescription", "").split()) or "no reason was given"
    recorded = _property(reason)
    if properties.get(REJECTION) == recorded:
        return Decision(package_arn=arn, action="ignored", reason="its rejection was recorded")
    record: dict[str, Any] = {"CustomerMetadataProperties": {**properties, REJECTION: recorded}}
    stage = package.get("ModelLifeCycle", {}).get("Stage", "Development")
    if stage in ("Development", "Staging"):
        life = {"Stage": "Development", "StageStatus": "Rejected", "StageDescription": reason[:1024]}
        record["ModelLifeCycle"] = life
    sagemaker.update_model_package(ModelPackageArn=arn, **record)
    return Decision(package_arn=arn, action="recorded", reason=reason)


def _property(text: str) -> str:
    """A person's words as a customer metadata property holds them: without the signs that SageMaker refuses there."""
    kept = (char if unicodedata.category(char)[0] in "LNZ" or char in _PROPERTY_SIGNS else " " for char in text)
    return " ".join("".join(kept).split())[:_PROPERTY].strip() or "-"


def consider(
    states: Any,
    package: dict[str, Any],
    event_id: str,
    *,
    machine_arn: str,
    unstamped: bool = False,
    live: Serving = "serves",
    approved_at: str | None = None,
) -> Decision:
    """Start `promote-{12 hex}-r{n}`; running or succeeded is adopted, otherwise n + 1.

    With `unstamped` one that succeeded and left no stamp is not adopted: nothing ran when the package was described.
    """
    arn = package["ModelPackageArn"]
    if (reason := ignored(package, event_id, live=live)) is not None:
        return Decision(package_arn=arn, action="ignored", reason=reason)
    promotion = Promotion(
        package_arn=arn,
        group=package["ModelPackageGroupName"],
        version=package["ModelPackageVersion"],
        event_id=event_id,
        approved_at=approved_at,
    )
    for number in range(1, MAX_EXECUTIONS + 1):
        name = execution_name("promote", event_id, number)
        found = executions.describe(states, executions.execution_arn(machine_arn, name))
        if found is None:
            return _start(states, promotion, name, machine_arn=machine_arn)
        if found.status in executions.ADOPTED and not (unstamped and found.status == "SUCCEEDED"):
            reason = f"its promotion is {found.status}"
            return Decision(package_arn=arn, action="adopted", reason=reason, execution=name)
    return Decision(
        package_arn=arn, action="ignored", reason=f"{MAX_EXECUTIONS} executions ended without success; see them"
    )


def _start(states: Any, promotion: Promotion, name: str, *, machine_arn: str) -> Decision:
    try:
        # The same name and input while it runs returns the running execution, so two handlers at once start one.
        states.start_execution(stateMachineArn=machine_arn, name=name, input=promotion.model_dump_json())
    except states.exceptions.ExecutionAlreadyExists:
        return Decision(
            package_arn=promotion.package_arn, action="adopted", reason="another handler was first", execution=name
        )
    return Decision(package_arn=promotion.package_arn, action="started", reason="approved", execution=name)
