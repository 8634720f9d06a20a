"""Events that stepforge reads from EventBridge."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from stepforge.contracts.base import digest


class PackageStateChange(BaseModel):
    """Detail of `SageMaker Model Package State Change`. AWS adds fields at will, so unknown ones are let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ModelPackageArn: str
    ModelPackageGroupName: str | None = None
    ModelPackageVersion: int | None = None
    ModelApprovalStatus: str | None = None
    ModelPackageStatus: str | None = None
    UpdatedModelPackageFields: list[str] = []
    LastModifiedTime: Any = None

    @property
    def event_id(self) -> str:
        """AWS may send several events for one change: they share this."""
        return digest(
            [self.ModelPackageArn, "ModelApprovalStatus", self.ModelApprovalStatus, str(self.LastModifiedTime)]
        )
