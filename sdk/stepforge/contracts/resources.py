"""What a training job runs on: instances, disks, keys, network, limits of time. None of it is part of a job's identity.

The bounds are those of SageMaker's API; a test compares them with botocore's model of it. Where the two differ, the
narrower one is documented at https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from stepforge.contracts.base import Contract

MOST_SECONDS = 28 * 86_400
"""Longest that SageMaker lets a job run, and wait and run."""
MOST_KEEP_ALIVE_SECONDS = 21_600
MOST_RETRIES = 30
MOST_VOLUME_GB = 16_384
MOST_HOSTS = 100
"""Ours: SageMaker's is a quota of the account, 20 at first."""
MOST_TYPES = 5
OWN_STORAGE = tuple(
    f"ml.{family}"
    for family in (
        "g4dn.*", "g5.*", "g6.*", "g6e.*", "g7.*", "g7e.*", "p3dn.*", "p4d.*", "p4de.*", "p5.*", "p5e.*", "p5en.*",
        "p6.*", "p6-*", "p6e.*", "p6e-*", "trn1.*", "trn1n.*", "trn2.*", "*d.*",
    )
)  # fmt: skip
"""Instance types, as patterns of IAM's, with NVMe of their own: the hardware encrypts it, and SageMaker refuses
VolumeKmsKeyId for them. https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ResourceConfig.html"""
ALONE = ("gate", "evaluate")
"""Work that one process does: another host would do the same again."""

_INSTANCE = re.compile(r"ml\.[a-z][a-z0-9-]*\.[a-z0-9-]+")
_PINNED = re.compile(r".+@sha256:[0-9a-f]{64}")


def _instance_type(given: Any) -> Any:
    if isinstance(given, str) and not _INSTANCE.fullmatch(given):
        near = f"ml.{given}" if _INSTANCE.fullmatch(f"ml.{given}") else "ml.g5.xlarge"
        raise ValueError(f"{given!r} is no instance type of SageMaker: write it as ml.FAMILY.SIZE, such as {near!r}")
    return given


def _input_mode(given: Any) -> Any:
    if given == "Pipe":
        raise ValueError(
            "'Pipe' gives each channel as a FIFO that can be read once, but a job reads a manifest, compares every "
            "file with its digest and then reads the files: use 'File', or 'FastFile' to start before all is copied"
        )
    return given


InstanceType = Annotated[str, BeforeValidator(_instance_type)]
KeyArn = Annotated[str, Field(pattern=r"^[a-zA-Z0-9:/_-]+$", max_length=2048)]
_NetworkId = Annotated[str, Field(pattern=r"^[-0-9a-zA-Z]+$", max_length=32)]


class Vpc(Contract):
    """Where a job's network interfaces are. Each subnet reaches S3 through a gateway endpoint, or the job hangs."""

    subnets: Annotated[tuple[_NetworkId, ...], Field(min_length=1, max_length=16)]
    security_groups: Annotated[tuple[_NetworkId, ...], Field(min_length=1, max_length=5)]
    """With several hosts they must let the hosts talk to each other."""


