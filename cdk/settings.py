"""What differs between environments, and nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

EnvironmentName = Literal["local", "dev"]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: EnvironmentName
    region: str
    account: str | None = None
    """None leaves the account to the credentials that deploy: synth needs none."""
    bucket: str | None = None
    """None leaves the bucket's name to CloudFormation, so that a kept bucket never stands in a new stack's way."""
    domains: tuple[str, ...] = ("facial",)
    """Domains whose model package group and endpoint alarm exist from the start; others are made on first use."""
    train_instance_type: str = "ml.g5.xlarge"
    serve_instance_type: str = "ml.m5.xlarge"
    job_poll_seconds: int = 300
    """Between two looks at a job that another execution runs. A look is 9 history events of at most 25,000: 300 s
    lasts 9 days, 30 s would end after one."""
    endpoint_poll_seconds: int = 30
    finetune_first_seconds: int = 30
    finetune_most_seconds: int = 900
    """Between looks at a paid tune, from the first to the most. A look is 9 history events: 900 s lasts 28 days."""
    finetune_layer_arns: tuple[str, ...] = ()
    """Layers with clients of providers (openai, google-genai); Bedrock and SageMaker need none."""
    tuning_role_arn: str | None = None
    """Role that Bedrock and SageMaker tune with. None: the state machine tunes at neither."""
    sweep_minutes: int = 15
    log_retention_days: Literal[7, 30, 90, 365] = 90
    checkpoint_days: int = 30
    """Checkpoints of jobs that nobody went on with."""
    jobs_in_vpc: bool = False
    """Whether training jobs may run in a VPC of the account's: their role then makes network interfaces."""
    keep_data: bool = True
    """Whether bucket and key outlive the stack, and the stack refuses to be deleted."""
    access_logs: bool = True
    pydantic_layer_arn: str | None = None
    """The handlers need pydantic 2. None where it is importable without a layer."""


# Not re-read at its source: that this public layer carries pydantic 2, and that version 18 is published in the region.
# https://docs.powertools.aws.dev/lambda/python/latest/getting-started/install/
_POWERTOOLS = "arn:aws:lambda:{region}:017000801446:layer:AWSLambdaPowertoolsPythonV3-python311-x86_64:18"

SETTINGS: dict[EnvironmentName, Settings] = {
    "local": Settings(
        name="local",
        region="us-east-1",
        account="000000000000",
        bucket="stepforge-local",
        train_instance_type="ml.m5.large",
        serve_instance_type="ml.m5.large",
        job_poll_seconds=1,
        endpoint_poll_seconds=1,
        finetune_first_seconds=1,
        finetune_most_seconds=1,
        log_retention_days=30,
        keep_data=False,
        access_logs=False,
    ),
    "dev": Settings(name="dev", region="us-east-1", pydantic_layer_arn=_POWERTOOLS.format(region="us-east-1")),
}
