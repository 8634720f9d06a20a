"""Errors as SageMaker gives them: https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html"""

from __future__ import annotations


class ServiceError(Exception):
    """`code` is what a client finds in `error.response["Error"]["Code"]`."""

    def __init__(self, code: str, message: str, *, status: int = 400, **members: object) -> None:
        self.code, self.message, self.status, self.members = code, message, status, members
        super().__init__(f"{code}: {message}")


def validation(message: str) -> ServiceError:
    return ServiceError("ValidationException", message)


def not_found(what: str | None = None) -> ServiceError:
    """Describe operations answer ValidationException for an unknown name, whatever errors their shapes document."""
    return validation(f"Could not find {what}." if what else "Requested resource not found.")


def in_use(message: str) -> ServiceError:
    return ServiceError("ResourceInUse", message)
