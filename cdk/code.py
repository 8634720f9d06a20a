"""Where the handlers' code comes from: an asset of handlers and SDK, or a zip that the local start uploads."""

from __future__ import annotations

import shutil
from pathlib import Path

import aws_cdk as cdk
import jsii
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stepforge.contracts.names import FUNCTION_RUNTIME

ROOT = Path(__file__).resolve().parent.parent
PYTHON = FUNCTION_RUNTIME.removeprefix("python")
"""Of the functions, and what their layers are built for."""
RUNTIME = lambda_.Runtime(FUNCTION_RUNTIME, lambda_.RuntimeFamily.PYTHON)
BUNDLING_IMAGE = f"public.ecr.aws/sam/build-python{PYTHON}"
"""Named by CDK's interface, and never pulled: bundling happens in this process."""
_FOR_PEOPLE = ("local", "cli", "report", "scaffold", "recipes", "testing", "finetune", "_bundle")
_DATA_FOR_PEOPLE = ("catalogue.toml", "py.typed", "*.lock")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", *_FOR_PEOPLE, *_DATA_FOR_PEOPLE)


@jsii.implements(cdk.ILocalBundling)
class _Copy:
    """Lay handlers and SDK side by side. Runs in this process, so neither Docker nor a network is needed."""

    def try_bundle(self, output_dir: str, *_: object, **__: object) -> bool:
        target = Path(output_dir)
        shutil.copytree(ROOT / "lambdas", target, ignore=_LEFT_OUT, dirs_exist_ok=True)
        shutil.copytree(ROOT / "sdk" / "stepforge", target / "stepforge", ignore=_LEFT_OUT)
        return True


@jsii.implements(cdk.ILocalBundling)
class _CopyForFinetune:
    """The same with providers of paid tunes, their catalogue, and the domains whose verifiers judge."""

    def try_bundle(self, output_dir: str, *_: object, **__: object) -> bool:
        target = Path(output_dir)
        left_out = shutil.ignore_patterns(
            "__pycache__", "*.pyc", *(set(_FOR_PEOPLE) - {"finetune"}), "py.typed", "*.lock"
        )
        shutil.copytree(ROOT / "lambdas", target, ignore=left_out, dirs_exist_ok=True)
        shutil.copytree(ROOT / "sdk" / "stepforge", target / "stepforge", ignore=left_out)
        shutil.copytree(ROOT / "jobs" / "stepforge_jobs", target / "stepforge_jobs", ignore=left_out)
        return True


def bundled_for_finetune() -> lambda_.Code:
    return _bundled(_CopyForFinetune(), name="finetune")


def bundled() -> lambda_.Code:
    return _bundled(_Copy(), name="handlers")


def _bundled(local: cdk.ILocalBundling, *, name: str) -> lambda_.Code:
    image = cdk.DockerImage.from_registry(BUNDLING_IMAGE)
    return lambda_.Code.from_asset(
        str(ROOT),
        # Hash what is shipped: the repository around it changes with every test.
        asset_hash_type=cdk.AssetHashType.OUTPUT,
        # CDK takes two bundlings of one folder for the same where their options are.
        bundling=cdk.BundlingOptions(image=image, local=local, command=[name]),
    )


def uploaded(scope: Construct) -> lambda_.Code:
    """By the parameters AssetBucket and AssetKey, so that the template holds no hash and needs no Node.js."""
    return lambda_.Code.from_cfn_parameters(
        bucket_name_param=cdk.CfnParameter(cdk.Stack.of(scope), "AssetBucket", type="String"),
        object_key_param=cdk.CfnParameter(cdk.Stack.of(scope), "AssetKey", type="String"),
    )
