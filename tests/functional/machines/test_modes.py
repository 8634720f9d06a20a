"""The same promotion in the other modes of serving: asynchronous endpoints, and components that share one endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepforge.contracts.names import endpoint_name, package_group
from stepforge.contracts.serving import Answers, Fleet, Share
from stepforge.registry import Registry

from .conftest import Deployed, serving
from .fake_image import answer
from .versions import register_version


def succeeded(ended: dict[str, Any]) -> None:
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))


def test_an_asynchronous_endpoint_is_promoted_smoke_tested_and_asked(deployed: Deployed, tmp_path: Path) -> None:
    endpoint = endpoint_name(package_group("slow", "local"))
    answers = Answers(bucket=deployed.bucket, max_concurrent=2)
    fleet = Fleet(instance_type="ml.m5.large", mode="async", answers=answers)
    good, good_sha256 = register_version(deployed, tmp_path, "slow", "444444444444")
    with serving(deployed, fleet):
        succeeded(deployed.approve(good))
        described = deployed.aws.client("sagemaker").describe_endpoint(EndpointName=endpoint)
        config = described["AsyncInferenceConfig"]
        assert config["OutputConfig"]["S3OutputPath"] == f"s3://{deployed.bucket}/inference/answers"
        assert config["OutputConfig"]["KmsKeyId"].startswith("arn:aws:kms:")
        assert config["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 2}
        said = Registry(deployed.connection).predict("slow", ["p1"], timeout_seconds=20)
        assert (said.model_sha256, said.completions) == (good_sha256, (answer("p1", good_sha256),))


def test_components_of_one_endpoint_take_each_others_place(deployed: Deployed, tmp_path: Path) -> None:
    group = package_group("shared", "local")
    fleet = Fleet(instance_type="ml.m5.large", mode="components", share=Share(memory_mb=512))
    sagemaker, registry = deployed.aws.client("sagemaker"), Registry(deployed.connection)
    good, good_sha256 = register_version(deployed, tmp_path, "shared", "888888888888")
    better, better_sha256 = register_version(deployed, tmp_path, "shared", "999999999999")

    def components() -> list[str]:
        found = sagemaker.list_inference_components(EndpointNameEquals=group)["InferenceComponents"]
        return [component["InferenceComponentName"] for component in found]

    with serving(deployed, fleet):
        for package, sha256 in ((good, good_sha256), (better, better_sha256)):
            succeeded(deployed.approve(package))
            assert components() == [group]
            assert registry.predict("shared", ["p1"]).model_sha256 == sha256
        described = sagemaker.describe_inference_component(InferenceComponentName=group)
        assert described["Specification"]["ComputeResourceRequirements"]["MinMemoryRequiredInMb"] == 512
        assert described["LastDeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"] == [
            {"AlarmName": f"{group}-5xx"}
        ]
