"""`stepforge registry ...`."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from stepforge.cli import _scores
from stepforge.cli._output import emit, say, table
from stepforge.client import Client
from stepforge.connection import command
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import ExternalLineage
from stepforge.contracts.reports import EvaluationReport, Scored
from stepforge.errors import IntegrityError, InvalidInput
from stepforge.registry import Package


def print_packages(client: Client, domain: str | None, *, as_json: bool) -> None:
    packages = client.registry.packages(domain)
    if not packages:
        what = "model" if domain is None else f"model of {domain!r}"
        train = command(f"run train --domain {domain or 'facial'}", client.connection.name)
        say(f"no {what} is registered yet: `{train}` makes one")
    # Of an older or another's card the evaluation is read.
    reports = [package.scored or _evaluation(client, package) for package in packages]
    emit([_with_scores(p, report) for p, report in zip(packages, reports, strict=True)], as_json=as_json)
    if as_json or not packages:
        return
    rows = [
        (p.reference, p.state, *_scores.short(report), f"{p.created:%Y-%m-%d %H:%M}", (p.why or "-") + _fake(p))
        for p, report in zip(packages, reports, strict=True)
    ]
    table(["MODEL", "STATE", *(split.upper() for split in TEST_SPLITS), "CREATED", "REASON"], rows)
    say("(accepted in %, greedy / sampled; intervals: `stepforge registry show MODEL`)")


def print_package(client: Client, package: Package, *, as_json: bool) -> None:
    report = _evaluation(client, package)
    lines = [
        f"{package.reference}: {package.state}",
        *([f"reason: {package.why}"] if package.why else []),
        *([package.description] if package.description else []),
        *(
            ["", *_scores.lines(report)]
            if report
            else ["there are no scores: it has no evaluation, or none that can be read"]
        ),
        *([f"champion gate: {package.comparison}"] if package.comparison else []),
        "",
        f"arn: {package.arn}",
        f"created: {package.created:%Y-%m-%d %H:%M}",
        *(f"{key}: {value}" for key, value in sorted(package.metadata.items())),
    ]
    emit(_with_scores(package, report), as_json=as_json, text="\n".join(lines))


def approve(client: Client, reference: str, *, comment: str, wait: bool, though_rejected: bool, as_json: bool) -> None:
    package = client.registry.approve(reference, comment=comment, though_rejected=though_rejected)
    if package.serving or not wait:
        said = "it serves already, so nothing is promoted" if package.serving else "its promotion is under way"
        text = f"{package.reference} is {package.approval}: {said}{_fake(package)}"
        emit(_plain(package), as_json=as_json, text=text)
        return
    started = time.monotonic()
    superseded = package.stage_status == "Superseded"
    again = f"; it was superseded {package.stage_reason}, and takes its place back" * superseded
    say(f"{package.reference} is approved{again}; its promotion is under way")
    outcome = client.registry.wait_promoted(package)
    took = time.monotonic() - started
    text = f"{package.reference} answers at its endpoint (promoted in {took:.0f} s){_fake(package)}"
    emit({"package": package.arn, "promotion": outcome.name, "result": outcome.output}, as_json=as_json, text=text)


def reject(client: Client, reference: str, *, comment: str, as_json: bool) -> None:
    package = client.registry.reject(reference, comment=comment)
    text = f"{package.reference} is rejected ({package.reason}): it is not promoted"
    if package.serving:
        text = (
            f"{package.reference} is rejected ({package.reason}), but answers at its endpoint until another is approved"
        )
    emit(_plain(package), as_json=as_json, text=text)


def _fake(package: Package) -> str:
    lineage = ExternalLineage.of(package.metadata)
    return "  [local fake]" if lineage is not None and lineage.external_local_fake == "yes" else ""


def _plain(package: Package) -> dict[str, Any]:
    artifact = None if package.artifact is None else package.artifact.model_dump()
    about = {"reference": package.reference, "state": package.state, "artifact": artifact}
    plain = dataclasses.asdict(dataclasses.replace(package, scored=None))
    del plain["scored"]
    return {**plain, **about}


def _with_scores(package: Package, report: Scored | None) -> dict[str, Any]:
    return {**_plain(package), "scores": _scores.plain(report)}


def _evaluation(client: Client, package: Package) -> EvaluationReport | None:
    """None, and a warning, where it cannot be read: that hides neither the state of the model nor the other models."""
    try:
        return client.registry.evaluation(package)
    except (IntegrityError, InvalidInput) as error:
        say(f"warning: the scores of {package.reference} cannot be read: {error}")
        return None
