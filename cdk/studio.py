"""SageMaker Studio and MLflow: where people look. Off unless an environment asks; finer settings have their place here.

What somebody may do in Studio is what cdk/people.py lets them do anywhere, with a workbench of their own beside it.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from cdk.network import Network
from cdk.people import People
from cdk.policies import allow, arns, read_objects, use_key, write_objects
from cdk.settings import Settings, StudioPerson

_MLFLOW = "mlflow"
_IDLE_MINUTES = 60
# One permission for all calls of MLflow's own API, writing and deleting among them: so it is the trainers' alone.
_TRACK = ["sagemaker:CallMlflowAppApi", "sagemaker:CreatePresignedMlflowAppUrl"]


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
    """A domain, and a profile for each person, whose role has the policies of a viewer, a trainer or an approver.

    `trainers`: the roles of the profiles that train.
    """

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        network: Network,
        people: People,
        key: kms.IKey,
        mlflow_arn: str | None,
    ) -> None:
        super().__init__(scope, "Studio")
        self._settings, self._people, self._mlflow_arn = settings, people, mlflow_arn
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
                # Of profiles that were not made here: they look, and start no app.
                execution_role=self._role("viewer", "viewer").role_arn,
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
        self._domain_id = domain.attr_domain_id
        self.trainers: list[iam.Role] = []
        for name, person in settings.studio.profiles.items():
            role = self._role(f"Profile-{name}", person)
            if person == "trainer":
                self.trainers.append(role)
            for statement in self._workbench(name):
                role.add_to_policy(statement)
            profile = sagemaker.CfnUserProfile(
                self,
                f"UserProfile-{name}",
                domain_id=domain.attr_domain_id,
                user_profile_name=name,
                user_settings=sagemaker.CfnUserProfile.UserSettingsProperty(execution_role=role.role_arn),
            )
            profile.node.add_dependency(role)

    def _role(self, name: str, person: StudioPerson) -> iam.Role:
        """What a person may do outside of Studio, and MLflow."""
        role = iam.Role(
            self,
            f"{name}Role",
            role_name=f"stepforge-{self._settings.name}-studio-{name.removeprefix('Profile-').lower()}",
            assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"),
            managed_policies=self._people.of(person),
        )
        if self._mlflow_arn is not None:
            actions = _TRACK if person == "trainer" else []
            role.add_to_policy(allow(["sagemaker:DescribeMlflowApp", *actions], [self._mlflow_arn]))
        return role

    def _workbench(self, profile: str) -> list[iam.PolicyStatement]:
        """Private spaces and apps of one's own. Whoever opens another's would act with that person's role.

        https://docs.aws.amazon.com/sagemaker/latest/dg/studio-updated-spaces-admin-guide.html
        """
        (own,) = arns(self, "sagemaker", f"user-profile/{self._domain_id}/{profile}")
        conditions = {
            "ArnEquals": {"sagemaker:OwnerUserProfileArn": own},
            "StringEquals": {"sagemaker:SpaceSharingType": "Private"},
        }
        spaces, apps = (arns(self, "sagemaker", f"{what}/{self._domain_id}/*") for what in ("space", "app"))
        (domain,) = arns(self, "sagemaker", f"domain/{self._domain_id}")
        return [
            allow([f"sagemaker:{verb}Space" for verb in ("Create", "Update", "Delete")], spaces, **conditions),
            allow(["sagemaker:CreateApp", "sagemaker:DeleteApp"], apps, **conditions),
            allow(["sagemaker:DescribeSpace"], spaces),
            allow(["sagemaker:DescribeApp"], apps),
            allow(["sagemaker:DescribeUserProfile"], [own]),
            allow(["sagemaker:DescribeDomain"], [domain]),
            allow(["sagemaker:ListApps", "sagemaker:ListSpaces"], ["*"]),
            allow(
                ["sagemaker:AddTags"],
                [*spaces, *apps],
                StringEquals={"sagemaker:TaggingAction": ["CreateSpace", "CreateApp"]},
            ),
        ]
