"""Rotation of providers' keys in Secrets Manager: four steps, each of which may come twice.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
Keys overlap: the one before stays valid until the next rotation, for whoever has it cached. A new key is one that a
person handed in, or one that the provider makes. The first value of a secret comes in the same way, so that nobody but
the rotation function ever writes a secret.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepforge.errors import InvalidInput, ProviderRefused
from stepforge.rotation.providers import PROVIDERS, Keyholder
from stepforge.secrets import CURRENT, PENDING

__all__ = ["PROVIDERS", "HandIn", "Keyholder", "Rotation", "rotate"]

logger = logging.getLogger(__name__)
PREVIOUS = "AWSPREVIOUS"
Step = Literal["createSecret", "setSecret", "testSecret", "finishSecret"]


class Rotation(BaseModel):
    """The event with which Secrets Manager calls a rotation function."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    step: Step = Field(alias="Step")
    secret_id: str = Field(alias="SecretId")
    token: str = Field(alias="ClientRequestToken")
    """Also the id of the version that this rotation makes."""


class HandIn:
    """Where a person leaves a new key: an encrypted parameter, which they may write and not read."""

    def __init__(self, ssm: Any, name: str) -> None:
        self._ssm, self.name = ssm, name

    def value(self) -> str | None:
        try:
            found = self._ssm.get_parameter(Name=self.name, WithDecryption=True)["Parameter"]["Value"]
        except self._ssm.exceptions.ParameterNotFound:
            return None
        return str(found).strip()

    def clear(self, taken: str) -> None:
        """Remove it where it still is what was taken: a newer one is the next rotation's."""
        if self.value() == taken:
            try:
                self._ssm.delete_parameter(Name=self.name)
            except self._ssm.exceptions.ParameterNotFound:
                logger.info("the key that was handed in is gone already", extra={"fields": {"parameter": self.name}})


def rotate(secrets: Any, event: Rotation, keyholder: Keyholder, hand_in: HandIn) -> None:
    """One step of a rotation; doing it again changes nothing more.

    secrets: boto3's client. Raises InvalidInput where there is no such rotation or no new key can be had, and what the
    keyholder raises where the provider refuses a key: the rotation fails then, and the current key stays.
    """
    versions: dict[str, list[str]] = secrets.describe_secret(SecretId=event.secret_id)["VersionIdsToStages"]
    stages = versions.get(event.token, [])
    if CURRENT in stages:
        # The first value of a secret is current as soon as it is put, so it is tested there.
        if event.step == "testSecret":
            keyholder.test(_pending(secrets, event, stage=CURRENT))
        elif event.step == "finishSecret":
            _clean_up(secrets, event, keyholder, hand_in)
        return
    if PENDING not in stages:
        raise InvalidInput(f"version {event.token!r} of {event.secret_id} is not {PENDING}: start a rotation anew")
    if event.step == "createSecret":
        _create(secrets, event, keyholder, hand_in)
    elif event.step == "testSecret":
        _test(secrets, event, keyholder)
    elif event.step == "finishSecret":
        _test(secrets, event, keyholder)
        current = next((version for version, labels in versions.items() if CURRENT in labels), None)
        moved = {"MoveToVersionId": event.token, **({"RemoveFromVersionId": current} if current else {})}
        secrets.update_secret_version_stage(SecretId=event.secret_id, VersionStage=CURRENT, **moved)
        _clean_up(secrets, event, keyholder, hand_in)
    # setSecret: keys of these providers work from the moment in which they are made.


def _test(secrets: Any, event: Rotation, keyholder: Keyholder) -> None:
    """A key that is refused is given up: as long as its version is pending, Secrets Manager tries it and no other."""
    key = _pending(secrets, event)
    try:
        keyholder.test(key)
    except (ProviderRefused, InvalidInput):
        secrets.update_secret_version_stage(
            SecretId=event.secret_id, VersionStage=PENDING, RemoveFromVersionId=event.token
        )
        logger.error(
            "the new key is refused and given up: hand in another and rotate again",
            extra={"fields": {"secret": event.secret_id, "version": event.token}},
        )
        raise


def _create(secrets: Any, event: Rotation, keyholder: Keyholder, hand_in: HandIn) -> None:
    if _value(secrets, event, VersionId=event.token, VersionStage=PENDING) is not None:
        return
    current = _value(secrets, event, VersionStage=CURRENT)
    value = hand_in.value() or keyholder.create(current, event.token)
    if value is None:
        raise InvalidInput(
            f"no new key for {event.secret_id}: this provider makes none for a program. Make one by hand, put it into "
            f"the parameter {hand_in.name} and rotate again (docs/deploy.md, rotate a key)"
        )
    if current is None:
        # Secrets Manager makes the first value current as soon as it is put.
        keyholder.test(value)
    secrets.put_secret_value(
        SecretId=event.secret_id, ClientRequestToken=event.token, SecretString=value, VersionStages=[PENDING]
    )


def _pending(secrets: Any, event: Rotation, *, stage: str = PENDING) -> str:
    value = _value(secrets, event, VersionId=event.token, VersionStage=stage)
    if value is None:
        raise InvalidInput(f"version {event.token!r} of {event.secret_id} has no value: createSecret has not come by")
    return value


def _clean_up(secrets: Any, event: Rotation, keyholder: Keyholder, hand_in: HandIn) -> None:
    """What a finished rotation leaves: the label of pending, the handed-in key, and keys older than the one before."""
    versions = secrets.describe_secret(SecretId=event.secret_id)["VersionIdsToStages"]
    if PENDING in versions.get(event.token, []):
        secrets.update_secret_version_stage(
            SecretId=event.secret_id, VersionStage=PENDING, RemoveFromVersionId=event.token
        )
    kept = {}
    for version, labels in versions.items():
        for label in (CURRENT, PREVIOUS, PENDING):
            if label in labels and (value := _value(secrets, event, VersionId=version)) is not None:
                kept[version] = value
    hand_in.clear(kept[event.token])
    keyholder.revoke_others(kept, current=event.token)


def _value(secrets: Any, event: Rotation, **which: str) -> str | None:
    try:
        answer = secrets.get_secret_value(SecretId=event.secret_id, **which)
    except secrets.exceptions.ResourceNotFoundException:
        return None
    # A version without a value: Secrets Manager makes it before it calls createSecret.
    return answer.get("SecretString")
