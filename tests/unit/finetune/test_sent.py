"""Every setting of a launch changes what the provider is sent, or is refused: else the same tune is paid for twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stepforge.errors import InvalidInput
from stepforge.finetune import TuneSpec, launch_key
from stepforge.finetune.datasets import FORMATS, write
from stepforge.finetune.folders import DiskFolder
from stepforge.finetune.provider import Provider
from stepforge.finetune.sent import OPEN_STUDENT, SENT
from stepforge.finetune.spec import Hyperparameters, StringCheck
from stepforge.testing.providers import LocalAnthropic, LocalVertex
from stepforge.testing.providers._server import Request
from tests.unit.finetune import test_anthropic, test_vertex_prompts
from tests.unit.finetune.distilling import GEMINI, NOVA, QWEN, TEACHERS
from tests.unit.finetune.test_datasets import ANY_SIZE, item, make
from tests.unit.finetune.test_providers import CASES, LAMBDA

CHANGED: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate_multiplier": 0.5,
    "beta": 0.3,
    "adapter_size": 8,
    "samples_per_prompt": 4,
    "seed": 7,
}
TEACHER: dict[str, Any] = {"max_response_tokens": 300, "sft_loss_weight": 0.5}
AT_BEDROCK = {"at bedrock": {"suffix"}}
"""What this endpoint of the OpenAI protocol does not take."""
OFFERED = [(*found, "") for found in FORMATS] + [("vertex", "distillation", "open"), ("openai", "rft", "at bedrock")]


class Shop:
    """One provider's adapter, its local server, and what was sent to make a job."""

    def __init__(self, provider: Provider, server: Any, spec: TuneSpec, folder: Path) -> None:
        self.provider, self.spec, self._folder, self._server = provider, spec, folder, server
        self._made = 0
        self.came: list[Request] = []
        server.plan = self.came.append
        self.prepared = provider.prepare(spec, folder)

    def sent(self, spec: TuneSpec) -> list[tuple[str, str, str]]:
        """What launching sends, but for the key and what has it in its name; the job's own notes in a bucket aside."""
        self._made += 1
        key = f"sf-{self._made:040d}"
        self.came.clear()
        self.provider.launch(spec, self.prepared, key=key)
        found = [(r.method, r.path, r.body.decode().replace(key, "KEY").replace(key[-12:], "END")) for r in self.came]
        return [request for request in found if request[0] == "POST" and not request[1].startswith("/upload/")]


def spec_of(name: Any, method: Any, model: str, folder: Path) -> TuneSpec:
    """A tune of this provider and method as it comes."""
    records = [make(f"{n} + 1 =", id=f"r{n}", split="rl") for n in range(120 if method == "distillation" else 12)]
    options = {"provider": name, "method": method, "limits": ANY_SIZE, "base_model": model}
    teacher = {"model": TEACHERS.get(model, ""), "max_response_tokens": 200} if method == "distillation" else None
    grader = LAMBDA if name in ("bedrock", "sagemaker") else StringCheck()
    given = {
        "provider": name,
        "environment": "local",
        "base_model": model,
        "method": method,
        "training": write([item(record, method) for record in records], folder, **options).model_dump(),  # type: ignore[arg-type]
        "grader": grader.model_dump() if method == "rft" else None,
        "teacher": teacher,
    }
    return TuneSpec.model_validate(given)


@contextmanager
def shop_of(name: str, method: str, variant: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    if name == "anthropic":
        with LocalAnthropic() as claude:
            assert isinstance(claude, LocalAnthropic)
            provider = test_anthropic.provider(claude, DiskFolder(folder / "jobs"))
            yield Shop(provider, claude, spec_of(name, method, "claude-test", folder), folder)
    elif method == "prompt":
        with LocalVertex() as vertex:
            assert isinstance(vertex, LocalVertex)
            search = test_vertex_prompts.provider(vertex)
            yield Shop(search, vertex, spec_of(name, method, test_vertex_prompts.MODEL, folder), folder)
    else:
        make_server, make_case = CASES[name]
        with make_server() as server:
            case = make_case(server, folder)  # type: ignore[operator]
            students = {"bedrock": NOVA, "vertex": QWEN if variant == "open" else GEMINI}
            model = students[name] if method == "distillation" else case.spec.base_model
            spec = spec_of(name, method, model, folder)
            if variant == "at bedrock":
                monkeypatch.setattr(case.provider, "_vendor", "bedrock")
                spec = spec.model_copy(update={"grader": LAMBDA})
            yield Shop(case.provider, server, spec, folder)


def changes(spec: TuneSpec) -> Iterator[tuple[str, TuneSpec]]:
    for name in Hyperparameters.model_fields:
        set_ = spec.hyperparameters.model_copy(update={name: CHANGED[name]})
        yield name, spec.model_copy(update={"hyperparameters": set_})
    yield "suffix", spec.model_copy(update={"suffix": "mine"})
    if spec.teacher is not None:
        for name, value in TEACHER.items():
            yield f"teacher.{name}", spec.model_copy(update={"teacher": spec.teacher.model_copy(update={name: value})})


def refusal(provider: Provider, spec: TuneSpec) -> str:
    try:
        provider.validate(spec)
    except InvalidInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "method", "variant"), OFFERED, ids=lambda value: value.replace(" ", "-"))
def test_what_changes_a_launch_changes_its_request_or_is_refused(
    name: str, method: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop_of(name, method, variant, tmp_path, monkeypatch) as shop:
        spec, target = shop.spec, shop.provider.target
        shop.provider.validate(spec)
        usual = shop.sent(spec)
        assert shop.sent(spec) == usual
        taken = []
        for field, changed in changes(spec):
            if launch_key(changed, target) == launch_key(spec, target):
                continue
            shop.came.clear()
            if why := refusal(shop.provider, changed):
                assert field.rpartition(".")[2] in why
                assert shop.came == []
                if name != "vertex":  # its client sends some settings beside the method that has them
                    assert shop.sent(changed) == usual, f"{field} is sent, and refused"
            else:
                assert shop.sent(changed) != usual, f"{field} is not sent, and would be paid for again"
                taken.append(field)
        table = set(OPEN_STUDENT if variant == "open" else SENT[name, method])  # type: ignore[index]
        assert {field for field in taken if not field.startswith("teacher.")} == table - AT_BEDROCK.get(variant, set())
        assert bool(usual) == (name != "anthropic")


def test_every_format_has_its_row_of_settings() -> None:
    assert set(SENT) == set(FORMATS)
    assert set(CHANGED) == set(Hyperparameters.model_fields)
