"""AWS's partitions: the second part of every ARN. botocore knows which region is in which."""

from __future__ import annotations

from functools import cache
from typing import Any

from stepforge.errors import InvalidInput


@cache
def _session() -> Any:
    from botocore.session import get_session

    return get_session()


@cache
def partition(region: str) -> str:
    """The partition of a region. Raises InvalidInput for what is no region of any.

    >>> partition("eu-west-1"), partition("cn-north-1"), partition("us-gov-west-1")
    ('aws', 'aws-cn', 'aws-us-gov')
    """
    from botocore.exceptions import UnknownRegionError

    try:
        return str(_session().get_partition_for_region(region))
    except UnknownRegionError as error:
        raise InvalidInput(f"{region!r} is no region of AWS that is known here: write it as us-east-1") from error


def arn(service: str, region: str, account: str, resource: str, *, of: str = "") -> str:
    """An ARN in the partition of its region; `of` names the region where the ARN itself has none, as S3's have not.

    >>> arn("logs", "cn-north-1", "111122223333", "log-group:a"), arn("s3", "", "", "b/k", of="us-gov-west-1")
    ('arn:aws-cn:logs:cn-north-1:111122223333:log-group:a', 'arn:aws-us-gov:s3:::b/k')
    """
    return f"arn:{partition(region or of)}:{service}:{region}:{account}:{resource}"
