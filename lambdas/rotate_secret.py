"""Secrets Manager's rotation of one provider's key. A function and a role for each secret."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.rotation import PROVIDERS, HandIn, Rotation, rotate


class Environment(Variables):
    provider: str
    hand_in: str
    stem: str = ""
    """What names of keys begin with that rotations make; the environment is part of it."""
    openai_project: str = ""
    admin_secret_arn: str = ""
    base_url: str = ""
    """Of a provider's stand-in, in tests."""


def _admin_key() -> str:
    return str(
        client("secretsmanager").get_secret_value(SecretId=variables(Environment).admin_secret_arn)["SecretString"]
    )


@handles
def handler(request: Rotation) -> None:
    env = variables(Environment)
    keyholder = PROVIDERS[env.provider](
        env.base_url or None,
        project=env.openai_project or None,
        admin_key=_admin_key if env.admin_secret_arn else None,
        stem=env.stem,
    )
    rotate(client("secretsmanager"), request, keyholder, HandIn(client("ssm"), env.hand_in))
