"""What the mode of serving changes: what the handlers are told, and what is granted to them and to who asks."""

from __future__ import annotations

from collections.abc import Callable

from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3

from cdk.policies import allow, groups, read_objects, use_key, write_objects
from cdk.settings import Settings
from stepforge.contracts.names import Keys, endpoint_name
from stepforge.contracts.serving import Answers, Fleet

Arns = Callable[..., list[str]]
"""`arns("sagemaker", "endpoint/x")`: ARNs in the stack's account and region."""


def fleet(settings: Settings, bucket: s3.IBucket) -> Fleet:
    """What the handlers of a promotion are told."""
    later = settings.asynchronous
    answers = Answers(
        bucket=bucket.bucket_name,
        max_concurrent=later.max_concurrent,
        success_topic=later.success_topic,
        error_topic=later.error_topic,
    )
    return Fleet(
        instance_type=settings.serve_instance_type,
        instances=settings.serve_instances,
        mode=settings.serve_mode,
        answers=answers if settings.serve_mode == "async" else None,
        share=settings.component if settings.serve_mode == "components" else None,
    )


def remove_candidates(settings: Settings, arns: Arns) -> list[iam.PolicyStatement]:
    """Of promotions that were stopped; and to see whether the champion is there still."""
    own = groups(settings.name)
    tags = ["sagemaker:ListTags"]
    if settings.serve_mode != "components":
        verbs = ["sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint"]
        return [allow(verbs + tags, arns("sagemaker", f"endpoint/{own}-candidate"))]
    verbs = ["sagemaker:DescribeInferenceComponent", "sagemaker:DeleteInferenceComponent"]
    return [
        allow(verbs + tags, arns("sagemaker", f"inference-component/{own}")),
        # The endpoint that no component is left on goes with its configuration.
        allow(
            ["sagemaker:DescribeEndpointConfig", "sagemaker:DeleteEndpointConfig"],
            arns("sagemaker", f"endpoint-config/{own}"),
        ),
        *list_components(settings),
    ]


ENDPOINT_LOGS, COMPONENT_LOGS = "/aws/sagemaker/Endpoints", "/aws/sagemaker/InferenceComponents"
"""https://docs.aws.amazon.com/sagemaker/latest/dg/logging-cloudwatch.html"""


def logs_at(settings: Settings) -> tuple[str, ...]:
    """What the log groups of what serves begin with."""
    return (ENDPOINT_LOGS, COMPONENT_LOGS) if settings.serve_mode == "components" else (ENDPOINT_LOGS,)


def log_groups(settings: Settings, group: str) -> tuple[str, ...]:
    """Of the champion and the candidate of a group of models."""
    names = [endpoint_name(group), endpoint_name(group, candidate=True)]
    return tuple(f"{stem}/{name}" for stem in logs_at(settings) for name in names)


def serves_at(settings: Settings) -> tuple[str, ...]:
    """Kinds of resource that candidate and champion are made of: what is tagged and asked."""
    return ("endpoint", "inference-component") if settings.serve_mode == "components" else ("endpoint",)


def look_at_served(settings: Settings, arns: Arns) -> list[iam.PolicyStatement]:
    own = groups(settings.name)
    return [
        allow(["sagemaker:DescribeEndpoint"], arns("sagemaker", f"endpoint/{own}")),
        *look_at_components(settings, arns),
    ]


def look_at_components(settings: Settings, arns: Arns) -> list[iam.PolicyStatement]:
    """Nothing in the other modes."""
    if settings.serve_mode != "components":
        return []
    own = arns("sagemaker", f"inference-component/{groups(settings.name)}")
    return [allow(["sagemaker:DescribeInferenceComponent"], own)]


def list_components(settings: Settings) -> list[iam.PolicyStatement]:
    """Nothing in the other modes. IAM knows no resource for a list."""
    return [allow(["sagemaker:ListInferenceComponents"], ["*"])] if settings.serve_mode == "components" else []


def deploy_components(settings: Settings, arns: Arns) -> list[iam.PolicyStatement]:
    """Nothing in the other modes."""
    if settings.serve_mode != "components":
        return []
    own = groups(settings.name)
    made = arns("sagemaker", f"inference-component/{own}")
    return [
        allow(["sagemaker:CreateInferenceComponent"], [*made, *arns("sagemaker", f"endpoint/{own}")]),
        allow([f"sagemaker:{verb}InferenceComponent" for verb in ("Describe", "Update", "Delete")], made),
        *list_components(settings),
    ]


def ask(settings: Settings, arns: Arns, bucket: s3.IBucket, key: kms.IKey) -> list[iam.PolicyStatement]:
    """To ask what serves, and where it is asynchronous to write the request and to read the answer."""
    own = groups(settings.name)
    if settings.serve_mode != "async":
        return [
            allow(["sagemaker:InvokeEndpoint"], arns("sagemaker", *(f"{kind}/{own}" for kind in serves_at(settings))))
        ]
    return [
        allow(["sagemaker:InvokeEndpointAsync"], arns("sagemaker", f"endpoint/{own}")),
        write_objects(bucket, Keys.inference("requests")),
        *read_objects(bucket, Keys.inference("answers"), Keys.inference("failures")),
        use_key(key, write=True),
    ]


def answer(settings: Settings, bucket: s3.IBucket, key: kms.IKey) -> list[iam.PolicyStatement]:
    """What the endpoints' role needs for an asynchronous answer; nothing in the other modes."""
    if settings.serve_mode != "async":
        return []
    topics = [arn for arn in (settings.asynchronous.success_topic, settings.asynchronous.error_topic) if arn]
    return [
        *read_objects(bucket, Keys.inference("requests")),
        write_objects(bucket, Keys.inference("answers"), Keys.inference("failures")),
        use_key(key, write=True),
        *([allow(["sns:Publish"], sorted(set(topics)))] if topics else []),
    ]
