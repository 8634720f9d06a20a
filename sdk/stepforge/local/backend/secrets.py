"""Secrets Manager: rotation by the function, and what CloudFormation says of secrets."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from typing import Any

import ministack.services.cloudformation.provisioners as provisioners
import ministack.services.lambda_svc as lambda_svc
import ministack.services.secretsmanager as secretsmanager

logger = logging.getLogger(__name__)
Json = Any
_rotate_secret = secretsmanager._rotate_secret
_STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
_rotating: set[tuple[str, str]] = set()
"""Secrets and their versions that are rotated just now, or wait for another version's rotation to end."""
_under_way = threading.Lock()
_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By the name of the secret."""


def install() -> None:
    secretsmanager._rotate_secret = rotate_secret
    handlers = provisioners._RESOURCE_HANDLERS
    handlers["AWS::SecretsManager::Secret"] = _by_arn(handlers["AWS::SecretsManager::Secret"])
    handlers["AWS::SecretsManager::RotationSchedule"] = {
        "create": create_schedule, "update": update_schedule, "delete": delete_schedule,
    }  # fmt: skip
    handlers["AWS::SecretsManager::ResourcePolicy"] = {
        "create": create_policy, "update": update_policy, "delete": delete_policy,
    }  # fmt: skip


def rotate_secret(data: Json) -> Json:
    """Upstream copies the current value and calls it rotated. On AWS the function goes through four steps:
    https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
    Rotations by the clock are not covered."""
    _, secret = secretsmanager._resolve(data.get("SecretId"))
    function = data.get("RotationLambdaARN") or (secret or {}).get("RotationLambdaARN")
    if not secret or secret.get("DeletedDate") or not function:
        return _rotate_secret(data)
    incomplete = [
        version
        for version, found in secret["Versions"].items()
        if "AWSPENDING" in found["Stages"] and "AWSCURRENT" not in found["Stages"]
    ]
    if incomplete:
        threading.Thread(target=_rotate, args=(secret, function, incomplete[0]), daemon=True).start()
        message = "A previous rotation isn't complete. That rotation will be reattempted."
        return secretsmanager.error_response_json("InvalidRequestException", message, 400)
    secret |= {"RotationLambdaARN": function, "RotationEnabled": True}
    if rules := data.get("RotationRules"):
        secret["RotationRules"] = rules
    version = data.get("ClientRequestToken") or secretsmanager.new_uuid()
    if data.get("RotateImmediately", True):
        secret["Versions"][version] = {
            "SecretString": None, "SecretBinary": None, "CreatedDate": int(time.time()), "Stages": ["AWSPENDING"],
        }  # fmt: skip
        threading.Thread(target=_rotate, args=(secret, function, version), daemon=True).start()
    return secretsmanager.json_response({"ARN": secret["ARN"], "Name": secret["Name"], "VersionId": version})


def _rotate(secret: Json, function: str, version: str) -> None:
    """A step that fails ends the rotation: the current version stays, and the pending one stays pending, unless the
    function took its label: the next rotation is the same one again."""
    turn = (secret["Name"], version)
    with _under_way:
        if turn in _rotating:
            return
        _rotating.add(turn)
    try:
        with _turns[secret["Name"]]:
            _go_through(secret, function, version)
    finally:
        _rotating.discard(turn)


def _go_through(secret: Json, function: str, version: str) -> None:
    for step in _STEPS:
        func, config, name = lambda_svc._get_func_record_for_ref(function)
        if not func or not config:
            logger.error("rotation of %s failed: there is no function %s", secret["Name"], name)
            break
        event = {"Step": step, "SecretId": secret["ARN"], "ClientRequestToken": version}
        record = lambda_svc._execution_record_for_config(func, config)
        if (result := lambda_svc._execute_function_with_config_scope(record, event)).get("error"):
            logger.error("rotation of %s failed: step=%s error=%s", secret["Name"], step, result.get("body"))
            break
    else:
        secret["LastRotatedDate"] = int(time.time())
        if "AWSCURRENT" in secret["Versions"][version]["Stages"]:
            secret["Versions"][version]["Stages"] = ["AWSCURRENT"]
            return
        logger.error("rotation of %s failed: finishSecret did not make %s current", secret["Name"], version)
    if version in secret["Versions"] and not secret["Versions"][version]["Stages"]:
        del secret["Versions"][version]


def _name(arn: str) -> str:
    _, secret = secretsmanager._resolve(arn)
    return secret["Name"] if secret else arn


def _by_arn(handler: Json) -> Json:
    """Upstream's Ref of a secret is its name; on AWS it is the ARN:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-secretsmanager-secret.html"""

    def create(logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
        _, attributes = handler["create"](logical_id, properties, stack)
        return attributes["Arn"], attributes

    def update(arn: str, old: Json, new: Json, stack: str, logical_id: str | None = None) -> tuple[str, Json]:
        name, attributes = handler["update"](_name(arn), old, new, stack, logical_id)
        _, secret = secretsmanager._resolve(name)
        return secret["ARN"], {**(attributes or {}), "Id": secret["ARN"], "Arn": secret["ARN"]}

    def delete(arn: str, properties: Json) -> Json:
        return handler["delete"](_name(arn), properties)

    return {**handler, "create": create, "update": update, "delete": delete}


def _checked(answer: Json) -> Json:
    if answer[0] >= 400:
        raise ValueError(json.loads(answer[2]))
    return answer


def create_schedule(logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-secretsmanager-rotationschedule.html"""
    if "RotationLambdaARN" not in properties:
        raise ValueError(
            "AWS::SecretsManager::RotationSchedule needs RotationLambdaARN here: hosted rotation is not covered"
        )
    request = {key: properties[key] for key in ("SecretId", "RotationLambdaARN", "RotationRules") if key in properties}
    immediately = str(properties.get("RotateImmediatelyOnUpdate", True)).lower() != "false"
    _checked(secretsmanager._rotate_secret({**request, "RotateImmediately": immediately}))
    return properties["SecretId"], {"Id": properties["SecretId"]}


def update_schedule(physical_id: str, old: Json, new: Json, stack: str) -> tuple[str, Json]:
    return create_schedule("", new, stack)


def delete_schedule(physical_id: str, properties: Json) -> None:
    _, secret = secretsmanager._resolve(physical_id)
    if secret:
        secret |= {"RotationEnabled": False, "RotationLambdaARN": None, "RotationRules": None}


def create_policy(logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-secretsmanager-resourcepolicy.html"""
    policy = properties["ResourcePolicy"]
    text = policy if isinstance(policy, str) else json.dumps(policy)
    _checked(secretsmanager._put_resource_policy({"SecretId": properties["SecretId"], "ResourcePolicy": text}))
    return properties["SecretId"], {"Id": properties["SecretId"]}


def update_policy(physical_id: str, old: Json, new: Json, stack: str) -> tuple[str, Json]:
    return create_policy("", new, stack)


def delete_policy(physical_id: str, properties: Json) -> None:
    if secretsmanager._resolve(physical_id)[1]:
        _checked(secretsmanager._delete_resource_policy({"SecretId": physical_id}))