class Resources(Contract):
    """What a job runs on. Not part of its identity.

    >>> Resources(spot=True, max_runtime_seconds=3600).wait_seconds
    3600
    >>> Resources(instance_type="ml.g5.xlarge", fallback_instance_types=("ml.g6.xlarge",)).instance_types
    ('ml.g5.xlarge', 'ml.g6.xlarge')
    """

    instance_type: InstanceType = "ml.g5.xlarge"
    fallback_instance_types: Annotated[tuple[InstanceType, ...], Field(max_length=MOST_TYPES - 1)] = ()
    """Taken in this order, an attempt each, where the cloud has no capacity for the one before."""
    instance_count: Annotated[int, Field(ge=1, le=MOST_HOSTS)] = 1
    volume_gb: Annotated[int, Field(ge=1, le=MOST_VOLUME_GB)] = 50
    """Ignored by instances that bring their own disks."""
    max_runtime_seconds: Annotated[int, Field(ge=1, le=MOST_SECONDS)] = 86_400
    """Over all retries. A job that is not done by then ends without a model, but keeps its checkpoint."""
    spot: bool = False
    """Managed spot: cheaper, and interrupted at any time. The job goes on from its checkpoint by itself."""
    max_wait_seconds: Annotated[int, Field(ge=1, le=MOST_SECONDS)] | None = None
    """With spot: longest that waiting and running may take together. None is `max_runtime_seconds`."""
    keep_alive_seconds: Annotated[int, Field(ge=1, le=MOST_KEEP_ALIVE_SECONDS)] | None = None
    """Keep the instances, billed, so long after the job, so that the next like it starts in seconds (a warm pool)."""
    retry_attempts: Annotated[int, Field(ge=1, le=MOST_RETRIES)] = 3
    """How often SageMaker runs the job again after an InternalServerError."""
    input_mode: Annotated[Literal["File", "FastFile"], BeforeValidator(_input_mode)] = "File"
    """`File`: inputs are copied before the job starts. `FastFile`: read from S3 as they are opened."""
    volume_key_arn: KeyArn | None = None
    """KMS key of the volume. None is the environment's key, which the roles of jobs may use."""
    output_key_arn: KeyArn | None = None
    """KMS key of what the job writes to S3. None is the environment's. Grant another one to the roles of jobs and to
    the functions that read the results."""
    vpc: Vpc | None = None
    """None is SageMaker's own network."""
    network_isolation: bool = True
    """No connection leaves or enters the containers but between the hosts of one job."""
    encrypt_between_hosts: bool = True

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.max_wait_seconds is not None:
            if not self.spot:
                raise ValueError(
                    f"max_wait_seconds {self.max_wait_seconds} is how long spot capacity may be waited for, but spot "
                    "is off: set spot, or leave max_wait_seconds out"
                )
            if self.max_wait_seconds < self.max_runtime_seconds:
                raise ValueError(
                    f"max_wait_seconds {self.max_wait_seconds} must be max_runtime_seconds {self.max_runtime_seconds} "
                    "or more, because it includes the run: raise it, or lower max_runtime_seconds"
                )
        if self.spot and self.keep_alive_seconds is not None:
            raise ValueError(
                f"keep_alive_seconds {self.keep_alive_seconds} beside spot: SageMaker keeps no spot instances in a "
                "warm pool. Leave one of them out"
            )
        types = self.instance_types
        if len(set(types)) != len(types):
            raise ValueError(f"instance types must differ, given {', '.join(types)}: name each once")
        return self

    @property
    def instance_types(self) -> tuple[str, ...]:
        """All that may be taken, the wanted one first."""
        return (self.instance_type, *self.fallback_instance_types)

    @property
    def without_gpu(self) -> tuple[str, ...]:
        """Those of `instance_types` that have no NVIDIA GPU, by their family."""
        return tuple(name for name in self.instance_types if not has_gpu(name))

    @property
    def wait_seconds(self) -> int | None:
        """MaxWaitTimeInSeconds; None without spot."""
        return (self.max_wait_seconds or self.max_runtime_seconds) if self.spot else None


def has_gpu(instance_type: str) -> bool:
    """Whether an instance type has NVIDIA GPUs, by its family.

    >>> has_gpu("ml.g5.xlarge"), has_gpu("ml.p4d.24xlarge"), has_gpu("ml.m5.large")
    (True, True, False)
    """
    return instance_type.split(".")[1][0] in "gp"


def check_hosts(work: str, resources: Resources, *, own_records: bool = False) -> None:
    """Raises ValueError for several hosts where a second one would be paid for and do nothing.

    `own_records`: whether a dataset job reads the user's records, which one process reads and splits.
    """
    count = resources.instance_count
    if count == 1 or not (work in ALONE or (work == "dataset" and own_records)):
        return
    what = "a 'dataset' job that reads your own records" if work == "dataset" else f"a {work!r} job"
    raise ValueError(
        f"instance_count {count} for {what}: it is done by one process, and {count - 1} of the {count} hosts would be "
        "paid for and do nothing. Set it to 1; several hosts serve sft, srl, rlvr and generated datasets"
    )


def check_pinned(image: str) -> str:
    """The image itself. Raises ValueError where its address does not end in a digest: a tag can be moved."""
    if not _PINNED.fullmatch(image):
        raise ValueError(
            f"image {image!r} is not pinned: another image can take its place between two attempts of one job. Name "
            "it REPOSITORY@sha256:DIGEST (`aws ecr describe-images --query 'imageDetails[].imageDigest'`)"
        )
    return image
