"""An environment: what SSM says under /stepforge/{environment}/, as one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from stepforge.contracts.base import Contract, Sha256
from stepforge.contracts.serving import ServeMode
from stepforge.contracts.work import WorkType


class Environment(Contract):
    """Each field is the SSM parameter of its name, with `-` for `_`; dicts are one parameter a key (`code/srl`)."""

    name: str
    bucket: str
    key_arn: str
    training_role_arn: str
    serving_role_arn: str
    role_arns: dict[WorkType, str] = {}
    """The role that each type of job runs as; those that are not named run as `training_role_arn`."""
    machines: dict[str, str]
    """Machine name (`train`) to the ARN of its alias, by which it is started."""
    images: dict[str, str]
    """`train`, `serve` and, where datasets and gates have one of their own, `data`: each to an image address that ends
    in its digest."""
    code: dict[WorkType, Sha256]
    """Digest of the code and lock that run each type of job."""
    instance_types: dict[str, str] = {}
    """`train` and `serve`."""
    serve_mode: ServeMode = "realtime"
    network: dict[str, str] = {}
    """`subnets` and `security-groups` of the environment's own network, with commas between them. Jobs that name no
    network run there; empty is SageMaker's."""
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    """The most that one submission may cost by its estimate."""

    def role_of(self, work: WorkType) -> str:
        """ARN of the execution role of a type of job."""
        return self.role_arns.get(work, self.training_role_arn)


def on_this_machine(environ: Mapping[str, str]) -> bool:
    """Whether clients of AWS are led to this machine, as `stepforge local run` has it: no account, and no console.

    >>> on_this_machine({"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}), on_this_machine({})
    (True, False)
    """
    return urlsplit(environ.get("AWS_ENDPOINT_URL", "")).hostname in ("127.0.0.1", "::1", "localhost")
