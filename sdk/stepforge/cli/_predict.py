"""`stepforge predict`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import typer

from stepforge.cli._output import emit
from stepforge.client import Client
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.serving import InvokeResponse
from stepforge.errors import InvalidInput

_WIDTH = 110
_REFUSED = 4


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
    """Print an answer to each prompt with the rules' verdict; write the exports. Exit code 4 where one was refused."""
    if export is not None and ((out.exists() and not out.is_dir()) or not out.parent.is_dir()):
        raise InvalidInput(f"--out {str(out)!r} is no folder, nor can one be made there: give another")
    asked = prompts or client.registry.golden_prompts(client.registry.get(domain))
    response = client.registry.predict(domain, asked, temperature=temperature, seed=seed, export=export)
    answers = _answers(asked, response)
    refused = _write(response, answers, domain=domain, format=str(export), out=out)
    lines = [line for number, answer in enumerate(answers, start=1) for line in _lines(number, answer)]
    if not response.verdicts:
        lines.append(f"(not judged: prompts of {domain!r} do not say all that its rules read, or a provider answered)")
    fake = bool(getattr(response, "local_fake", False))  # `finetune.serving.Answered`, which few need to load
    lines.append(f"(weights {response.model_sha256[:12]}{', of a local fake: nothing was trained' * fake})")
    plain = {"model_sha256": response.model_sha256, "local_fake": fake, "answers": answers}
    emit(plain, as_json=as_json, text="\n".join(lines))
    if refused:
        raise typer.Exit(_REFUSED)


def _answers(asked: list[str], response: InvokeResponse) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for prompt, completion in zip(asked, response.completions, strict=True):
        answers.append({"prompt": prompt, "completion": completion})
    for answer, verdict, reading in zip(answers, response.verdicts, response.readings, strict=False):
        answer |= {"verdict": verdict.model_dump(mode="json"), "reading": reading}
    return answers


def _write(response: InvokeResponse, answers: list[dict[str, Any]], *, domain: str, format: str, out: Path) -> int:
    """Write what was exported into `out`, a file for each answer and format. Returns how many were refused."""
    refused = 0
    for number, (exported, answer) in enumerate(zip(response.exports, answers, strict=False), start=1):
        if exported.content is None:
            answer["refusal"] = exported.refusal
            refused += 1
            continue
        # arkit-json and openxr-json end alike: the whole format is in the name.
        path = out / f"{domain}-{number}.{format.replace('-', '.')}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(exported.content)
        answer["file"] = str(path)
    return refused


def _lines(number: int, answer: dict[str, Any]) -> list[str]:
    """The prompt, the verdict, the answer in words and as the model wrote it."""
    lines = []
    if "verdict" in answer:
        lines += [_judged(Verdict.model_validate(answer["verdict"])), *answer["reading"].splitlines()]
    first, *rest = answer["completion"].splitlines() or ["(empty)"]
    lines += [f"answer: {first}", *(f"        {line}" for line in rest)]
    if "file" in answer:
        lines.append(f"exported: {answer['file']}")
    elif "refusal" in answer:
        lines.append(f"not exported: {'refused' if 'verdict' in answer else answer['refusal']}")
    wrapped = (textwrap.wrap(line, _WIDTH, initial_indent="   ", subsequent_indent="     ") for line in lines)
    return [f"{number}. {answer['prompt']}", *(part for whole in wrapped for part in whole)]


def _judged(verdict: Verdict) -> str:
    if not verdict.accepted:
        return f"REFUSED: {verdict.refusal}"
    notes = "; ".join(f"{rule.rule}: {rule.message}".rstrip(": ") for rule in verdict.rules if rule.score < 1)
    return f"accepted, reward {verdict.reward:.2f}" + (f" ({notes})" if notes else "")
