"""Lists with the filters, order and pages that SageMaker's List operations share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from stepforge.local.sagemaker.errors import validation

Json = Any


def _seconds(value: Json) -> float:
    if isinstance(value, int | float):
        return float(value)
    return datetime.fromisoformat(value).timestamp()


def page(request: Json, items: list[Json], member: str, *, name: str, filters: dict[str, str] | None = None) -> Json:
    """One page of `items` as `{member: [...], NextToken}`. `filters`: request field to the item's that it equals."""
    for field, key in (filters or {}).items():
        if field in request:
            items = [item for item in items if item.get(key) == request[field]]
    if "NameContains" in request:
        items = [item for item in items if request["NameContains"].lower() in item.get(name, "").lower()]
    for key in ("CreationTime", "LastModifiedTime"):
        if f"{key}After" in request:
            items = [item for item in items if item.get(key, 0) > _seconds(request[f"{key}After"])]
        if f"{key}Before" in request:
            items = [item for item in items if item.get(key, 0) < _seconds(request[f"{key}Before"])]
    by = {"Name": name, "Status": "TrainingJobStatus", "ModelArn": "ModelArn"}.get(
        request.get("SortBy", ""), "CreationTime"
    )
    descending = request.get("SortOrder", "Descending") == "Descending"
    items = sorted(items, key=lambda item: (item.get(by, ""), item.get(name, "")), reverse=descending)
    token = request.get("NextToken", "0")
    if not token.isdigit():
        raise validation(f"NextToken {token!r} is not one that was handed out")
    start, size = int(token), request.get("MaxResults", 10)
    answer = {member: items[start : start + size]}
    return answer | {"NextToken": str(start + size)} if start + size < len(items) else answer
