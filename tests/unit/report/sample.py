"""A run as it would be: made up, seeded, with every part that a report can show."""

from __future__ import annotations

import hashlib
import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.previews import Preview
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport, GateReport, Interval, RuleFailure, Score, StageReport
from stepforge.recipes import load_recipe
from stepforge.report.data import (
    AttemptView,
    Curve,
    DatasetView,
    Example,
    JobView,
    Reference,
    ReportData,
    StageView,
)

ACCOUNT = "arn:aws:sagemaker:eu-central-1:123456789012"
STAGES = ("base", "sft", "srl", "rlvr")
TYPES = {"base": "sft", "sft": "sft", "srl": "srl", "rlvr": "rlvr"}
SPLITS = ("test_known", "test_new", "test_retained")
RULES = (
    "prototype_f1",
    "onset_before_apex",
    "display_rule",
    "left_right_symmetry",
    "key_in_rig",
    "blink_wide",
    "range",
)


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def ref(name: str) -> ArtifactRef:
    return ArtifactRef(uri=f"s3://stepforge-dev-123456789012/jobs/{name}/output/model/", sha256=sha(name))


# ── Curves ───────────────────────────────────────────────────────────────────────────────────────


def curve(steps: int, start: float, end: float, *, noise: float, seed: int, every: int = 1, top: float = 9.0) -> Curve:
    """An exponential approach from `start` to `end` with noise, kept within 0..`top` where `start` is not negative."""
    generator = random.Random(seed)
    low = 0.0 if min(start, end) >= 0 else -9.0
    points = []
    for step in range(1, steps + 1):
        value = end + (start - end) * math.exp(-3.5 * step / steps) + generator.gauss(0, noise)
        if step % every == 0 or step == steps:
            points.append((float(step), round(min(top, max(low, value)), 5)))
    return tuple(points)


CURVES: dict[str, tuple[int, dict[str, Curve]]] = {
    "base": (700, {"loss": curve(700, 4.6, 0.92, noise=0.04, seed=1)}),
    "sft": (
        10,
        {
            "loss": curve(10, 1.4, 1.02, noise=0.02, seed=3),
            "kl": curve(10, 0.02, 0.06, noise=0, seed=4, every=10),
        },
    ),
    "srl": (
        100,
        {
            "reward": curve(100, 0.31, 0.83, noise=0.03, seed=5, top=1),
            "zero_spread": curve(100, 0.05, 0.38, noise=0.05, seed=6, top=1),
            "loss": tuple((float(s), random.Random(s).gauss(0, 0.012)) for s in range(1, 101)),
            "format_failures": curve(100, 0.34, 0.01, noise=0.015, seed=8, top=1),
            "kl": curve(100, 0.02, 0.24, noise=0.004, seed=9, every=20),
            "entropy": curve(100, 1.1, 0.42, noise=0.02, seed=10),
        },
    ),
    "rlvr": (
        100,
        {
            "reward": curve(100, 0.33, 0.79, noise=0.045, seed=11, top=1),
            "zero_spread": curve(100, 0.52, 0.31, noise=0.06, seed=12, top=1),
            "loss": tuple((float(s), random.Random(s + 500).gauss(0, 0.02)) for s in range(1, 101)),
            "format_failures": curve(100, 0.03, 0.004, noise=0.008, seed=13, top=1),
            "kl": curve(100, 0.02, 0.17, noise=0.006, seed=14, every=20),
            "entropy": curve(100, 0.44, 0.21, noise=0.02, seed=15),
            "seconds": tuple((float(s), 0.29) for s in range(1, 101)),
            "sampling_seconds": tuple((float(s), 0.15) for s in range(1, 101)),
            "reward_seconds": tuple((float(s), 0.002) for s in range(1, 101)),
            "forward_seconds": tuple((float(s), 0.03) for s in range(1, 101)),
            "backward_seconds": tuple((float(s), 0.06) for s in range(1, 101)),
            "optimiser_seconds": tuple((float(s), 0.01) for s in range(1, 101)),
            "flop_share": tuple((float(s), 0.625) for s in range(1, 101)),
            "token_ratio": tuple((float(s), 2.5) for s in range(1, 101)),
        },
    ),
}  # fmt: skip

SHARED = {
    "optimiser": "AdamW, betas .9 and .95",
    "schedule": "linear warm-up, then linear decay to a tenth",
    "kl_metric": "exact, nats a token, mean over 8 completions of each of 64 prompts (retained), at temperature 1, "
    "cut after 64 tokens",
}
CHOICES: dict[str, dict[str, Any]] = {
    "base": {},
    "sft": {},
    "srl": {
        "similarity": "SequenceMatcher(autojunk=False) over tokens, (generated, expert)",
        "dynamic_sampling": "none",
    },
    "rlvr": {"reward": "1 where every hard rule holds, else 0", "dynamic_sampling": "none"},
}


