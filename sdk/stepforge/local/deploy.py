"""Deploys the environment `local` into a local AWS: the committed template and the handlers, by CloudFormation.

The functions' code is lambdas/ alone: their workers import stepforge from where the server does. Its digest travels in
the zip, so that a change of the SDK replaces warm workers too.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import stepforge
from stepforge.errors import EnvironmentUnavailable
from stepforge.installation.assets import folder
from stepforge.local.lifecycle import LocalAws

STACK = "stepforge-local"
ASSETS = "stepforge-local-assets"
TEMPLATE = Path(__file__).with_name("template.json")

_NOT_IN_HANDLERS = ("local", "cli", "_bundle", "__pycache__")
_SECONDS = 120.0
_DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE")
_DEAD = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED", "UPDATE_ROLLBACK_FAILED")
"""States that a stack can only leave by being deleted."""


def deploy(aws: LocalAws) -> bool:
    """Bring the stack `stepforge-local` up to date. Returns whether there was something to do.

    Where nothing changed this is one request. Raises EnvironmentUnavailable with the resource that failed and why.
    """
    cloudformation = aws.client("cloudformation")
    digest = sources_digest()
    key = f"handlers-{digest[:16]}.zip"
    stack = _stack(cloudformation)
    if stack is not None and stack["StackStatus"].endswith("_IN_PROGRESS"):
        stack = _wait(cloudformation, started=None)
    if stack is not None and stack["StackStatus"] in _DONE and _parameter(stack, "AssetKey") == key:
        return False
    if stack is not None and stack["StackStatus"] in _DEAD:
        cloudformation.delete_stack(StackName=STACK)
        stack = _wait(cloudformation, started=None)
    template_url = _upload(aws, key, digest)
    request = {
        "StackName": STACK,
        "TemplateURL": template_url,
        "Parameters": [
            {"ParameterKey": "AssetBucket", "ParameterValue": ASSETS},
            {"ParameterKey": "AssetKey", "ParameterValue": key},
        ],
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
    }
    if stack is None:
        cloudformation.create_stack(**request, OnFailure="DO_NOTHING")
    else:
        cloudformation.update_stack(**request)
    ended = _wait(cloudformation, started=time.monotonic())
    if ended is None or ended["StackStatus"] not in _DONE:
        raise EnvironmentUnavailable(_failure(cloudformation, ended))
    return True


def sources_digest() -> str:
    """SHA-256 over the template, the handlers and what they import of stepforge: 64 hexadecimal characters."""
    state = hashlib.sha256(TEMPLATE.read_bytes())
    package = Path(stepforge.__file__).parent
    for root, left_out in ((folder("lambdas"), ("__pycache__",)), (package, _NOT_IN_HANDLERS)):
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            if not set(relative.parts) & set(left_out):
                state.update(f"\0{relative.as_posix()}\0".encode())
                state.update(path.read_bytes())
    return state.hexdigest()


def handlers_zip(digest: str) -> bytes:
    """The handlers as Lambda takes them. The same sources give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder("lambdas").glob("*.py")):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
        archive.writestr(zipfile.ZipInfo("sources.sha256"), digest)
    return buffer.getvalue()


def _upload(aws: LocalAws, key: str, digest: str) -> str:
    s3 = aws.client("s3")
    if ASSETS not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=ASSETS)
    s3.put_object(Bucket=ASSETS, Key=key, Body=handlers_zip(digest))
    # A template in the request itself may have 51,200 bytes at most.
    template_key = f"template-{digest[:16]}.json"
    s3.put_object(Bucket=ASSETS, Key=template_key, Body=TEMPLATE.read_bytes())
    return f"{aws.endpoint_url}/{ASSETS}/{template_key}"


def _stack(cloudformation: Any) -> dict[str, Any] | None:
    try:
        return cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]
    except cloudformation.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def _wait(cloudformation: Any, *, started: float | None) -> dict[str, Any] | None:
    """The stack once it rests. Raises EnvironmentUnavailable where it does not within two minutes."""
    deadline = (started or time.monotonic()) + _SECONDS
    while True:
        stack = _stack(cloudformation)
        if stack is None or stack["StackStatus"] == "DELETE_COMPLETE":
            return None
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return stack
        if time.monotonic() > deadline:
            raise EnvironmentUnavailable(f"the stack {STACK!r} is still {stack['StackStatus']} after {_SECONDS:.0f} s")
        time.sleep(0.1)


def _parameter(stack: dict[str, Any], name: str) -> str | None:
    return next((p.get("ParameterValue") for p in stack.get("Parameters", []) if p["ParameterKey"] == name), None)


def _failure(cloudformation: Any, stack: dict[str, Any] | None) -> str:
    status = "gone" if stack is None else stack["StackStatus"]
    events = cloudformation.describe_stack_events(StackName=STACK)["StackEvents"] if stack else []
    for event in reversed(events):
        if event["ResourceStatus"].endswith("_FAILED") and event["LogicalResourceId"] != STACK:
            reason = event.get("ResourceStatusReason", "no reason was given")
            return f"the stack {STACK!r} is {status}: {event['LogicalResourceId']} ({event['ResourceType']}): {reason}"
    reason = (stack or {}).get("StackStatusReason", "it names no resource that failed")
    return f"the stack {STACK!r} is {status}: {reason}"
