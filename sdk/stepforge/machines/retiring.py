"""Endpoints that serve nobody any more, because a model of another kind took their place.

One of ours keeps running after a provider's model was promoted, so that going back takes seconds; so does the endpoint
of a provider's model (SageMaker's) after any other was. Both are charged by the hour: the sweep removes them once
their successor has served for `keep_days`. Going back later is a promotion like any: the endpoint is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge.absence import is_absent
from stepforge.contracts.names import TUNE_PREFIX, endpoint_name
from stepforge.contracts.registry import SERVES_SINCE, ExternalLineage
from stepforge.machines.packages import summaries


def retire(
    sagemaker: Any, group: str, *, keep_days: float, idle: Callable[[], bool], now: datetime | None = None
) -> list[str]:
    """Delete a group's endpoints that serve nobody for `keep_days`; their names.

    `idle` is asked just before each: while a promotion runs, nothing goes.
    """
    serving = next(_in_stage(sagemaker, group, "Production"), None)
    if serving is None:
        return []
    properties = serving.get("CustomerMetadataProperties", {})
    since = properties.get(SERVES_SINCE)
    if since is None or (now or datetime.now(UTC)) - datetime.fromisoformat(since) < timedelta(days=keep_days):
        return []
    candidates = [] if ExternalLineage.of(properties) is None else [endpoint_name(group)]
    candidates += _of_tunes(sagemaker, group)
    return [name for name in candidates if idle() and _delete(sagemaker, name)]


def _of_tunes(sagemaker: Any, group: str) -> Iterator[str]:
    """Endpoints of archived versions at a provider. Most accounts have none: then nothing is described."""
    pages = sagemaker.get_paginator("list_endpoints").paginate(NameContains=TUNE_PREFIX)
    live = {endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]}
    if not any(name.startswith(TUNE_PREFIX) for name in live):
        return
    for package in _in_stage(sagemaker, group, "Archived"):
        lineage = ExternalLineage.of(package.get("CustomerMetadataProperties", {}))
        if lineage is not None and lineage.external_handle in live:
            yield lineage.external_handle


def _in_stage(sagemaker: Any, group: str, stage: str) -> Iterator[dict[str, Any]]:
    for summary in summaries(sagemaker, group):
        if summary.get("ModelLifeCycle", {}).get("Stage") == stage:
            yield sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])


def _delete(sagemaker: Any, name: str) -> bool:
    """Whether it was there, and not going already."""
    try:
        if sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] != "InService":
            return False
        sagemaker.delete_endpoint(EndpointName=name)
    except AwsError as error:
        if is_absent(error):
            return False
        raise
    return True
