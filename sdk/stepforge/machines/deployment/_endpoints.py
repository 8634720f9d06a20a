"""The candidate and the live version: brought up, watched, turned back, removed. Each step may run twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError

from stepforge.absence import existing, is_absent
from stepforge.artifacts import folder
from stepforge.contracts.names import endpoint_name
from stepforge.contracts.serving import Fleet
from stepforge.errors import EndpointFailed, PromotionBusy
from stepforge.machines.deployment._contracts import Deployment
from stepforge.machines.deployment._lookups import OWNER_TAG, approved, hold_order, owner_of, runs
from stepforge.machines.deployment._surfaces import MOVING, Served, Surface, cost_tags, surface
from stepforge.machines.deployment._versions import previous_config
from stepforge.machines.rollout import Rollout, ensure_alarm

_DEFAULT_ROLLOUT = Rollout()


def prepare(sagemaker: Any, deployment: Deployment, *, role_arn: str, key_arn: str) -> None:
    """Make the Model and the EndpointConfig where they do not exist."""
    source = {"S3Uri": folder(deployment.artifact.uri), "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {
        "Image": deployment.image,
        "ModelDataSource": {"S3DataSource": source},
        # An instance that is replaced later fetches the weights again: the server refuses others.
        "Environment": {"STEPFORGE_MODEL_SHA256": deployment.artifact.sha256},
    }
    if existing(sagemaker.describe_model, ModelName=deployment.model) is None:
        sagemaker.create_model(
            ModelName=deployment.model,
            PrimaryContainer=container,
            ExecutionRoleArn=role_arn,
            EnableNetworkIsolation=True,
            Tags=cost_tags(deployment.promotion.group),
        )
    _surface(sagemaker, deployment).prepare(deployment.config, role_arn=role_arn, key_arn=key_arn)


def deploy_candidate(sagemaker: Any, states: Any, deployment: Deployment, *, execution_arn: str) -> None:
    """Bring up `{group}-candidate` for this execution, which its tag names.

    Raises PromotionBusy while another promotion has it, of this very version too, or a stale one is going.
    """
    at = _surface(sagemaker, deployment)
    found = at.find(deployment.candidate)
    if found is None:
        tags = [{"Key": OWNER_TAG, "Value": execution_arn}]
        try:
            at.create(deployment.candidate, deployment.config, tags)
        except AwsError as error:
            if at.find(deployment.candidate) is None:
                raise
            raise PromotionBusy(f"another promotion made {deployment.candidate} first: wait for it to go") from error
        return
    owner = owner_of(sagemaker, found.arn)
    if owner == execution_arn and found.status in ("InService", "Creating"):
        return
    if found.status not in MOVING and (owner == execution_arn or not runs(states, owner)):
        # An execution that was stopped cannot clean up: what it left behind is nobody's.
        _delete(at, deployment.candidate)
    raise PromotionBusy(
        f"{deployment.candidate} is {found.status} for {owner.rpartition(':')[2] or 'nobody'}: wait for it to go"
    )


def deploy_live(sagemaker: Any, cloudwatch: Any, deployment: Deployment, rollout: Rollout = _DEFAULT_ROLLOUT) -> None:
    """Create what is live, or update it behind guardrails. Where it serves this already, nothing happens.

    Raises ArtifactRefused where the approval was taken back meanwhile.
    """
    approved(sagemaker, deployment.promotion)
    at, name, mode = _surface(sagemaker, deployment), deployment.endpoint, deployment.fleet.mode
    found = at.find(name)
    if found is None:
        ensure_alarm(cloudwatch, name, mode, topic_arn=rollout.alarm_topic_arn)
        at.create(name, deployment.config)
    elif found.status == "Failed":
        # What failed can be neither updated nor created again.
        at.delete(name)
        raise PromotionBusy(f"{name} had failed and is being deleted: wait for it to go")
    elif _still(found).version != deployment.config:
        at.tag(name)
        alarm = ensure_alarm(cloudwatch, name, mode, topic_arn=rollout.alarm_topic_arn)
        at.update(name, deployment.config, alarm, rollout)


def look_live(sagemaker: Any, deployment: Deployment) -> str | None:
    """What the live endpoint goes back to, read while this promotion holds the candidate, before it changes anything.

    Raises PromotionBusy while the endpoint moves, ArtifactRefused where a later approval was promoted meanwhile.
    """
    hold_order(sagemaker, deployment.promotion)
    found = _surface(sagemaker, deployment).find(deployment.endpoint)
    if found is not None:
        _still(found)
    return previous_config(sagemaker, deployment.promotion, deployment.config, deployment.fleet)


def roll_back(sagemaker: Any, deployment: Deployment) -> None:
    """Let the live endpoint serve what it served before; delete it where it served nothing.

    Where it does not serve this very version, the promotion did not get so far, and it is left alone. Raises
    PromotionBusy while it moves.
    """
    at, name = _surface(sagemaker, deployment), deployment.endpoint
    found = at.find(name)
    if found is None or found.status == "Deleting":
        return
    if _still(found).version != deployment.config or deployment.config == deployment.previous_config:
        return
    if deployment.previous_config is None or found.status == "Failed":
        at.delete(name)
    else:
        at.update(name, deployment.previous_config, None, _DEFAULT_ROLLOUT)


def remove_candidate(sagemaker: Any, deployment: Deployment, *, execution_arn: str, failed: bool) -> None:
    """Delete this execution's candidate, and after a failure the config and model that nothing serves now.

    Raises PromotionBusy while the candidate comes up: only what stands still can be deleted.
    """
    at = _surface(sagemaker, deployment)
    found = at.find(deployment.candidate)
    if found is not None and owner_of(sagemaker, found.arn) == execution_arn:
        if found.status != "Deleting":
            _still(found)
            _delete(at, deployment.candidate)
        found = None
    served = [one.version for one in (at.find(deployment.endpoint), found) if one is not None]
    if failed and deployment.config not in served:
        at.forget(deployment.config)
        if existing(sagemaker.describe_model, ModelName=deployment.model) is not None:
            sagemaker.delete_model(ModelName=deployment.model)


def remove_abandoned(sagemaker: Any, states: Any, group: str, fleet: Fleet) -> bool:
    """Delete a group's candidate whose promotion runs no longer. Whether there was one, and it did not move."""
    at = surface(sagemaker, group, fleet)
    found = at.find(endpoint_name(group, candidate=True))
    if found is None or found.status in MOVING or runs(states, owner_of(sagemaker, found.arn)):
        return False
    _delete(at, found.name)
    return True


