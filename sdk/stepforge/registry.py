"""The model registry: packages, their approval, and the endpoint that answers with what was promoted."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stepforge.absence import existing
from stepforge.artifacts import read_file, read_report
from stepforge.connection import LOCAL, Connection, command
from stepforge.contracts.base import digest, first_problem
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import endpoint_name, group_domain, group_prefix, has_prefix, package_group
from stepforge.contracts.registry import PROMOTION, PROMOTION_EVENT, Approval, ExternalLineage, PackageMetadata
from stepforge.contracts.reports import EvaluationReport, Scored
from stepforge.contracts.serving import InvokeRequest, InvokeResponse, Prompt
from stepforge.errors import InvalidInput, RunFailed, UnknownName
from stepforge.machines import executions
from stepforge.machines.cards import content_of, scores_of
from stepforge.machines.executions import Execution
from stepforge.machines.invoking import Target, invoke
from stepforge.machines.packages import EVALUATION, ROWS, TOKEN_LENGTH, summaries
from stepforge.submitting import transfers


@dataclass(frozen=True)
class Package:
    """One version in a model package group."""

    arn: str
    group: str
    version: int
    approval: Approval
    stage: str
    """`Development`, `Staging` while a promotion tries it, `Production`, `Archived`; empty where nobody set one."""
    created: datetime
    modified: datetime
    description: str = ""
    reason: str = ""
    """Why it is approved, rejected or was not promoted, as the registry holds it."""
    stage_reason: str = ""
    """Why it is in its stage, such as `by version 4`."""
    stage_status: str = ""
    comparison: str = ""
    """What the champion gate found when it was registered."""
    metadata: dict[str, str] = field(default_factory=dict)
    artifact: ArtifactRef | None = None
    endpoint_gone: bool = False
    """Whether it is in Production and nothing answers: somebody deleted its endpoint, or that failed."""
    scored: Scored | None = None
    """The scores that its model card holds, their intervals rounded; `Registry.evaluation` reads and checks them."""

    @property
    def reference(self) -> str:
        """What the CLI takes: `facial/3`."""
        return f"{group_domain(self.group)}/{self.version}"

    @property
    def serving(self) -> bool:
        return self.stage == "Production" and not self.endpoint_gone

    @property
    def state(self) -> str:
        """Production, superseded, rejected, PendingManualApproval, or Approved with what becomes of its promotion."""
        if self.stage == "Production":
            gone = ", but its endpoint is gone" * self.endpoint_gone
            return "Production" + gone + f", though {self.approval} by now" * (self.approval != "Approved")
        if self.approval != "Approved":
            return "rejected" if self.approval == "Rejected" else self.approval
        if self.metadata.get(PROMOTION) in ("refused", "failed"):
            return f"Approved, promotion {self.metadata[PROMOTION]}"
        if self.stage == "Staging":
            return "Approved, in Staging"
        return "superseded" if self.stage == "Archived" else "Approved"

    @property
    def why(self) -> str:
        """The reason for its state: of its stage once it was superseded, else of the last decision about it."""
        return self.stage_reason if self.state == "superseded" else self.reason


class Registry:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def packages(self, domain: str | None = None) -> list[Package]:
        """Packages of a domain, or of all domains, newest first."""
        sagemaker = self._connection.client("sagemaker")
        groups = self._groups()
        if domain is not None and package_group(domain, self._connection.name) not in groups:
            raise UnknownName("model", domain, [group_domain(group) for group in groups])
        chosen = groups if domain is None else [package_group(domain, self._connection.name)]
        arns = [summary["ModelPackageArn"] for group in chosen for summary in summaries(sagemaker, group)]
        return sorted((self._describe(arn) for arn in arns), key=lambda p: (p.group, -p.version))

    def get(self, reference: str) -> Package:
        """`facial/3`, `facial` for its newest version, or an ARN. Raises UnknownName."""
        if reference.startswith("arn:"):
            return self._describe(reference)
        domain, _, version = reference.partition("/")
        packages = self.packages(domain)
        for package in packages:
            if not version or str(package.version) == version:
                return package
        if not packages:
            raise InvalidInput(
                f"no model of {domain!r} is registered: `{self._command(f'run train --domain {domain}')}` makes one"
            )
        raise UnknownName("model", reference, [p.reference for p in packages])

    def approve(self, reference: str, *, comment: str = "", though_rejected: bool = False) -> Package:
        """Approve a version: the event of the change starts its promotion.

        One that serves already is left alone; one that was superseded, whose promotion failed or whose endpoint is gone
        is promoted again.
        Raises InvalidInput for a rejected version, unless `though_rejected`.
        """
        package = self.get(reference)
        if package.approval == "Rejected" and not though_rejected:
            raise InvalidInput(
                f"{package.reference} was rejected ({package.reason or 'no reason is given'}): "
                "to approve and promote it all the same, add --yes"
            )
        if package.approval == "Approved":
            open_ = package.stage not in ("Archived", "Production") and package.stage_status != "CutOff"
            settled = package.metadata.get(PROMOTION) is None and open_
            if package.serving or settled:
                return package
            # Only a change starts a promotion: the approval is taken back first.
            self._update(package, "PendingManualApproval", "it is promoted again")
        return self._decide(package, "Approved", comment)

    def reject(self, reference: str, *, comment: str = "") -> Package:
        """Reject a version: it is not promoted. One that serves goes on until another takes its place."""
        package = self.get(reference)
        return package if package.approval == "Rejected" else self._decide(package, "Rejected", comment)

    def evaluation(self, package: Package) -> EvaluationReport | None:
        """The evaluation that it was registered with; None where stepforge did not register it.

        Raises IntegrityError where it was altered, InvalidInput where it is gone or malformed.
        """
        metadata = PackageMetadata.of(package.metadata)
        if metadata is None:
            return None
        ref = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
        return read_report(self._connection.client("s3"), ref, EVALUATION, EvaluationReport)

    def pull(self, reference: str, folder: Path) -> Path:
        """Download the weights, every file checked against its digest. Raises IntegrityError where one was altered."""
        package = self.get(reference)
        if package.artifact is None:
            raise InvalidInput(f"model {package.reference} names no artifact: it was not registered by stepforge")
        if folder.exists() and any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty: name a new folder")
        transfers.download(self._connection, package.artifact, folder)
        return folder

    def promotion(self, package: Package) -> Execution | None:
        """The execution of `promote` for a package's approval; None where it has not started one yet.

        One that started before the package was last changed belongs to an earlier approval, unless the package serves
        or names the approval as the one that is tried: a promotion's stamps are changes too.
        """
        tried = package.metadata.get(PROMOTION_EVENT) if PROMOTION not in package.metadata else None
        states = self._connection.client("stepfunctions")
        machine = executions.unqualified(self._connection.environment.machines["promote"])
        summaries_ = states.list_executions(stateMachineArn=machine, maxResults=100)["executions"]
        for summary in sorted(summaries_, key=lambda s: s["startDate"], reverse=True):
            found = executions.describe(states, summary["executionArn"])
            if found is None or not found.input or found.input.get("package_arn") != package.arn:
                continue
            named = tried is not None and found.input.get("event_id") == tried
            current = package.serving or named or found.started >= package.modified
            return found if current else None
        return None

    def wait_promoted(self, package: Package, *, timeout_seconds: float = 3600.0) -> Execution:
        """Block until the promotion of an approved package has ended.

        Raises RunFailed with its cause, or where no promotion has started in time: the sweep heals a lost event
        within 15 minutes.
        """
        pause, start_seconds = (0.5, 60.0) if self._connection.name == LOCAL else (15.0, 1200.0)
        began = time.monotonic()
        while (waited := time.monotonic() - began) < timeout_seconds:
            found = self.promotion(package)
            if found is None and (now := self._describe(package.arn)).stage == "Production":
                # The promotion of an earlier approval was under way, and this one started none.
                found = self.promotion(now)
            if found is None and waited > start_seconds:
                raise RunFailed(
                    f"no promotion of {package.reference} has started within {start_seconds:.0f} s of its approval: "
                    "look at the log of the function on-approval and at its dead-letter queue"
                )
            if found is not None and found.status == "SUCCEEDED":
                return found
            if found is not None and found.status != "RUNNING":
                raise RunFailed(f"the promotion of {package.reference} {found.status}: {found.error}: {found.cause}")
            time.sleep(pause)
        raise RunFailed(f"the promotion of {package.reference} has not ended within {timeout_seconds:.0f} s")

    def golden_prompts(self, package: Package, *, count: int = 3) -> list[str]:
        """Prompts of held-out records that the package's evaluation holds answers to."""
        metadata = PackageMetadata.of(package.metadata)
        if metadata is None:
            raise InvalidInput(f"model {package.reference} has no evaluation: it was not registered by stepforge")
        evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
        rows = read_file(self._connection.client("s3"), evaluation, ROWS).splitlines()
        greedy = (row for row in map(json.loads, rows) if row["decoding"] == "greedy")
        return [row["prompt"] for row, _ in zip(greedy, range(count), strict=False)]

    def predict(
        self,
        domain: str,
        prompts: list[str],
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 64,
        seed: int = 0,
        export: str | None = None,
        timeout_seconds: float = 900.0,
    ) -> InvokeResponse:
        """Ask what serves the domain: its endpoint, or the provider of a tuned model that was promoted.

        `timeout_seconds`: of the wait where the endpoint is asynchronous; another answers within a minute or fails.

        `facial/3` asks that version, where it is a provider's: it answers before it is promoted too. `export` names
        a format of the domain, such as `arkit-json`.

        Raises UnknownName for a domain without models, InvalidInput where none was promoted yet, for what no endpoint
        answers and where the model refuses, EnvironmentUnavailable where the endpoint failed or took too long.
        """
        try:
            request = InvokeRequest(
                records=tuple(Prompt(prompt=prompt) for prompt in prompts),
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=seed,
                export=export,
            )
        except ValidationError as error:
            raise InvalidInput(f"this cannot be asked: {first_problem(error)}") from error
        if (external := self._external(domain)) is not None:
            from stepforge.finetune import serving

            s3 = self._connection.client("s3")
            secrets = serving.secrets_for(
                serving.request_of(s3, external).plan, self._connection.client("secretsmanager")
            )
            return serving.answer(s3, external, request, secrets)
        domain = re.sub(r"/\d+$", "", domain)
        runtime = self._connection.client("sagemaker-runtime")
        name, mode = (
            endpoint_name(package_group(domain, self._connection.name)),
            self._connection.environment.serve_mode,
        )
        target = Target(
            name,
            component=name if mode == "components" else None,
            bucket=self._connection.environment.bucket if mode == "async" else None,
        )
        try:
            # Made only where it is needed: a client costs time.
            s3 = None if target.bucket is None else self._connection.client("s3")
            return InvokeResponse.model_validate_json(
                invoke(runtime, s3, target, request, timeout_seconds=timeout_seconds)
            )
        except runtime.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("ValidationError", "ValidationException"):
                if package_group(domain, self._connection.name) not in (groups := self._groups()):
                    raise UnknownName("model", domain, map(group_domain, groups)) from error
                raise InvalidInput(
                    f"domain {domain!r} has no endpoint {name!r} in service: approve a version first "
                    f"(`{self._command(f'registry approve {domain}')}`) and wait for its promotion"
                ) from error
            raise

    def _command(self, words: str) -> str:
        return command(words, self._connection.name)

    def _external(self, reference: str) -> dict[str, str] | None:
        """Metadata of the provider's model that is meant; None where one of ours is."""
        named = re.fullmatch(r"([^/]+)/(\d+)", reference)
        domain, version = (named[1], named[2]) if named else (reference, "")
        group = package_group(domain, self._connection.name)
        for summary in summaries(self._connection.client("sagemaker"), group):
            if version:
                wanted = str(summary.get("ModelPackageVersion")) == version
            else:
                wanted = summary.get("ModelLifeCycle", {}).get("Stage") == "Production"
            if wanted:
                package = self._describe(summary["ModelPackageArn"])
                if ExternalLineage.of(package.metadata) is not None:
                    return package.metadata
                if version and not package.serving:
                    raise InvalidInput(
                        f"{package.reference} is {package.state}: a model of ours answers once it is promoted"
                    )
                return None
        if version:
            raise UnknownName("model", reference, [p.reference for p in self.packages(domain)])
        return None

    def _decide(self, package: Package, approval: Approval, comment: str) -> Package:
        self._update(package, approval, comment or f"{approval} with stepforge")
        return self._describe(package.arn)

    def _update(self, package: Package, approval: Approval, description: str) -> None:
        # Of the change and of what it changes: sent again after a lost answer, it makes no second event.
        token = digest([package.arn, package.modified.isoformat(), approval, description])[:TOKEN_LENGTH]
        self._connection.client("sagemaker").update_model_package(
            ModelPackageArn=package.arn,
            ModelApprovalStatus=approval,
            ApprovalDescription=description,
            ClientToken=token,
        )

    def _groups(self) -> list[str]:
        prefix = group_prefix(self._connection.name)
        pages = self._connection.client("sagemaker").get_paginator("list_model_package_groups")
        names = [
            group["ModelPackageGroupName"]
            for page in pages.paginate(NameContains=prefix)
            for group in page["ModelPackageGroupSummaryList"]
        ]
        return sorted(name for name in names if has_prefix(name, prefix))

    def _describe(self, arn: str) -> Package:
        sagemaker = self._connection.client("sagemaker")
        answer = sagemaker.describe_model_package(ModelPackageName=arn)
        metadata = answer.get("CustomerMetadataProperties", {})
        stage = answer.get("ModelLifeCycle", {}).get("Stage", "")
        containers = answer.get("InferenceSpecification", {}).get("Containers", [])
        source = containers[0].get("ModelDataSource", {}).get("S3DataSource") if containers else None
        sha256 = metadata.get("model_sha256")
        return Package(
            arn=answer["ModelPackageArn"],
            group=answer["ModelPackageGroupName"],
            version=answer["ModelPackageVersion"],
            approval=answer["ModelApprovalStatus"],
            stage=stage,
            endpoint_gone=(
                stage == "Production"
                and ExternalLineage.of(metadata) is None
                and _is_gone(sagemaker, endpoint_name(answer["ModelPackageGroupName"]))
            ),
            created=answer["CreationTime"],
            modified=answer.get("LastModifiedTime", answer["CreationTime"]),
            description=answer.get("ModelPackageDescription", ""),
            reason=answer.get("ApprovalDescription", ""),
            stage_reason=answer.get("ModelLifeCycle", {}).get("StageDescription", ""),
            stage_status=answer.get("ModelLifeCycle", {}).get("StageStatus", ""),
            comparison=str(content_of(answer.get("ModelCard", {})).get("evaluation_observation", "")),
            scored=scores_of(answer.get("ModelCard", {})),
            metadata=metadata,
            artifact=ArtifactRef(uri=source["S3Uri"], sha256=sha256) if source and sha256 else None,
        )


def _is_gone(sagemaker: Any, endpoint: str) -> bool:
    found = existing(sagemaker.describe_endpoint, EndpointName=endpoint)
    return found is None or found["EndpointStatus"] in ("Failed", "Deleting")
