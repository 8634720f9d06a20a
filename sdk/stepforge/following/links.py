"""Addresses of a job or a run in the consoles: Studio, CloudWatch, Step Functions, MLflow. Pure; opens nothing.

The console's addresses are documented nowhere: these are the ones that it shows itself. What runs on the local AWS has
none but MLflow's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

from stepforge.connection import Connection
from stepforge.contracts.environment import on_this_machine
from stepforge.following.jobs_log import LOG_GROUP
from stepforge.partitions import partition

_CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}
STUDIO_METADATA = Path("/opt/ml/metadata/resource-metadata.json")
"""Studio leaves its domain there: https://docs.aws.amazon.com/sagemaker/latest/dg/notebooks-run-and-manage-metadata.html"""


def has_console(connection: Connection) -> bool:
    """Whether AWS's console shows what a connection reaches: not where it runs on this machine."""
    elsewhere = connection.endpoint_url is not None or on_this_machine(os.environ)
    return not elsewhere and bool(connection.region) and partition(connection.region) in _CONSOLES


def console(region: str) -> str:
    return f"https://{region}.{_CONSOLES[partition(region)]}"


def log_stream(region: str, stream: str, *, group: str = LOG_GROUP) -> str:
    """One stream in CloudWatch. The console wants names percent-encoded twice, with `$` for the first `%`.

    >>> log_stream("eu-west-1", "job/algo-1", group="/a").partition("#")[2]
    'logsV2:log-groups/log-group/$252Fa/log-events/job$252Falgo-1'
    """
    return f"{_log_group(region, group)}/log-events/{_twice(stream)}"


def log_streams(region: str, job: str, *, group: str = LOG_GROUP) -> str:
    """All streams of a job: it has one a host, and a new one after each interruption."""
    return f"{_log_group(region, group)}$3FlogStreamNameFilter$3D{_twice(job + '/')}"


def training_job(region: str, job: str) -> str:
    """The job in SageMaker's console."""
    return f"{console(region)}/sagemaker/home?region={region}#/jobs/{quote(job, safe='')}"


def execution(region: str, arn: str) -> str:
    """An execution in the console of Step Functions."""
    return f"{console(region)}/states/home?region={region}#/v2/executions/details/{quote(arn, safe=':')}"


def studio(region: str, job: str, domain: str) -> str:
    """The job in SageMaker Studio, by the id of its domain (`d-...`). Empty outside the partition `aws`."""
    if partition(region) != "aws":
        return ""
    return f"https://studio-{domain}.studio.{region}.sagemaker.aws/jobs/train/{quote(job, safe='')}"


def mlflow(uri: str, spec_sha256: str) -> str:
    """The runs of a job's spec in MLflow's own interface; empty for a store that has none (a file, an ARN)."""
    if not uri.startswith(("http://", "https://")):
        return ""
    wanted = f"tags.`stepforge.spec_sha256` = '{spec_sha256}'"
    return f"{uri.rstrip('/')}/#/experiments?searchFilter={quote(wanted, safe='')}"


def job_links(connection: Connection, job: str, *, spec_sha256: str = "") -> dict[str, str]:
    """Where a job can be looked at, by the name of the place. Empty locally, unless MLFLOW_TRACKING_URI is set."""
    found = {}
    if has_console(connection):
        region = connection.region
        found = {"sagemaker": training_job(region, job), "cloudwatch": log_streams(region, job)}
        if (domain := studio_domain()) and (address := studio(region, job, domain)):
            found["studio"] = address
    tracked = mlflow(os.environ.get("MLFLOW_TRACKING_URI", ""), spec_sha256) if spec_sha256 else ""
    return found | ({"mlflow": tracked} if tracked else {})


def studio_domain(metadata: Path = STUDIO_METADATA) -> str:
    """The id of the Studio domain: $SAGEMAKER_STUDIO_DOMAIN, or that of the notebook that this runs in; else empty."""
    if given := os.environ.get("SAGEMAKER_STUDIO_DOMAIN"):
        return given
    try:
        return str(json.loads(metadata.read_text()).get("DomainId", ""))
    except (OSError, ValueError):
        return ""


def _log_group(region: str, group: str) -> str:
    return f"{console(region)}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{_twice(group)}"


def _twice(name: str) -> str:
    return quote(quote(name, safe=""), safe="").replace("%", "$")
