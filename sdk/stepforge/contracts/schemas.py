"""JSON Schemas of what crosses a boundary, for those who write or read it in another language."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from stepforge.contracts.decisions import Criteria, Decision, Outcome, Question
from stepforge.contracts.domains.facial import FacialArtifact, FacialScenario
from stepforge.contracts.environment import Environment
from stepforge.contracts.events import PackageStateChange
from stepforge.contracts.jobs import JobOutcome, JobRequest, JobSpec
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.previews import Preview
from stepforge.contracts.records import Record
from stepforge.contracts.registry import Comparison, PackageMetadata, Promotion, TrainOutput
from stepforge.contracts.reports import EvaluationReport, GateReport, StageReport
from stepforge.contracts.requests import Answer, ApprovalRequest, AssemblySpec, EvaluationSpec
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.serving import InvokeRequest, InvokeResponse
from stepforge.contracts.user_records import ShortRecord

MODELS: tuple[type[BaseModel], ...] = (
    Answer,
    ApprovalRequest,
    AssemblySpec,
    Comparison,
    Criteria,
    Decision,
    Environment,
    EvaluationReport,
    EvaluationSpec,
    FacialArtifact,
    FacialScenario,
    GateReport,
    InvokeRequest,
    InvokeResponse,
    JobOutcome,
    JobRequest,
    JobSpec,
    Manifest,
    Outcome,
    PackageMetadata,
    PackageStateChange,
    PipelineSpec,
    PipelineState,
    Preview,
    Promotion,
    Question,
    Record,
    ShortRecord,
    StageReport,
    TrainOutput,
    Verdict,
)


def schema_text(model: type[BaseModel]) -> str:
    """The JSON Schema (2020-12) of one contract, as it is committed below docs/schemas."""
    plain = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write a file for each contract. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{model.__name__}.json" for model in MODELS]
    for path, model in zip(paths, MODELS, strict=True):
        path.write_text(schema_text(model))
    return paths
