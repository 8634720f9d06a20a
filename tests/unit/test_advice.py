"""Every reason gets one of eight words and something to do. The texts are those that people report from SageMaker."""

# ruff: noqa: E501 - the texts stand as they are reported
from __future__ import annotations

from typing import Any

import pytest

from stepforge.following.advice import ADVICE, CATEGORIES, diagnose, diagnose_job

REASONS = [
    ("capacity", "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."),
    ("quota", "ResourceLimitExceeded: An error occurred (ResourceLimitExceeded) when calling the CreateTrainingJob operation: The account-level service limit 'ml.p3.2xlarge for training job usage' is 0 Instances, with current utilization of 0 Instances and a request delta of 1 Instances. Please contact AWS support to request an increase for this limit."),
    ("throttling", "An error occurred (ThrottlingException) when calling the CreateTrainingJob operation (reached max retries: 4): Rate exceeded"),
    ("algorithm", 'AlgorithmError: ExecuteUserScriptError:\nCommand "/opt/conda/bin/python3.6 /run_pytorch_training.py --batch_size 768 --epochs 100"'),
    ("algorithm", "AlgorithmError: , exit code: 1"),
    ("algorithm", "AlgorithmError: Exit Code: 139"),
    ("algorithm", 'AlgorithmError: framework error: \nTraceback (most recent call last):\n  File "_trainer.py", line 84, in train\n    entrypoint()'),
    ("algorithm", "AlgorithmError: CUDA out of memory. Tried to allocate 2.00 GiB, exit code: 1"),
    ("algorithm", "AlgorithmError: botocore.exceptions.ClientError: An error occurred (AccessDenied), exit code: 1"),
    ("image", "AlgorithmError: [FATAL tini (7)] exec train failed: Permission denied, exit code: 126"),
    ("image", "ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions are incorrect."),
    ("permission", "An error occurred (ValidationException) when calling the CreateTrainingJob operation: Access denied for repository: sagemaker-spark-processing in registry ID: 314815235551."),
    ("permission", "ClientError: SageMaker was unable to assume the role 'arn:aws:iam::123456789012:role/SageMakerRole'"),
    ("permission", "An error occurred (ValidationException) when calling the CreateTrainingJob operation: Could not assume role arn:aws:iam::123456789012:role/SageMakerRole. Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role."),
    ("permission", "An error occurred (AccessDeniedException) when calling the CreateTrainingJob operation: User: arn:aws:sts::123456789012:assumed-role/R/S is not authorized to perform: sagemaker:CreateTrainingJob"),
    ("permission", "ClientError: Data download failed:PermanentRedirect (301): AccessDenied (403)"),
    ("data", 'An error occurred (ValidationException) when calling the CreateTrainingJob operation: No S3 objects found under S3 URL "s3://bucket/train/" given in input data source. Please ensure that the bucket exists in the selected region (us-west-2), that objects exist under that S3 prefix'),
    ("data", "ClientError: Data download failed:NoSuchKey (404): The specified key does not exist."),
    ("data", "ClientError: Please use an instance type with more memory, or reduce the size of training data processed on an instance."),
    ("permission", "ClientError: VPC resource unavailable: the subnet has no free addresses"),
    ("internal", "InternalServerError: We encountered an internal error. Please try again."),
    ("unknown", "ClientError: Something that nobody has seen"),
    ("unknown", "The moon is full"),
]  # fmt: skip


@pytest.mark.parametrize(("category", "reason"), REASONS, ids=[f"{n}-{c}" for n, (c, _) in enumerate(REASONS)])
def test_a_reason_that_people_report_gets_its_category(category: str, reason: str) -> None:
    found = diagnose(reason)
    assert (found.category, found.reason) == (category, reason)
    assert len(found.advice) > 30


def test_every_category_is_met_by_a_real_text_and_every_row_has_advice_of_its_own() -> None:
    assert {category for category, _ in REASONS} == set(CATEGORIES) - {"stopped", "limit"}
    assert len({row.advice for row in ADVICE}) == len(ADVICE)


def test_an_unknown_reason_is_said_to_be_unknown_and_stands_as_it_is() -> None:
    found = diagnose("Ω 17: the moon is full")
    assert (found.category, found.reason) == ("unknown", "Ω 17: the moon is full")
    assert "not known here" in found.advice


def job(status: str, secondary: str = "", reason: str = "") -> dict[str, Any]:
    return {"TrainingJobStatus": status, "SecondaryStatus": secondary or status, "FailureReason": reason}


@pytest.mark.parametrize(
    ("described", "category", "words"),
    [
        (job("InProgress"), None, ""),
        (job("Completed"), None, ""),
        (job("Stopped"), "stopped", "somebody stopped it"),
        (job("Stopped", "MaxRuntimeExceeded"), "limit", "raise max_runtime_seconds"),
        (job("Stopped", "MaxWaitTimeExceeded"), "capacity", "without spot"),
        (job("Stopped", "Interrupted"), "capacity", "taken away"),
        (job("Failed", reason="InternalServerError: x"), "internal", "AWS itself failed"),
        (job("Failed"), "unknown", "not known here"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_an_ending_without_a_reason_has_advice_too(described: dict[str, Any], category: str | None, words: str) -> None:
    found = diagnose_job(described)
    assert (None if found is None else found.category) == category
    assert found is None or words in found.advice


@pytest.mark.parametrize(
    ("reason", "category", "word"),
    [
        ("ClientError: Error while opening the channel 'train'", "unknown", "reason above"),
        ("ClientError: the ENI could not be created", "permission", "VPC"),
        ("ClientError: Failed to invoke sts:AssumeRole. Error code: 403", "permission", "trust policy"),
        (None, "unknown", "not known here"),
    ],
)
def test_words_within_words_are_no_reasons(reason: str | None, category: str, word: str) -> None:
    found = diagnose(reason)
    assert found.category == category
    assert word in found.advice


def test_an_ending_with_a_reason_has_the_category_of_the_ending() -> None:
    found = diagnose_job(job("Stopped", "MaxRuntimeExceeded", "anything"))
    assert found is not None
    assert (found.category, found.reason) == ("limit", "anything")
