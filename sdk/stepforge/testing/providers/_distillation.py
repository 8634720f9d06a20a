"""What the local fakes hold a distillation to: pairs of models, and rows, as the vendors' pages have them.

Written from those pages, not from the catalogue, so that a wrong row there is noticed here. AWS: Bedrock user guide
(model distillation), and the checks of its published validator of datasets. Google: Supervised and distillation
fine-tuning for open models; Gemini Distillation Service.
"""

from __future__ import annotations

import json
from typing import Any

MOST_BYTES = 2**30
_NOVA = {
    "amazon.nova-premier-v1:0": ("amazon.nova-pro-v1:0", "amazon.nova-lite-v1:0", "amazon.nova-micro-v1:0"),
    "amazon.nova-pro-v1:0": ("amazon.nova-lite-v1:0", "amazon.nova-micro-v1:0"),
}
_SMALL = ("meta.llama3-1-8b-instruct-v1:0", "meta.llama3-2-1b-instruct-v1:0", "meta.llama3-2-3b-instruct-v1:0")
_LLAMA = {
    "meta.llama3-1-70b-instruct-v1:0": _SMALL,
    "meta.llama3-3-70b-instruct-v1:0": _SMALL,
    "meta.llama3-1-405b-instruct-v1:0": (
        *_SMALL[:2],
        "meta.llama3-1-70b-instruct-v1:0",
        "meta.llama3-3-70b-instruct-v1:0",
    ),
}
_OPEN = (
    *(f"qwen/qwen3@qwen3-{size}" for size in ("4b", "8b", "14b", "32b")),
    *(f"google/gemma3@gemma-3-{size}-it" for size in ("1b", "4b", "12b", "27b")),
)
BEDROCK: dict[str, tuple[str, ...]] = {**_NOVA, **_LLAMA}
VERTEX: dict[str, tuple[str, ...]] = {
    "gemini-3.1-pro": ("gemini-2.5-flash",),
    "deepseek-ai/deepseek-r1-0528-maas": _OPEN,
    "deepseek-ai/deepseek-v3.2-maas": _OPEN,
    "qwen/qwen3-next-80b-a3b-thinking-maas": _OPEN,
}


def refused_by_bedrock(asked: dict[str, Any], data: bytes) -> str | None:
    """Why Bedrock takes no such distillation; None where it does."""
    found = (asked.get("customizationConfig") or {}).get("distillationConfig", {}).get("teacherModelConfig", {})
    teacher = found.get("teacherModelIdentifier", "").rpartition("/")[2]
    if not teacher:
        return "customizationConfig.distillationConfig.teacherModelConfig.teacherModelIdentifier is missing"
    if teacher.split(".")[0] in ("us", "eu", "apac", "global"):
        teacher = teacher.partition(".")[2]
    student = asked["baseModelIdentifier"].rpartition("/")[2]
    if student not in BEDROCK.get(teacher, ()):
        return f"{student!r} cannot be distilled from {teacher!r}"
    if found.get("maxResponseLengthForInference", 1) < 1:
        return "maxResponseLengthForInference must be positive"
    if asked.get("hyperParameters"):
        return "a distillation takes no hyperParameters"
    if len(data) > MOST_BYTES:
        return "the dataset exceeds 1 GB"
    right = sum(_bedrock_row(line) for line in data.splitlines())
    return None if right >= 100 else f"the dataset has {right} valid prompts, and needs 100"


def _bedrock_row(line: bytes) -> bool:
    row = json.loads(line)
    messages = row.get("messages", [])
    return (
        row.get("schemaVersion") == "bedrock-conversation-2024"
        and set(row) <= {"schemaVersion", "system", "messages"}
        and [message.get("role") for message in messages] in (["user"], ["user", "assistant"])
        and all(len(message["content"]) == 1 and message["content"][0]["text"] for message in messages)
    )


def refused_by_vertex(asked: dict[str, Any], data: bytes) -> str | None:
    """Why Vertex takes no such distillation; None where it does."""
    spec = asked["distillationSpec"]
    teacher, student = spec.get("baseTeacherModel"), asked.get("baseModel", "")
    if not teacher:
        return "distillationSpec.baseTeacherModel is missing"
    if student not in VERTEX.get(teacher, ()):
        return f"{student!r} cannot be distilled from {teacher!r}"
    is_open = "@" in student
    if is_open and not asked.get("outputUri"):
        return "an open model needs outputUri"
    if len(data) > MOST_BYTES:
        return "the dataset exceeds 1 GB"
    if not all(_chat_row(line) if is_open else _gemini_row(line) for line in data.splitlines()):
        return "a row is no prompt in the form of this model"
    return None


def _chat_row(line: bytes) -> bool:
    row = json.loads(line)
    roles = [message["role"] for message in row.get("messages", [])]
    return set(row) == {"messages"} and roles in (["user"], ["system", "user"])


def _gemini_row(line: bytes) -> bool:
    row = json.loads(line)
    return set(row) <= {"contents", "systemInstruction"} and [c["role"] for c in row.get("contents", [])] == ["user"]
