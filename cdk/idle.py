"""What an environment costs in a month in which nobody works, read off its templates: `python -m cdk.idle dev`.

Endpoints are not in the templates: they come with a promotion, and `endpoint_usd` is what one costs while it stands.
Not covered: what is used (jobs, requests, data), taxes, discounts, and prices of other regions.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stepforge.errors import UnknownPrice

PRICES = Path(__file__).with_name("idle.toml")
HOURS = 730
"""Of a month."""


def idle_usd(templates: Iterable[Mapping[str, Any]], prices: Mapping[str, Any] | None = None) -> dict[str, float]:
    """USD a month by kind of resource, dearest first. Raises UnknownPrice for a kind that the table does not name.

    >>> idle_usd([{"Resources": {"K": {"Type": "AWS::KMS::Key"}}}])["AWS::KMS::Key x 1"]
    1.0
    """
    table = prices or tomllib.loads(PRICES.read_text(encoding="utf-8"))
    counted: Counter[str] = Counter()
    found: dict[str, float] = dict(table["stored"])
    for template in templates:
        for resource in template["Resources"].values():
            kind, properties = resource["Type"], resource.get("Properties", {})
            if kind == "AWS::S3::Bucket" and properties.get("MetricsConfigurations"):
                found["request metrics of S3"] = found.get("request metrics of S3", 0.0) + table["metrics"]["bucket"]
            if kind in table["free"]["kinds"]:
                continue
            if kind not in table["monthly_usd"]:
                raise UnknownPrice(f"{kind!r} has no price: name it in {PRICES.name}, under monthly_usd or free.kinds")
            counted[kind] += _units(kind, properties)
    found |= {f"{kind} x {count}": table["monthly_usd"][kind] * count for kind, count in counted.items() if count}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def endpoint_usd(instance_type: str, instances: int) -> float:
    """USD a month of one live endpoint. Raises UnknownPrice for a type that the table does not name.

    >>> endpoint_usd("ml.m5.xlarge", 2)
    335.8
    """
    hourly = tomllib.loads(PRICES.read_text(encoding="utf-8"))["endpoint_hourly_usd"]
    if instance_type not in hourly:
        raise UnknownPrice(f"{instance_type!r} has no price: name it in {PRICES.name}, under endpoint_hourly_usd")
    return round(hourly[instance_type] * HOURS * instances, 2)


def _units(kind: str, properties: Mapping[str, Any]) -> int:
    if kind != "AWS::EC2::VPCEndpoint":
        return 1
    return len(properties["SubnetIds"]) if properties.get("VpcEndpointType") == "Interface" else 0


def table(costs: Mapping[str, float]) -> str:
    """A Markdown table with its sum."""
    rows = [f"| {name} | {usd:.2f} |" for name, usd in costs.items()]
    return "\n".join(
        ["| | USD a month |", "| --- | ---: |", *rows, f"| **together** | **{sum(costs.values()):.2f}** |"]
    )


def main(name: str) -> None:
    from cdk.app import build, templates

    with tempfile.TemporaryDirectory() as outdir:
        print(table(idle_usd(templates(build(name, outdir=outdir)).values())))


if __name__ == "__main__":
    main(sys.argv[1])
