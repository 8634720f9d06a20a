"""Repositories of images, and the build that fills them: in the cloud, after each deployment that changed a source.

No Docker is needed where `cdk deploy` runs and no custom resource waits: the stack's own completion is an event that
starts the build, and the build publishes digests as parameters. Until then `train` says that there is no image.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import aws_cdk as cdk
import jsii
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from cdk.alerts import alarm
from cdk.code import ROOT
from cdk.occasions import dead_letters, on_event, queues
from cdk.policies import allow, arns
from cdk.retention import RETENTION
from cdk.settings import Settings
from stepforge.contracts.names import parameter

NAMES = ("data", "serve", "train", "train-cuda")
_BUILT = ("containers", "jobs/stepforge_jobs", "sdk/stepforge")
# As .dockerignore has it: what is left out there must not make another build here.
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "_bundle", "cli", "local", "report", "scaffold")


@jsii.implements(cdk.ILocalBundling)
class _Sources:
    def try_bundle(self, output_dir: str, *_: object, **__: object) -> bool:
        for name in _BUILT:
            shutil.copytree(ROOT / name, Path(output_dir) / name, ignore=_LEFT_OUT)
        shutil.copy(ROOT / ".dockerignore", output_dir)
        return True


class Images(Construct):
    def __init__(self, scope: Construct, settings: Settings, *, key: kms.IKey) -> None:
        super().__init__(scope, "Images")
        removal = cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY
        self.repositories = {
            name: ecr.Repository(
                self,
                "".join(part.title() for part in name.split("-")),
                repository_name=f"stepforge-{settings.name}-{name}",
                encryption=ecr.RepositoryEncryption.KMS,
                encryption_key=key,
                image_scan_on_push=True,
                image_tag_mutability=ecr.TagMutability.IMMUTABLE,
                removal_policy=removal,
                # A registered model names its image by digest: only what was pushed and never tagged goes.
                lifecycle_rules=[
                    ecr.LifecycleRule(tag_status=ecr.TagStatus.UNTAGGED, max_image_age=cdk.Duration.days(7))
                ],
            )
            for name in NAMES
        }
        self.project = self._project(settings, key)
        self._start_after_deployment(settings)
        alarm(
            self,
            "Failed",
            name=f"stepforge-{settings.name}-images-failed",
            says="the images were not built",
            runbook="The images were not built",
            metric=self.project.metric_failed_builds(period=cdk.Duration.minutes(5)),
        )

    def _project(self, settings: Settings, key: kms.IKey) -> codebuild.Project:
        stack = cdk.Stack.of(self)
        registry = f"{stack.account}.dkr.ecr.{stack.region}.{stack.url_suffix}"
        sources = assets.Asset(
            self,
            "Sources",
            path=str(ROOT),
            asset_hash_type=cdk.AssetHashType.OUTPUT,
            bundling=cdk.BundlingOptions(
                image=cdk.DockerImage.from_registry("public.ecr.aws/docker/library/busybox"), local=_Sources()
            ),
        )
        log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/stepforge/{settings.name}/images",
            retention=RETENTION[settings.log_retention_days],
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        role = iam.Role(self, "BuildRole", assumed_by=iam.ServicePrincipal("codebuild.amazonaws.com"))
        project = codebuild.Project(
            self,
            "Build",
            project_name=project_name(settings.name),
            description=f"stepforge {settings.name}: builds containers/ and publishes their digests",
            source=codebuild.Source.s3(bucket=sources.bucket, path=sources.s3_object_key),
            encryption_key=key,
            environment=codebuild.BuildEnvironment(
                build_image=codebuild.LinuxBuildImage.STANDARD_7_0,
                compute_type=codebuild.ComputeType.MEDIUM,
                # Docker in the build wants it.
                privileged=True,
            ),
            timeout=cdk.Duration.hours(1),
            concurrent_build_limit=1,
            grant_report_group_permissions=False,
            # CDK would grant it more than it needs: what it may do stands below.
            role=role.without_policy_updates(),
            build_spec=codebuild.BuildSpec.from_object(_build_spec(settings, registry)),
            logging=codebuild.LoggingOptions(cloud_watch=codebuild.CloudWatchLoggingOptions(log_group=log_group)),
        )
        for statement in (
            allow(["s3:GetObject", "s3:GetObjectVersion"], [sources.bucket.arn_for_objects(sources.s3_object_key)]),
            allow(["kms:Decrypt", "kms:GenerateDataKey"], [key.key_arn]),
            allow(["logs:CreateLogStream", "logs:PutLogEvents"], [log_group.log_group_arn]),
            allow(["ecr:GetAuthorizationToken"], ["*"]),
            allow(
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload",
                 "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:ListImages", "ecr:PutImage",
                 "ecr:UploadLayerPart"],
                [repository.repository_arn for repository in self.repositories.values()],
            ),
            allow(
                ["ssm:PutParameter"],
                arns(self, "ssm", *(f"parameter{parameter(settings.name, what)}/*" for what in ("images", "code"))),
            ),
        ):  # fmt: skip
            role.add_to_policy(statement)
        return project

    def _start_after_deployment(self, settings: Settings) -> None:
        """A stack is updated only where something in it changed, which is where the sources have another digest."""
        self.dead_letters = dead_letters(self, queues(settings.name)[1])
        alarm(
            self,
            "BuildLost",
            name=f"stepforge-{settings.name}-images-lost",
            says="the build of the images was never started",
            runbook="The images were not built",
            metric=self.dead_letters.metric_approximate_number_of_messages_visible(statistic="Maximum"),
        )
        on_event(
            self,
            "Deployed",
            f"stepforge-{settings.name}-images",
            ("aws.cloudformation", "CloudFormation Stack Status Change"),
            targets.CodeBuildProject(self.project, dead_letter_queue=self.dead_letters),
            detail={
                "stack-id": [cdk.Stack.of(self).stack_id],
                "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]},
            },
        )


def project_name(environment: str) -> str:
    return f"stepforge-{environment}-images"


def _build_spec(settings: Settings, registry: str) -> dict[str, object]:
    options = " --gpu" * settings.gpu + " --vllm" * settings.vllm
    return {
        "version": "0.2",
        "phases": {
            "install": {
                "runtime-versions": {"python": "3.11"},
                "commands": ["pip install --no-deps -r containers/data/requirements.lock"],
            },
            "build": {
                "commands": [
                    f"aws ecr get-login-password | docker login --username AWS --password-stdin {registry}",
                    "docker buildx create --use",
                    "PYTHONPATH=sdk:jobs python containers/publish.py"
                    f" --environment {settings.name} --registry {registry}{options}",
                ]
            },
        },
    }
