"""What must not stand in a job's environment or hyperparameters: both are shown to whoever may describe the job.

A job is given a secret's ARN instead, and fetches it when it runs (`stepforge.secrets`). What a secret looks like is
known in one place, the redaction of logs. Not covered: what has no known form, under a name that does not give it away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stepforge.errors import InvalidInput
from stepforge.logs import names_a_secret, secrets_in

_HARMLESS = re.compile(
    r"|arn:[\w:/+=,.@*?-]+|s3://[^\s/]+/\S*|\$\{.*\}|\{\{resolve:.*\}\}|/[\w.-]+/[\w./-]*|[+-]?\d{0,3}|true|false|none|null|yes|no|"
    r"<\S*>|\*+",
    re.IGNORECASE,
)
"""An ARN, a place (with a folder: `/hunter2` is none), a reference, a number of three digits, a flag, a special token
of a vocabulary: no secret whatever its name is."""


def secret_in(name: str, value: str) -> str | None:
    """What secret a value is by its form or its name; None where it is none that is known.

    >>> secret_in("HOOK", "https://ann:hunter2@example.org/"), secret_in("DB_PASSWORD", "hunter2")
    ('holds a secret (password)', 'is named like a secret')
    >>> secret_in("OPENAI_SECRET_ARN", "arn:aws:secretsmanager:eu-west-1:1:secret:o"), secret_in("EOS_TOKEN", "</s>")
    (None, None)
    """
    if found := secrets_in(value):
        return f"holds a secret ({found[0]})"
    named = names_a_secret(name) and not _HARMLESS.fullmatch(value.strip())
    return "is named like a secret" if named else None


def refuse_secrets(values: Mapping[str, str], *, what: str) -> None:
    """Raises InvalidInput where one of the values is a secret; the message has its name and never the value.

    what: "Environment variable", say.

    >>> refuse_secrets({"WANDB_MODE": "offline", "MAX_TOKENS": "512"}, what="Environment variable")
    """
    for name, value in values.items():
        if (said := secret_in(name, str(value))) is not None:
            raise InvalidInput(
                f"{what} {name!r} {said}: whoever may describe the job would read it. Keep it in Secrets Manager, pass "
                f"its ARN as {name + '_ARN'!r}, and fetch it when the job runs with stepforge.secrets"
            )
