"""`stepforge registry ...`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from stepforge.cli._output import emit, say, table
from stepforge.client import Client
from stepforge.registry import Package


def print_packages(packages: list[Package], *, as_json: bool) -> None:
    emit([dataclasses.asdict(p) for p in packages], as_json=as_json)
    if not as_json:
        columns = ["MODEL", "APPROVAL", "STAGE", "CREATED", "WEIGHTS"]
        table(
            columns,
            [
                (
                    p.reference,
                    p.approval,
                    p.stage or "-",
                    f"{p.created:%Y-%m-%d %H:%M}",
                    p.artifact.sha256[:12] if p.artifact else "-",
                )
                for p in packages
            ],
        )


def print_package(package: Package, *, as_json: bool) -> None:
    lines = [
        f"{package.reference}: {package.approval}" + (f", {package.stage}" if package.stage else ""),
        f"arn: {package.arn}",
        *([package.description] if package.description else []),
        *(f"{key}: {value}" for key, value in sorted(package.metadata.items())),
    ]
    emit(dataclasses.asdict(package), as_json=as_json, text="\n".join(lines))


def approve(client: Client, reference: str, *, comment: str, wait: bool, as_json: bool) -> None:
    package = client.registry.approve(reference, comment=comment)
    if not wait:
        emit(dataclasses.asdict(package), as_json=as_json, text=f"{package.reference}: {package.approval}")
        return
    started = time.monotonic()
    say(f"{package.reference} is approved; its promotion is under way")
    outcome = client.registry.wait_promoted(package)
    text = f"{package.reference} answers at its endpoint (promoted in {time.monotonic() - started:.0f} s)"
    emit({"package": package.arn, "promotion": outcome.name, "result": outcome.output}, as_json=as_json, text=text)


def predict(
    client: Client,
    domain: str,
    prompts: list[str],
    *,
    temperature: float,
    seed: int,
    export: str | None,
    out: Path,
    as_json: bool,
) -> None:
    asked = prompts or client.registry.golden_prompts(client.registry.get(domain))
    answer = client.registry.predict(domain, asked, temperature=temperature, seed=seed, export=export)
    pairs = list(zip(asked, answer.completions, strict=True))
    plain: dict[str, Any] = {
        "model_sha256": answer.model_sha256,
        "answers": [{"prompt": prompt, "completion": completion} for prompt, completion in pairs],
    }
    lines = [f"{prompt} {completion}" for prompt, completion in pairs]
    for number, (exported, listed) in enumerate(zip(answer.exports, plain["answers"], strict=False)):
        if exported.content is None:
            listed["refusal"] = exported.refusal
            lines.append(f"not exported: {exported.refusal}")
            continue
        path = out / f"{domain}-{number}.{str(export).rpartition('-')[2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(exported.content)
        listed["file"] = str(path)
        lines.append(f"exported: {path}")
    emit(plain, as_json=as_json, text="\n".join([*lines, f"(weights {answer.model_sha256[:12]})"]))
