"""SageMaker Studio and MLflow: where people look. Off unless an environment asks; finer settings have their place here.

Who works in Studio starts runs and reads results. They neither approve a model nor read a provider's key.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from cdk.network import Network
from cdk.policies import allow, groups, read_objects, use_key, write_objects
from cdk.serving import ask
from cdk.settings import Settings
from stepforge.contracts.names import parameter

_MLFLOW = "mlflow"
_IDLE_MINUTES = 60
_TRACK = ("AccessUI", "CreateExperiment", "CreateRun", "GetExperiment", "GetExperimentByName", "GetMetricHistory",
          "GetRun", "ListArtifacts", "LogBatch", "LogInputs", "LogMetric", "LogParam", "SearchExperiments",
          "SearchRuns", "SetExperimentTag", "SetTag", "UpdateRun")  # fmt: skip
"""Writing and reading runs. Neither deleting them, nor MLflow's own registry of models."""


class Mlflow(Construct):
    """The serverless MLflow, with its artifacts in the data bucket. `self.arn` is what clients track to."""

    def __init__(self, scope: Construct, settings: Settings, *, bucket: s3.IBucket, key: kms.IKey) -> None:
        super().__init__(scope, "Mlflow")
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        for statement in (*read_objects(bucket, _MLFLOW), write_objects(bucket, _MLFLOW), use_key(key, write=True)):
            role.add_to_policy(statement)
        app = sagemaker.CfnMlflowApp(
            self,
            "App",
            name=f"stepforge-{settings.name}",
            artifact_store_uri=f"s3://{bucket.bucket_name}/{_MLFLOW}",
            role_arn=role.role_arn,
            # A model is registered by the machine `train`, once it has passed; never by a run.
            model_registration_mode="AutoModelRegistrationDisabled",
        )
        app.node.add_dependency(role)
        self.arn = app.attr_arn


class Studio(Construct):
    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        network: Network,
        bucket: s3.IBucket,
        data_key: kms.IKey,
        key: kms.IKey,
        train_machine: str,
        mlflow_arn: str | None,
    ) -> None:
        super().__init__(scope, "Studio")
        self.role = self._role(settings, bucket, data_key, train_machine, mlflow_arn)
        private = network.vpc.select_subnets(subnet_group_name="private")
        idle = sagemaker.CfnDomain.IdleSettingsProperty(
            idle_timeout_in_minutes=_IDLE_MINUTES, lifecycle_management="ENABLED"
        )
        domain = sagemaker.CfnDomain(
            self,
            "Domain",
            domain_name=f"stepforge-{settings.name}",
            auth_mode="IAM",
            # Through the network above and not through SageMaker's own way out.
            app_network_access_type="VpcOnly",
            vpc_id=network.vpc.vpc_id,
            subnet_ids=private.subnet_ids,
            kms_key_id=key.key_arn,
            tag_propagation="ENABLED",
            default_user_settings=sagemaker.CfnDomain.UserSettingsProperty(
                execution_role=self.role.role_arn,
                studio_web_portal="ENABLED",
                default_landing_uri="studio::",
                jupyter_lab_app_settings=sagemaker.CfnDomain.JupyterLabAppSettingsProperty(
                    app_lifecycle_management=sagemaker.CfnDomain.AppLifecycleManagementProperty(idle_settings=idle)
                ),
                sharing_settings=sagemaker.CfnDomain.SharingSettingsProperty(notebook_output_option="Disabled"),
            ),
        )
        # Home folders are people's work.
        domain.apply_removal_policy(cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY)
        for name in settings.studio.profiles:
            sagemaker.CfnUserProfile(self, f"Profile-{name}", domain_id=domain.attr_domain_id, user_profile_name=name)
        self.domain = domain

    def _role(
        self, settings: Settings, bucket: s3.IBucket, data_key: kms.IKey, train_machine: str, mlflow_arn: str | None
    ) -> iam.Role:
        role = iam.Role(
            self,
            "Role",
            role_name=f"stepforge-{settings.name}-studio",
            assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"),
        )
        stack = cdk.Stack.of(self)

        def arn(service: str, resource: str) -> str:
            return f"arn:aws:{service}:{stack.region}:{stack.account}:{resource}"

        folder = parameter(settings.name, "").rstrip("/")
        executions = f"{train_machine.replace(':stateMachine:', ':execution:')}:*"
        for statement in (
            *read_objects(bucket, "raw", "curated", "model-ready", "evaluations", "jobs", "pipelines"),
            write_objects(bucket, "raw", "curated", "model-ready", "evaluations", "pipelines"),
            use_key(data_key, write=True),
            allow(["ssm:GetParameter", "ssm:GetParametersByPath"], [arn("ssm", f"parameter{folder}"),
                                                                     arn("ssm", f"parameter{folder}/*")]),
            allow(["states:StartExecution", "states:ListExecutions"], [train_machine]),
            allow(["states:DescribeExecution", "states:StopExecution", "states:GetExecutionHistory"], [executions]),
            allow(["sagemaker:DescribeTrainingJob", "sagemaker:ListTags"], [arn("sagemaker", "training-job/*")]),
            allow(["sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"],
                  [arn("sagemaker", f"model-package/{groups(settings.name)}/*")]),
            *ask(settings, lambda service, *names: [arn(service, name) for name in names], bucket, data_key),
            allow(["logs:GetLogEvents", "logs:FilterLogEvents"],
                  [arn("logs", "log-group:/aws/sagemaker/TrainingJobs:*")]),
            *([] if mlflow_arn is None else [allow([f"sagemaker-mlflow:{verb}" for verb in _TRACK], [mlflow_arn])]),
        ):  # fmt: skip
            role.add_to_policy(statement)
        return role
