"""Denies that no grant undoes: training jobs without network, keys or limits. The same document serves as an SCP.

A condition key that is misspelt is no error to IAM: `Null` is then always true, or the deny never holds. Tests compare
every key here with those that SageMaker has, and evaluate the documents.
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
"""

from __future__ import annotations

from typing import Any

from cdk.settings import Settings

HARDWARE_ENCRYPTED = ("ml.c5d.*", "ml.g4dn.*", "ml.g5.*", "ml.g6.*", "ml.g6e.*", "ml.m5d.*", "ml.p4d.*", "ml.p4de.*",
                      "ml.p5.*", "ml.p5e.*", "ml.p5en.*", "ml.r5d.*", "ml.trn1.*", "ml.trn1n.*")  # fmt: skip
"""Instances whose hardware encrypts their disks: SageMaker refuses a volume's key for them, so none is asked."""
CONDITION_KEYS = ("sagemaker:VpcSubnets", "sagemaker:VpcSecurityGroupIds", "sagemaker:VolumeKmsKey",
                  "sagemaker:OutputKmsKey", "sagemaker:InstanceTypes", "sagemaker:MaxRuntimeInSeconds",
                  "sagemaker:InterContainerTrafficEncryption", "sagemaker:NetworkIsolation")  # fmt: skip
_CREATE = "sagemaker:CreateTrainingJob"


def guardrails(settings: Settings) -> dict[str, Any]:
    """The policy of an environment, attached to whatever creates jobs."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            *([] if settings.network is None else [
                _deny("JobsWithoutSubnets", Null={"sagemaker:VpcSubnets": "true"}),
                _deny("JobsWithoutSecurityGroups", Null={"sagemaker:VpcSecurityGroupIds": "true"}),
            ]),
            _deny("OutputsWithoutKey", Null={"sagemaker:OutputKmsKey": "true"}),
            _deny(
                "VolumesWithoutKey",
                Null={"sagemaker:VolumeKmsKey": "true"},
                **{"ForAnyValue:StringNotLike": {"sagemaker:InstanceTypes": list(HARDWARE_ENCRYPTED)}},
            ),
            _deny(
                "OtherInstances",
                **{"ForAnyValue:StringNotLike": {"sagemaker:InstanceTypes": list(settings.limits.instance_types)}},
            ),
            _deny(
                "LongJobs",
                NumericGreaterThan={"sagemaker:MaxRuntimeInSeconds": str(settings.limits.hours * 3600)},
            ),
            _deny("OpenTraffic", Bool={"sagemaker:InterContainerTrafficEncryption": "false"}),
        ],
    }  # fmt: skip


def _deny(sid: str, **conditions: dict[str, Any]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Deny", "Action": [_CREATE], "Resource": ["*"], "Condition": conditions}
