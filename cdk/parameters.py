"""What clients read to find this environment: contracts.environment.Environment, a parameter for each field.

`images/{data,serve,train}` and `code/{type}` are left out in every environment. They change with each build of the
images, so whoever builds an image publishes them; a deployment of this stack must not set them back.
"""

from __future__ import annotations

from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from cdk.machines import Machines
from cdk.network import Network
from cdk.roles import Roles
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, parameter
from stepforge.contracts.work import WORK_TYPES


class Parameters(Construct):
    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        bucket: s3.IBucket,
        key: kms.IKey,
        roles: Roles,
        machines: Machines,
        network: Network | None = None,
    ) -> None:
        super().__init__(scope, "Parameters")
        values = {
            "bucket": bucket.bucket_name,
            "key-arn": key.key_arn,
            "training-role-arn": roles.jobs["training"].role_arn,
            "serving-role-arn": roles.serving.role_arn,
            **{f"role-arns/{work}": roles.of(work).role_arn for work in WORK_TYPES},
            "instance-types/train": settings.train_instance_type,
            "instance-types/serve": settings.serve_instance_type,
            "serve-mode": settings.serve_mode,
            **{f"machines/{name}": machines.live(name) for name in MACHINES},
        }
        if network is not None and settings.jobs_in_vpc:
            values["network/subnets"] = ",".join(network.jobs.subnet_ids)
            values["network/security-groups"] = network.job_group.security_group_id
        if settings.budget.submission_usd is not None:
            values["budget-usd"] = f"{settings.budget.submission_usd:g}"
        for name, value in values.items():
            ssm.StringParameter(self, name, parameter_name=parameter(settings.name, name), string_value=value)
