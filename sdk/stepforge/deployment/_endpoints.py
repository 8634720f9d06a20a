"""The candidate and the live endpoint: brought up, watched, turned back, removed. Each step may run twice."""

from __future__ import annotations

from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError

from stepforge.artifacts import folder
from stepforge.attempts import volume_key
from stepforge.contracts.names import endpoint_name
from stepforge.deployment._contracts import Deployment
from stepforge.deployment._lookups import OWNER_TAG, approved, exists, find_endpoint, owner_of, runs
from stepforge.errors import EndpointFailed, PromotionBusy
from stepforge.rollout import VARIANT, Rollout, ensure_alarm, guardrails

_DEFAULT_ROLLOUT = Rollout()


def prepare(
    sagemaker: Any,
    deployment: Deployment,
    *,
    role_arn: str,
    instance_type: str,
    key_arn: str,
    instances: int = 1,
) -> None:
    """Make the Model and the EndpointConfig where they do not exist."""
    source = {"S3Uri": folder(deployment.artifact.uri), "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"Image": deployment.image, "ModelDataSource": {"S3DataSource": source}}
    key = volume_key(instance_type, key_arn)
    if not exists(sagemaker.describe_model, ModelName=deployment.model):
        sagemaker.create_model(
            ModelName=deployment.model,
            PrimaryContainer=container,
            ExecutionRoleArn=role_arn,
            EnableNetworkIsolation=True,
        )
    if not exists(sagemaker.describe_endpoint_config, EndpointConfigName=deployment.config):
        variant = {
            "VariantName": VARIANT,
            "ModelName": deployment.model,
            "InitialInstanceCount": instances,
            "InstanceType": instance_type,
            "InitialVariantWeight": 1.0,
        }
        sagemaker.create_endpoint_config(
            EndpointConfigName=deployment.config,
            ProductionVariants=[variant],
            **({} if key is None else {"KmsKeyId": key}),
        )


def deploy_candidate(sagemaker: Any, states: Any, deployment: Deployment, *, execution_arn: str) -> None:
    """Bring up `{group}-candidate` for this execution, which its tag names.

    Raises PromotionBusy while another promotion has it, of this very version too, or a stale one is going.
    """
    found = find_endpoint(sagemaker, deployment.candidate)
    if found is None:
        tags = [{"Key": OWNER_TAG, "Value": execution_arn}]
        try:
            sagemaker.create_endpoint(
                EndpointName=deployment.candidate, EndpointConfigName=deployment.config, Tags=tags
            )
        except AwsError as error:
            if find_endpoint(sagemaker, deployment.candidate) is None:
                raise
            raise PromotionBusy(f"another promotion made {deployment.candidate} first: wait for it to go") from error
        return
    owner = owner_of(sagemaker, found)
    if owner == execution_arn and found["EndpointStatus"] in ("InService", "Creating"):
        return
    if found["EndpointStatus"] != "Deleting" and (owner == execution_arn or not runs(states, owner)):
        # An execution that was stopped cannot clean up: what it left behind is nobody's.
        sagemaker.delete_endpoint(EndpointName=deployment.candidate)
    raise PromotionBusy(
        f"{deployment.candidate} is {found['EndpointStatus']} for {owner.rpartition(':')[2] or 'nobody'}: "
        "wait for it to go"
    )


def deploy_live(sagemaker: Any, cloudwatch: Any, deployment: Deployment, rollout: Rollout = _DEFAULT_ROLLOUT) -> None:
    """Create the live endpoint, or update it blue/green. Where it serves this already, nothing happens.

    Raises ArtifactRefused where the approval was taken back meanwhile.
    """
    approved(sagemaker, deployment.promotion)
    _point(sagemaker, cloudwatch, deployment.endpoint, deployment.config, rollout)


def roll_back(sagemaker: Any, deployment: Deployment) -> None:
    """Point the live endpoint at what it served before; delete it where it served nothing."""
    found = find_endpoint(sagemaker, deployment.endpoint)
    if found is None:
        return
    if deployment.previous_config is None:
        sagemaker.delete_endpoint(EndpointName=deployment.endpoint)
    elif found["EndpointStatus"] in ("Updating", "SystemUpdating", "RollingBack"):
        raise PromotionBusy(f"{deployment.endpoint} is {found['EndpointStatus']}: it can be rolled back once that ends")
    elif found["EndpointConfigName"] != deployment.previous_config:
        sagemaker.update_endpoint(EndpointName=deployment.endpoint, EndpointConfigName=deployment.previous_config)


def remove_candidate(sagemaker: Any, deployment: Deployment, *, execution_arn: str, failed: bool) -> None:
    """Delete this execution's candidate endpoint, and after a failure the config and model that nothing serves now."""
    found = find_endpoint(sagemaker, deployment.candidate)
    if found is not None and owner_of(sagemaker, found) == execution_arn:
        if found["EndpointStatus"] != "Deleting":
            sagemaker.delete_endpoint(EndpointName=deployment.candidate)
        found = None
    live = find_endpoint(sagemaker, deployment.endpoint)
    served = [endpoint["EndpointConfigName"] for endpoint in (live, found) if endpoint is not None]
    if failed and deployment.config not in served:
        if exists(sagemaker.describe_endpoint_config, EndpointConfigName=deployment.config):
            sagemaker.delete_endpoint_config(EndpointConfigName=deployment.config)
        if exists(sagemaker.describe_model, ModelName=deployment.model):
            sagemaker.delete_model(ModelName=deployment.model)


def remove_abandoned(sagemaker: Any, states: Any, group: str) -> bool:
    """Delete a group's candidate endpoint whose promotion runs no longer. Whether there was one."""
    found = find_endpoint(sagemaker, endpoint_name(group, candidate=True))
    if found is None or found["EndpointStatus"] == "Deleting" or runs(states, owner_of(sagemaker, found)):
        return False
    sagemaker.delete_endpoint(EndpointName=found["EndpointName"])
    return True


def endpoint_state(sagemaker: Any, endpoint: str, config: str) -> Literal["ready", "wait"]:
    """Whether `endpoint` serves `config`. Raises EndpointFailed where it failed or rolled itself back."""
    found = find_endpoint(sagemaker, endpoint)
    if found is None:
        raise EndpointFailed(f"{endpoint} does not exist: it was deleted while it was being deployed")
    status = found["EndpointStatus"]
    if status == "InService" and found["EndpointConfigName"] == config:
        return "ready"
    if status in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
        return "wait"
    reason = found.get("FailureReason", f"it serves {found['EndpointConfigName']}")
    raise EndpointFailed(f"{endpoint} is {status} instead of serving {config}: {reason}")


def _point(sagemaker: Any, cloudwatch: Any, endpoint: str, config: str, rollout: Rollout) -> None:
    found = find_endpoint(sagemaker, endpoint)
    if found is None:
        ensure_alarm(cloudwatch, endpoint)
        sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    elif found["EndpointStatus"] == "Failed":
        # A failed endpoint can be neither updated nor created again.
        sagemaker.delete_endpoint(EndpointName=endpoint)
        raise PromotionBusy(f"{endpoint} had failed and is being deleted: wait for it to go")
    elif found["EndpointStatus"] in ("Updating", "SystemUpdating", "RollingBack", "Creating", "Deleting"):
        raise PromotionBusy(f"{endpoint} is {found['EndpointStatus']}: wait for that to end")
    elif found["EndpointConfigName"] != config:
        sagemaker.update_endpoint(
            EndpointName=endpoint,
            EndpointConfigName=config,
            DeploymentConfig=guardrails(ensure_alarm(cloudwatch, endpoint), rollout),
        )