def stage(name: str) -> StageView:
    steps, curves = CURVES[name]
    before = STAGES[: STAGES.index(name)]
    report = StageReport(
        spec_sha256=sha(f"spec {name}"),
        name=name,
        type=TYPES[name],  # type: ignore[arg-type]
        steps=steps,
        seconds={"base": 57.2, "sft": 1.9, "srl": 13.4, "rlvr": 29.1}[name],
        parameters=203_136,
        tokens={"base": 1_433_600, "sft": 9_840, "srl": 96_411, "rlvr": 274_090}[name],
        parents=tuple(sha(f"model {earlier}") for earlier in before),
        choices=SHARED | CHOICES[name],
        versions={"python": "3.11.9", "stepforge": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        metrics={metric: points[-1][1] for metric, points in curves.items()},
    )
    return StageView(stage=name, report=report, curves=curves)


# ── Evaluations ──────────────────────────────────────────────────────────────────────────────────


def interval(mean: float, *, count: int = 200, half: float | None = None) -> Interval:
    half = 1.96 * math.sqrt(mean * (1 - mean) / count) if half is None else half
    return Interval(mean=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), count=count)


def evaluation(name: str, accepted: dict[str, tuple[float, float]], *, rules: bool = True) -> EvaluationReport:
    """`accepted`: split to (greedy, sampled)."""
    scores = []
    for split, (greedy, sampled) in accepted.items():
        for decoding, mean in (("greedy", greedy), ("sampled", sampled)):
            values = {"accepted": mean, "reward": mean * 0.93, "partial": 0.7 + mean * 0.29, "exact_match": mean * 0.41}
            if decoding == "sampled":
                values |= {f"pass@{k}": 1 - (1 - mean) ** k for k in (1, 2, 4)}
            scores += [
                Score(split=split, decoding=decoding, metric=metric, value=interval(value))  # type: ignore[arg-type]
                for metric, value in values.items()
            ]
    failures = []
    for row, split in enumerate(accepted):
        for column, rule in enumerate(("readable", *RULES)):
            failed = max(0, (11, 38, 17, 9, 4, 2, 0, 0)[column] - (0, -9, 14)[row] * (1 if column else 0))
            failures.append(RuleFailure(split=split, rule=rule, failed=failed if column < 6 else 0, count=200))  # type: ignore[arg-type]
    return EvaluationReport(
        spec_sha256=sha(f"spec evaluate {name}"),
        model_sha256=sha(f"model {name}"),
        manifest_sha256=sha("dataset"),
        scores=tuple(scores),
        rule_failures=tuple(failures) if rules else (),
        metadata={"domain": "facial", "samples": 4, "temperature": 1.0, "rule_failures": "greedy decoding"},
    )


OURS = {"test_known": (0.885, 0.742), "test_new": (0.83, 0.61), "test_retained": (0.985, 0.931)}
CHAMPION = {"test_known": (0.74, 0.47), "test_new": (0.62, 0.355), "test_retained": (0.97, 0.904)}
BASE = {"test_known": (0.0, 0.012), "test_new": (0.0, 0.008), "test_retained": (0.99, 0.958)}


# ── Examples ─────────────────────────────────────────────────────────────────────────────────────


def face(smile: float, brow: float) -> str:
    """A fragment as a domain would draw it: a style of its own, an SVG, a caption."""
    return (
        "<style>.f{fill:none;stroke:currentColor;stroke-width:3;stroke-linecap:round}</style>"
        "<svg viewBox='0 0 200 190' width='200' style='display:block;margin:auto'>"
        "<ellipse class='f' cx='100' cy='95' rx='62' ry='80'/>"
        "<ellipse class='f' cx='76' cy='82' rx='10' ry='6'/><ellipse class='f' cx='124' cy='82' rx='10' ry='6'/>"
        f"<path class='f' d='M62 {62 - brow} q14 -9 28 {brow / 2}'/>"
        f"<path class='f' d='M110 {62 - brow / 2} q14 -9 28 {brow / 2}'/>"
        f"<path class='f' d='M72 130 q28 {smile} 56 0'/></svg>"
        "<p style='text-align:center;margin:6px 0 0'>rig 2, apex at frame 8</p>"
    )


COMPLETION = (
    "AU 1 2 5 26\nAU1:4 AU2:3 AU5:4 AU26:5\nbrowInnerUp .8 browOuterUp .6 eyeWide .8 jawOpen 1.0\non5 apex8 off10"
)
PROMPTS = (
    "P:surprise S:anger lv4 suppressed rig2 :",
    "P:joy S:contempt lv2 open rig1 :",
    "P:fear S:surprise lv5 open rig2 :",
    "P:sadness S:joy lv3 masked rig1 :",
)


def example(index: int, *, accepted: bool, drawn: bool = True) -> Example:
    split = SPLITS[index % 3]
    preview = Preview(
        record=f"facial-{split}-{index:05d}",
        split=split,  # type: ignore[arg-type]
        decoding="greedy" if index % 2 else "sampled",
        accepted=accepted,
        prompt=PROMPTS[index % 4],
        completion=COMPLETION,
        failed_rules=() if accepted or index == 2 else (RULES[index % 5], RULES[(index + 2) % 5])[: 1 + index % 2],
        reason="step 3 names the key 'browDownL', which rig2 has not" if not accepted and index == 2 else "",
        file=f"previews/{index}.html" if drawn else None,
    )
    return Example(preview=preview, fragment=face(22 - 9 * index, 4 * index) if drawn else None)


