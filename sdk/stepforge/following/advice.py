"""Why a job failed, in one word, and what to do about it: one table, first match wins.

Texts are those that SageMaker writes into FailureReason and that CreateTrainingJob raises. Its prefixes alone do not
tell: `ClientError` stands before a missing image, a role without a permission and data that is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stepforge.machines.attempts import ending

Category = Literal[
    "capacity", "quota", "throttling", "algorithm", "data", "permission", "image", "internal", "stopped", "limit",
    "unknown",
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = get_args(Category)


@dataclass(frozen=True)
class Row:
    """Reasons that match, without regard to case, belong to `category`."""

    pattern: str
    category: Category
    advice: str


_SEE_LOG = "see the end of its log (`stepforge logs JOB`); running it again unchanged fails again"
_OWN_CODE = r"^\s*AlgorithmError"
ADVICE: tuple[Row, ...] = (
    # The job's own words come first: a traceback may speak of anything.
    Row(
        _OWN_CODE + r".*(out of memory|OutOfMemory|exit code: ?137|SIGKILL|MemoryError)",
        "algorithm",
        "it needed more memory than its instance has: take a larger instance type, or a smaller batch or max_tokens",
    ),
    Row(
        _OWN_CODE + r".*(No space left on device|disk quota|DiskFull)",
        "algorithm",
        "its volume is full: raise volume_gb",
    ),
    Row(
        _OWN_CODE + r".*(libcuda|libcudart|CUDA driver version is insufficient|no kernel image is available)",
        "image",
        "the image's CUDA does not fit the instance's driver: rebuild the image, or take another instance type",
    ),
    Row(
        _OWN_CODE + r".*(exec format error|exec .* failed: Permission denied|executable file not found)",
        "image",
        "the image's entry point cannot be started: check its architecture (linux/amd64), its exec bit and ENTRYPOINT",
    ),
    Row(
        _OWN_CODE + r".*(GateRefused|IntegrityError|is malformed|SHA-256)",
        "data",
        "the data is not what its manifest says, or a record is malformed: mend it and build the dataset again",
    ),
    Row(_OWN_CODE, "algorithm", f"the job's own code failed: {_SEE_LOG}"),
    Row(
        r"CapacityError|insufficient capacity|Unable to provision requested ML compute capacity|no capacity",
        "capacity",
        "AWS has no such instance free now: try another instance type, zone or region, or later; spot runs out first",
    ),
    Row(
        r"ResourceLimitExceeded|service limit|service quota|quota .* exceeded|exceeds? .* (quota|limit)",
        "quota",
        "the account's quota is used up: wait for other jobs, or ask for more under Service Quotas > Amazon SageMaker "
        "('INSTANCE for training job usage'; spot and warm pools have their own)",
    ),
    Row(
        r"Throttl|Rate exceeded|TooManyRequests|SlowDown|reduce your request rate",
        "throttling",
        "AWS refused calls because too many came: start fewer jobs at once; the same command goes on",
    ),
    Row(
        r"Cannot pull algorithm container|image .*(does not exist|not found)|manifest .* not found|CannotPullContainer"
        r"|repository .*(does not exist|not found)|Invalid image|no such image|unsupported image",
        "image",
        "the image is not there, or the role may not pull it: check its digest in ECR, that ECR's region is the job's, "
        "and ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and ecr:GetAuthorizationToken of the job's role",
    ),
    Row(
        r"Access denied for repository",
        "permission",
        "the repository's policy or the role does not let SageMaker pull the image: grant ecr:BatchGetImage and "
        "ecr:GetDownloadUrlForLayer",
    ),
    Row(
        r"assume ?(the )?role|PassRole|trust relationship",
        "permission",
        "SageMaker cannot take the job's role: its trust policy must name sagemaker.amazonaws.com, and who submits "
        "needs iam:PassRole on it",
    ),
    Row(
        r"kms|KMSAccessDenied|ciphertext|CreateGrant",
        "permission",
        "a KMS key refuses the role: grant kms:Decrypt, kms:GenerateDataKey and, for the volume, kms:CreateGrant in "
        "the role and in the key's policy",
    ),
    Row(
        r"AccessDenied|Access Denied|Forbidden|not authorized|UnauthorizedOperation|\b403\b|lacks? permission",
        "permission",
        "the job's role lacks a permission: it needs s3:GetObject, s3:PutObject and s3:ListBucket on the "
        "environment's bucket; the reason names the action or the object",
    ),
    Row(
        r"No S3 objects found|NoSuchKey|NoSuchBucket|Data download failed|Failed to download data|HeadObject"
        r"|ListObjects|\b404\b|does not exist|invalid (data|input|record)|unable to (read|parse)",
        "data",
        "what a channel names is not there or cannot be read: check the S3 address and its region, and that the role "
        "may list it; without s3:ListBucket a missing object and a forbidden one look the same",
    ),
    Row(
        r"instance type with more memory|more storage|ENOSPC|No space left",
        "data",
        "the data does not fit the instance: raise volume_gb, or take a larger instance type",
    ),
    Row(
        r"subnet|security group|\bVPC|\bENIs?\b|network interface|endpoint .*S3|Unable to execute request to S3",
        "permission",
        "the job's network does not reach what it needs: a private VPC wants a gateway endpoint for S3 and interface "
        "endpoints for ECR, logs, KMS and STS, and free addresses in its subnets",
    ),
    Row(
        r"InternalServerError|internal error|InternalFailure|ServiceUnavailable|hardware|host .*(failed|unhealthy)",
        "internal",
        "AWS itself failed: run the same command again, it goes on from the last checkpoint; with the job's ARN AWS "
        "Support can say more",
    ),
    Row(
        r"^\s*(ClientError|ValidationException|InvalidJob)",
        "unknown",
        "SageMaker did not like what was asked for; the reason above is all that it says",
    ),
)
_ENDINGS: dict[str, str] = {
    "Stopped": "somebody stopped it: the same command goes on from its checkpoint",
    "MaxRuntimeExceeded": "it ran for as long as it may: raise max_runtime_seconds, or do fewer steps; the same "
    "command goes on from its checkpoint",
    "MaxWaitTimeExceeded": "no spot instance was free for as long as it may wait: raise max_wait_seconds, or do "
    "without spot",
    "Interrupted": "its spot instance was taken away: the same command goes on from its checkpoint",
}
_CATEGORIES: dict[str, Category] = {
    "Stopped": "stopped",
    "MaxRuntimeExceeded": "limit",
    "MaxWaitTimeExceeded": "capacity",
    "Interrupted": "capacity",
}
_UNKNOWN = "this reason is not known here: read it as it stands, and see the job's log (`stepforge logs JOB`)"


@dataclass(frozen=True)
class Diagnosis:
    """`reason` is SageMaker's own text, untouched."""

    category: Category
    advice: str
    reason: str


def diagnose(reason: str | None) -> Diagnosis:
    """What a FailureReason, or the message of a refused CreateTrainingJob, means.

    >>> diagnose("CapacityError: Unable to provision requested ML compute capacity.").category
    'capacity'
    >>> diagnose("The moon is full").category
    'unknown'
    """
    reason = reason or ""
    for row in ADVICE:
        if re.search(row.pattern, reason, re.IGNORECASE | re.DOTALL):
            return Diagnosis(row.category, row.advice, reason)
    return Diagnosis("unknown", _UNKNOWN, reason)


def diagnose_job(job: dict[str, Any]) -> Diagnosis | None:
    """The same for DescribeTrainingJob's answer; None where the job runs or is Completed."""
    how, reason = ending(job), (job.get("FailureReason") or "").strip()
    if how is None or how == "Completed":
        return None
    if how in _ENDINGS and not reason:
        return Diagnosis(_CATEGORIES[how], _ENDINGS[how], how)
    found = diagnose(reason)
    return Diagnosis(_CATEGORIES.get(how, found.category), _ENDINGS.get(how, found.advice), reason)