def remove_empty(sagemaker: Any, group: str, fleet: Fleet, *, idle: Callable[[], bool]) -> bool:
    """Delete a group's endpoint that no component is left on: it is billed. Whether there was one.

    `idle` is asked before: a promotion that runs makes the endpoint first, and then the component.
    """
    return idle() and surface(sagemaker, group, fleet).clear()


def check_live(sagemaker: Any, deployment: Deployment) -> Literal["ready", "wait"]:
    """`endpoint_state` of the champion. Raises ArtifactRefused where the approval was taken back while it came up."""
    approved(sagemaker, deployment.promotion)
    return endpoint_state(sagemaker, deployment, deployment.endpoint)


def endpoint_state(sagemaker: Any, deployment: Deployment, name: str) -> Literal["ready", "wait"]:
    """Whether `name`, of candidate or champion, serves this version. Raises EndpointFailed where it failed or rolled
    itself back."""
    found = _surface(sagemaker, deployment).find(name)
    if found is None:
        raise EndpointFailed(f"{name} does not exist: it was deleted while it was being deployed")
    if found.status == "InService" and found.version == deployment.config:
        return "ready"
    if found.status in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
        return "wait"
    reason = found.reason or f"it serves {found.version}"
    raise EndpointFailed(f"{name} is {found.status} instead of serving {deployment.config}: {reason}")


def _surface(sagemaker: Any, deployment: Deployment) -> Surface:
    return surface(sagemaker, deployment.promotion.group, deployment.fleet)


def _still(found: Served) -> Served:
    """Raises PromotionBusy while it moves."""
    if found.status in MOVING:
        raise PromotionBusy(f"{found.name} is {found.status}: wait for that to end")
    return found


def _delete(at: Surface, name: str) -> None:
    """Another promotion or the sweep may have deleted it first."""
    try:
        at.delete(name)
    except AwsError as error:
        if not is_absent(error):
            raise
