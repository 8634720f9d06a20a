"""Our jobs through sagemaker's own client: a v3 ModelTrainer that is configured from a job's spec.

Needs the extra `sagemaker` (1 GB, seconds to import), best in an environment of its own. The job that it submits is the
one that `stepforge.submitting.submission.submit` would: same request, same name, and so the same lock.

>>> trainer = model_trainer(client.connection, spec, Resources())  # doctest: +SKIP
>>> trainer.train(wait=False)  # doctest: +SKIP

Not covered: adopting. ModelTrainer creates and nothing else; where the name is taken it raises ResourceInUse.
Its `wait()` returns normally from a job that was stopped: ask `client.jobs` how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stepforge.connection import Connection
from stepforge.contracts.jobs import JobSpec, Resources
from stepforge.errors import EnvironmentUnavailable
from stepforge.machines import attempts
from stepforge.machines.planning import put_spec
from stepforge.submitting.submission import spec_request, training_request

_CONFIG = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
"""In place of the defaults files of the machine: what a job is decided by is its spec, and nothing is reported."""
_VALIDATE_ROLE = "SAGEMAKER_VALIDATE_ROLE"


def model_trainer(connection: Connection, spec: JobSpec, resources: Resources | None = None) -> Any:
    """A ModelTrainer for the next attempt at a job; its spec is written to the bucket.

    Raises EnvironmentUnavailable without the extra, IdentityConflict where the name belongs to another spec.
    """
    environment = connection.environment
    request = spec_request(environment, spec, resources)
    s3 = connection.client("s3")
    found = attempts.find_attempt(
        connection.client("sagemaker"), s3, request, bucket=environment.bucket, key_arn=environment.key_arn,
        poll_seconds=0,
    )  # fmt: skip
    put_spec(s3, spec, bucket=environment.bucket, key_arn=environment.key_arn)
    parameters = training_request(environment, request, found.attempt)
    return trainer_of(connection, parameters, bucket=environment.bucket)


def trainer_of(connection: Connection, parameters: dict[str, Any], *, bucket: str) -> Any:
    """A ModelTrainer that sends these parameters of CreateTrainingJob. Raises EnvironmentUnavailable."""
    try:
        from sagemaker.core import shapes
        from sagemaker.core.helper.session_helper import Session
        from sagemaker.train import ModelTrainer
        from sagemaker.train.configs import Channel, Compute, DataSource, Networking, S3DataSource
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"sagemaker's client is not installed ({error.name} is missing): pip install 'stepforge[sagemaker]', in an "
            "environment of its own"
        ) from error

    class NamedTrainer(ModelTrainer):
        """Its own would be named by the clock, and a name is our only lock."""

        def _create_training_job_args(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            made: dict[str, Any] = super()._create_training_job_args(*arguments, **options)
            return {**made, "training_job_name": parameters["TrainingJobName"]}

    compute, output = parameters["ResourceConfig"], parameters["OutputDataConfig"]
    stopping = parameters["StoppingCondition"]
    options = {
        "sagemaker_session": Session(
            boto_session=connection.session,
            sagemaker_client=connection.client("sagemaker"),
            default_bucket=bucket,
            sagemaker_config=_CONFIG,
        ),
        "role": parameters["RoleArn"],
        "base_job_name": parameters["TrainingJobName"],
        "training_image": parameters["AlgorithmSpecification"]["TrainingImage"],
        "training_input_mode": parameters["AlgorithmSpecification"]["TrainingInputMode"],
        "hyperparameters": parameters["HyperParameters"],
        "environment": parameters["Environment"],
        "input_data_config": [
            Channel(
                channel_name=channel["ChannelName"],
                data_source=DataSource(s3_data_source=S3DataSource(**_snake(channel["DataSource"]["S3DataSource"]))),
            )
            for channel in parameters["InputDataConfig"]
        ],
        "compute": Compute(
            instance_type=compute["InstanceType"],
            instance_count=compute["InstanceCount"],
            volume_size_in_gb=compute["VolumeSizeInGB"],
            volume_kms_key_id=compute.get("VolumeKmsKeyId"),
            enable_managed_spot_training=parameters["EnableManagedSpotTraining"],
        ),
        "networking": Networking(
            enable_network_isolation=parameters["EnableNetworkIsolation"],
            enable_inter_container_traffic_encryption=parameters["EnableInterContainerTrafficEncryption"],
        ),
        "stopping_condition": shapes.StoppingCondition(**_snake(stopping)),
        "output_data_config": shapes.OutputDataConfig(**_snake(output)),
        "checkpoint_config": shapes.CheckpointConfig(**_snake(parameters["CheckpointConfig"])),
        "tags": [{"key": tag["Key"], "value": tag["Value"]} for tag in parameters["Tags"]],
    }
    with _our_role():
        trainer = NamedTrainer(**options)
    metrics = [
        shapes.MetricDefinition(**_snake(metric))
        for metric in parameters["AlgorithmSpecification"]["MetricDefinitions"]
    ]
    if metrics:
        trainer.with_metric_definitions(metrics)
    return trainer.with_retry_strategy(shapes.RetryStrategy(**_snake(parameters["RetryStrategy"])))


@contextmanager
def _our_role() -> Iterator[None]:
    """The client asks of every role the rights of one that trains in a VPC, and refuses ours, which may do less."""
    before = os.environ.get(_VALIDATE_ROLE)
    os.environ[_VALIDATE_ROLE] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VALIDATE_ROLE]
        else:
            os.environ[_VALIDATE_ROLE] = before


def _snake(fields: dict[str, Any]) -> dict[str, Any]:
    """A shape's fields as sagemaker's classes name them: `S3OutputPath` is `s3_output_path`."""
    return {_snake_name(name): value for name, value in fields.items()}


def _snake_name(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
