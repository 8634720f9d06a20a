"""The IAM policy that one training job needs, and no more: its inputs, its outputs, its keys, its log, its image.

The role that an environment deploys serves all jobs of it; a role with this policy serves one.
https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html, "Permissions for CreateTrainingJob"
"""

from __future__ import annotations

from typing import Any

from stepforge.contracts.names import split_uri
from stepforge.errors import InvalidInput
from stepforge.partitions import arn

_INTERFACES = (
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
)
_NETWORK = tuple(
    f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
)


def job_policy(job: dict[str, Any], *, region: str, account: str, environment_key: str) -> dict[str, Any]:
    """The policy of a job as DescribeTrainingJob tells it, or as it is asked of CreateTrainingJob. Pure.

    environment_key: ARN of the key with which the environment encrypts specs, uploads and checkpoints; a job may have
    another one for its outputs. Not covered: inputs that another job wrote with a key of its own.

    Raises InvalidInput for an input that is no S3 prefix.
    """
    name = job["TrainingJobName"]
    inputs = [_input(channel) for channel in job.get("InputDataConfig", [])]
    output = f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}/"
    checkpoints = job.get("CheckpointConfig", {}).get("S3Uri")
    kept = [] if checkpoints is None else [f"{checkpoints.rstrip('/')}/"]
    logs = arn("logs", region, account, "log-group:/aws/sagemaker/TrainingJobs")
    statements = [
        _allow("ReadInputs", ["s3:GetObject"], _objects([*inputs, *kept], region)),
        *_listing([*inputs, *kept], region),
        _allow("WriteOutputs", ["s3:PutObject", "s3:AbortMultipartUpload"], _objects([output, *kept], region)),
        *([_allow("KeepCheckpointsInStep", ["s3:DeleteObject"], _objects(kept, region))] if kept else []),
        *_keys(job, environment_key),
        _allow("MakeLogGroup", ["logs:CreateLogGroup", "logs:DescribeLogStreams"], [logs, f"{logs}:*"]),
        _allow(
            "WriteLog",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [f"{logs}:log-stream:{name}/*"],
        ),
        _allow("PullImage", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], [_repository(job)]),
        _allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow("PutMetrics", ["cloudwatch:PutMetricData"], ["*"])
        | {"Condition": {"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]}}},
    ]
    if job.get("VpcConfig"):
        network = [arn("ec2", region, account, what) for what in ("network-interface/*", "vpc/*")]
        network += [arn("ec2", region, account, f"subnet/{one}") for one in job["VpcConfig"]["Subnets"]]
        groups = job["VpcConfig"]["SecurityGroupIds"]
        network += [arn("ec2", region, account, f"security-group/{one}") for one in groups]
        statements += [_allow("MakeInterfaces", list(_INTERFACES), network), _allow("LookAtVpc", list(_NETWORK), ["*"])]
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}


def _input(channel: dict[str, Any]) -> str:
    source = channel["DataSource"].get("S3DataSource")
    if source is None or source["S3DataType"] != "S3Prefix":
        raise InvalidInput(f"channel {channel['ChannelName']!r} is no S3 prefix: its policy is not known here")
    uri: str = source["S3Uri"]
    return uri


def _objects(uris: list[str], region: str) -> list[str]:
    return [arn("s3", "", "", f"{bucket}/{key}*", of=region) for bucket, key in map(split_uri, uris)]


def _listing(uris: list[str], region: str) -> list[dict[str, Any]]:
    """One statement for each bucket. Without ListBucket a missing object says 403, and not that it is missing."""
    prefixes: dict[str, list[str]] = {}
    for bucket, key in map(split_uri, uris):
        prefixes.setdefault(bucket, []).append(f"{key}*")
    return [
        _allow(f"List{number}", ["s3:ListBucket"], [arn("s3", "", "", bucket, of=region)])
        | {"Condition": {"StringLike": {"s3:prefix": found}}}
        for number, (bucket, found) in enumerate(sorted(prefixes.items()))
    ]


def _keys(job: dict[str, Any], environment_key: str) -> list[dict[str, Any]]:
    """The spec is encrypted with the environment's key whatever the outputs are with. The volume's key is used through
    grants that SageMaker makes."""
    data, volume = job["OutputDataConfig"].get("KmsKeyId"), job["ResourceConfig"].get("VolumeKmsKeyId")
    used = sorted({environment_key, data or environment_key})
    grants = sorted({environment_key, data or environment_key, volume or environment_key})
    grant = _allow("GrantKeyToSageMaker", ["kms:CreateGrant"], grants)
    return [
        _allow("UseKey", ["kms:Decrypt", "kms:GenerateDataKey"], used),
        # Apart: a look at a key makes no grant, and the condition would never hold.
        _allow("LookAtKey", ["kms:DescribeKey"], grants),
        grant | {"Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}},
    ]


def _repository(job: dict[str, Any]) -> str:
    """The ARN of an image in ECR. Raises InvalidInput for one that lies elsewhere."""
    image = job["AlgorithmSpecification"]["TrainingImage"]
    host, _, rest = image.partition("/")
    parts = host.split(".")
    if len(parts) < 6 or parts[1:3] != ["dkr", "ecr"]:
        raise InvalidInput(f"image {image!r} is in no ECR repository: its policy is not known here")
    repository = rest.partition("@")[0].partition(":")[0]
    return arn("ecr", parts[3], parts[0], f"repository/{repository}")
