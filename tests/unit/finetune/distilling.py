"""A distillation at each provider that has one, ready to be launched against its local server."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from stepforge.economics.catalogue import ModelPrice, TeacherPrices
from stepforge.finetune import TuneSpec
from stepforge.finetune.datasets import write
from stepforge.finetune.spec import Teacher
from stepforge.testing.providers import LocalBedrock, LocalVertex
from tests.unit.finetune.conftest import PRICE
from tests.unit.finetune.test_datasets import make
from tests.unit.finetune.test_providers import Case, bedrock_case, vertex_case

NOVA, GEMINI, QWEN = "amazon.nova-micro-v1:0", "gemini-2.5-flash", "qwen/qwen3@qwen3-4b"
TEACHERS = {
    NOVA: "us.amazon.nova-pro-v1:0",
    GEMINI: "gemini-3.1-pro",
    QWEN: "qwen/qwen3-next-80b-a3b-thinking-maas",
}


def rate(usd: str, kind: str) -> ModelPrice:
    return ModelPrice.model_validate({**PRICE.model_dump(), "kind": kind, "usd": Decimal(usd)})


def distillation_price(teacher: str) -> ModelPrice:
    """1 USD for a million tokens that the teacher reads, 3 for those that it says, 2 for those that are trained on."""
    rates = TeacherPrices(model=teacher, input=rate("1", "input"), output=rate("3", "output"))
    return PRICE.model_copy(update={"usd": Decimal(2), "teacher": rates})


def distillation_spec(folder: Path, student: str, **given: Any) -> TuneSpec:
    provider: Any = "bedrock" if student == NOVA else "vertex"
    teacher = Teacher.model_validate({"model": TEACHERS[student], "max_response_tokens": 200, **given})
    records = [make(f"{n} + 1 =", id=f"r{n}", split="rl") for n in range(120)]
    options = {"labelled": teacher.labelled, "base_model": student}
    training = write(records, folder, provider=provider, method="distillation", counter=lambda _: (10, 12), **options)
    return TuneSpec(
        provider=provider,
        environment="local",
        base_model=student,
        method="distillation",
        training=training,
        teacher=teacher,
    )


def distillation_case(server: Any, folder: Path, student: str = GEMINI) -> tuple[Case, ModelPrice]:
    """At Bedrock Nova's, at Vertex that of `student`."""
    if isinstance(server, LocalBedrock):
        case, student = bedrock_case(server, folder), NOVA
    else:
        assert isinstance(server, LocalVertex)
        case = vertex_case(server, folder)
    case.spec = distillation_spec(folder, student)
    return case, distillation_price(TEACHERS[student])
