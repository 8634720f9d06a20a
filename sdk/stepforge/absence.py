"""What AWS answers about a thing that does not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError as AwsError

_WORDS = ("could not find", "not found", "does not exist", "resourcenotfound")


def is_absent(error: Exception) -> bool:
    """Whether an error says so. SageMaker has no code of its own for it: it answers ValidationException.

    >>> is_absent(AwsError({"Error": {"Code": "ValidationException", "Message": "Could not find it"}}, "Describe"))
    True
    """
    text = str(error).lower()
    return any(words in text for words in _WORDS)


def existing(call: Callable[..., dict[str, Any]], **given: str) -> dict[str, Any] | None:
    """What a call answers about a thing; None where there is none."""
    try:
        return call(**given)
    except AwsError as error:
        if is_absent(error):
            return None
        raise
