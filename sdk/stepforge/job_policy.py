"""The IAM policy that one training job needs, and no more: its inputs, its outputs, its keys, its log, its image.

The role that an environment deploys serves all jobs of it; a role with this policy serves one.
https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html, "Permissions for CreateTrainingJob"
"""

from __future__ import annotations

from typing import Any

from stepforge.contracts.names import split_uri
from stepforge.errors import InvalidInput

_INTERFACES = (
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
)
_NETWORK = tuple(
    f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
)


def job_policy(job: dict[str, Any], *, region: str, account: str) -> dict[str, Any]:
    """The policy of a job as DescribeTrainingJob tells it, or as it is asked of CreateTrainingJob. Pure.

    Raises InvalidInput for an input that is no S3 prefix.
    """
    name = job["TrainingJobName"]
    inputs = [_input(channel) for channel in job.get("InputDataConfig", [])]
    output = f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}/"
    checkpoints = job.get("CheckpointConfig", {}).get("S3Uri")
    kept = [] if checkpoints is None else [f"{checkpoints.rstrip('/')}/"]
    logs = f"arn:aws:logs:{region}:{account}:log-group:/aws/sagemaker/TrainingJobs"
    statements = [
        _allow("ReadInputs", ["s3:GetObject"], _objects([*inputs, *kept])),
        *_listing([*inputs, *kept]),
        _allow("WriteOutputs", ["s3:PutObject", "s3:AbortMultipartUpload"], _objects([output, *kept])),
        *([_allow("KeepCheckpointsInStep", ["s3:DeleteObject"], _objects(kept))] if kept else []),
        *_keys(job),
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
        network = [f"arn:aws:ec2:{region}:{account}:{what}" for what in ("network-interface/*", "vpc/*")]
        network += [f"arn:aws:ec2:{region}:{account}:subnet/{one}" for one in job["VpcConfig"]["Subnets"]]
        groups = job["VpcConfig"]["SecurityGroupIds"]
        network += [f"arn:aws:ec2:{region}:{account}:security-group/{one}" for one in groups]
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


def _objects(uris: list[str]) -> list[str]:
    return [f"arn:aws:s3:::{bucket}/{key}*" for bucket, key in map(split_uri, uris)]


def _listing(uris: list[str]) -> list[dict[str, Any]]:
    """One statement for each bucket. Without ListBucket a missing object says 403, and not that it is missing."""
    prefixes: dict[str, list[str]] = {}
    for bucket, key in map(split_uri, uris):
        prefixes.setdefault(bucket, []).append(f"{key}*")
    return [
        _allow(f"List{number}", ["s3:ListBucket"], [f"arn:aws:s3:::{bucket}"])
        | {"Condition": {"StringLike": {"s3:prefix": found}}}
        for number, (bucket, found) in enumerate(sorted(prefixes.items()))
    ]


def _keys(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Inputs are encrypted with the key of outputs. The volume's key is used through grants that SageMaker makes."""
    data, volume = job["OutputDataConfig"].get("KmsKeyId"), job["ResourceConfig"].get("VolumeKmsKeyId")
    found = [] if data is None else [_allow("UseKey", ["kms:Decrypt", "kms:GenerateDataKey"], [data])]
    grants = sorted({key for key in (data, volume) if key is not None})
    if grants:
        grant = _allow("GrantKeyToSageMaker", ["kms:CreateGrant", "kms:DescribeKey"], grants)
        found.append(grant | {"Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}})
    return found


def _repository(job: dict[str, Any]) -> str:
    """The ARN of an image in ECR. Raises InvalidInput for one that lies elsewhere."""
    image = job["AlgorithmSpecification"]["TrainingImage"]
    host, _, rest = image.partition("/")
    parts = host.split(".")
    if len(parts) < 6 or parts[1:3] != ["dkr", "ecr"]:
        raise InvalidInput(f"image {image!r} is in no ECR repository: its policy is not known here")
    repository = rest.partition("@")[0].partition(":")[0]
    return f"arn:aws:ecr:{parts[3]}:{parts[0]}:repository/{repository}"