# ── The run ──────────────────────────────────────────────────────────────────────────────────────

INSTANCES = {"dataset": "ml.m5.large", "gate": "ml.m5.large", "evaluate": "ml.g5.xlarge"}
BILLABLE = {"dataset": 74, "gate": 61, "base": 412, "sft": 96, "srl": 388, "rlvr": 1210, "evaluate": 233}


def attempt(
    stage_name: str, kind: str, number: int, *, local: bool, status: str = "Completed", failure: str = ""
) -> AttemptView:
    name = f"{kind}-{sha(f'spec {stage_name}')[:12]}-a{number}"
    return AttemptView(
        name=name,
        arn=f"{ACCOUNT}:training-job/{name}",
        status=status,
        instance_type=INSTANCES.get(kind, "ml.g5.xlarge"),
        billable_seconds=BILLABLE[stage_name] if status == "Completed" else 141,
        spot=kind == "rlvr",
        failure=failure,
    )


def job(stage_name: str, settings: dict[str, Any], *, local: bool) -> JobView:
    kind = TYPES.get(stage_name, stage_name)
    tried = [attempt(stage_name, kind, 0, local=local)]
    if stage_name == "rlvr":
        failure = "ClientError: spot capacity was reclaimed"
        tried = [
            attempt(stage_name, kind, 0, local=local, status="Stopped", failure=failure),
            attempt(stage_name, kind, 1, local=local),
        ]
    artifact = {"dataset": "dataset", "gate": "gate", "evaluate": "evaluation"}.get(stage_name, f"model {stage_name}")
    return JobView(
        stage=stage_name,
        type=kind,  # type: ignore[arg-type]
        name=tried[-1].name,
        status="Completed",
        spec_sha256=sha(f"spec {stage_name}"),
        code_sha256=sha(f"code {kind}"),
        attempts=tuple(tried),
        artifact=ref(tried[-1].name).model_copy(update={"sha256": sha(artifact)}),
        settings=settings,
    )


def report_data(**changes: Any) -> ReportData:
    """A finished run with a champion, a base, previews and prices. `changes` replace fields."""
    recipe = load_recipe("facial")
    local = changes.get("environment") == "local"
    works: list[tuple[str, Any]] = [("dataset", recipe.dataset), ("gate", recipe.gate)]
    works += [(work.name, work) for work in recipe.stages] + [("evaluate", recipe.evaluation)]
    started = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)
    challenger = evaluation("rlvr", OURS)
    plain: dict[str, Any] = {
        "run": f"train-{sha('pipeline')[:12]}-r0",
        "domain": "facial",
        "environment": "dev",
        "status": "SUCCEEDED",
        "started": started,
        "stopped": started + timedelta(minutes=47, seconds=12),
        "pipeline_sha256": sha("pipeline"),
        "image": f"123456789012.dkr.ecr.eu-central-1.amazonaws.com/stepforge-train@sha256:{sha('image')}",
        "group": "stepforge-facial",
        "package_arn": f"{ACCOUNT}:model-package/stepforge-facial/7",
        "package": {"reference": "facial/7", "state": "PendingManualApproval"},
        "version": "0.1.0",
        "jobs": tuple(job(name, work.model_dump(mode="json"), local=local) for name, work in works),
        "dataset": DatasetView(
            sha256=sha("dataset"),
            counts={"corpus": 12_000, "train": 64, "rl": 800, "test_known": 200, "test_new": 200, "test_retained": 200},
            verifier="facial@1",
        ),
        "gate": GateReport(
            manifest_sha256=sha("dataset"),
            passed=True,
            checked={"schema": 13_464, "integrity": 9, "leak": 13_464, "verifier": 2_000, "smoke": 600},
        ),
        "stages": tuple(stage(name) for name in STAGES),
        "evaluation": challenger,
        "references": (
            Reference(role="champion", name="facial/6", evaluation=evaluation("old", CHAMPION, rules=False)),
            Reference(role="base", name="base", evaluation=evaluation("base", BASE, rules=False)),
        ),
        "comparison": Comparison(
            better=True, champion=f"{ACCOUNT}:model-package/stepforge-facial/6", reasons=("better on test_new/greedy",)
        ),
        "examples": tuple(example(i, accepted=True) for i in range(4))
        + tuple(example(i, accepted=False) for i in range(4)),
        "completions": 3000,
        "unreadable": {"no apex in the last step": 18, "step 3 names a key that rig2 has not": 11, "did not end": 4},
        "prices": {"ml.m5.large": 0.138, "ml.g5.xlarge": 1.758},
        "command": "stepforge run train --domain facial --set stages.rlvr.steps=100 --env dev",
    }
    return ReportData.model_validate(plain | changes)
