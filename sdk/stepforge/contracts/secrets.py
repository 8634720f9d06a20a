"""What must not stand in a job's environment or hyperparameters: both are shown to whoever may describe the job.

A job is given a secret's ARN instead, and fetches it when it runs (`stepforge.secrets`).
Not covered: secrets without a known form under a name that does not give them away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stepforge.errors import InvalidInput

_KEYS: dict[str, str] = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "an Anthropic key": r"\bsk-ant-[\w-]{20,}",
    "an OpenAI key": r"\bsk-(?:(?:proj|svcacct|admin|None)-[\w-]{20,}|[A-Za-z0-9]{32,})",
    "a Google API key": r"\bAIza[\w-]{35}",
    "a Google OAuth token": r"\bya29\.[\w-]{20,}|\b1//0[\w-]{20,}",
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{40,}",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "a Slack token": r"\bxox[abeoprs]-[\w-]{10,}",
    "a Stripe key": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    "a Weights & Biases key": r"\bwandb_v1_[\w-]{20,}",
    "a PyPI token": r"\bpypi-[\w-]{50,}",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}",
    "an Azure storage key": r"\bAccountKey=[A-Za-z0-9+/]{40,}={0,2}",
    "a signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a bearer token": r"\b(?i:bearer)\s+[\w.~+/-]{16,}",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    "a signed URL": r"[?&](?:X-Amz-Signature|X-Goog-Signature|sig)=[\w%+/-]{20,}",
    "a URL with a password": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:[^\s/@]{3,}@",
}
"""What is said of a value, and the form that gives it away."""
_FORM = re.compile("|".join(f"(?P<k{number}>{form})" for number, form in enumerate(_KEYS.values())))
_PASSWORD = re.compile(r"(?i)(^|[^a-z])(password|passwd|passphrase|secret|credentials?)$")
_TOKEN = re.compile(r"(?i)(^|[^a-z])(auth|access|api|bearer|refresh|hf|hub|github|session|security)[^a-z]*(key|token)$")
_SECRET_KEY = re.compile(r"(?i)(secret|private|encryption|signing)[^a-z]*(access[^a-z]*)?key$")
# `apiKey`, `clientSecret`: a capital begins a word.
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_HARMLESS = re.compile(
    r"|arn:[\w:/+=,.@*?-]+|s3://\S+|\$\{.*\}|\{\{resolve:.*\}\}|/[\w./-]*|[+-]?[\d.]+|true|false|none|null|yes|no|"
    r"<\S*>|\*+",
    re.IGNORECASE,
)
"""An ARN, a place, a reference, a number, a special token of a vocabulary: no secret whatever its name is."""


def secret_in(name: str, value: str) -> str | None:
    """What secret a value is by its form or its name; None where it is none that is known.

    >>> secret_in("HOOK", "https://ann:hunter2@example.org/"), secret_in("DB_PASSWORD", "hunter2")
    ('a URL with a password', 'named like a secret')
    >>> secret_in("OPENAI_SECRET_ARN", "arn:aws:secretsmanager:eu-west-1:1:secret:o"), secret_in("EOS_TOKEN", "</s>")
    (None, None)
    """
    if (found := _FORM.search(value)) is not None and found.lastgroup is not None:
        return list(_KEYS)[int(found.lastgroup[1:])]
    if _HARMLESS.fullmatch(value.strip()):
        return None
    words = _WORDS.sub("_", name)
    if _PASSWORD.search(words) or _SECRET_KEY.search(words):
        return "named like a secret"
    return "named like a secret" if _TOKEN.search(words) and len(value) >= 8 and " " not in value else None


def refuse_secrets(values: Mapping[str, str], *, what: str) -> None:
    """Raises InvalidInput where one of the values is a secret; the message has its name and never the value.

    what: "Environment variable", say.

    >>> refuse_secrets({"WANDB_MODE": "offline", "MAX_TOKENS": "512"}, what="Environment variable")
    """
    for name, value in values.items():
        if (kind := secret_in(name, str(value))) is not None:
            said = "is " + kind if kind.startswith("named") else "holds " + kind
            raise InvalidInput(
                f"{what} {name!r} {said}: whoever may describe the job would read it. Keep it in Secrets Manager, pass "
                f"its ARN as {name + '_ARN'!r}, and fetch it when the job runs with stepforge.secrets"
            )
