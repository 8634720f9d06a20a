"""A domain's verifier as a grader: the same rewards in the sandbox and in the function as in our own jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepforge.assets import folder
from stepforge.errors import InvalidInput, UnknownName
from stepforge.finetune.datasets import row_of
from stepforge.finetune.graders import MOST_BYTES, python_grader
from stepforge.finetune.openai import grader_params
from stepforge.finetune.vertex import reward_config
from stepforge_jobs.domains import load_domain
from tests.unit.finetune.conftest import PRICE
from tests.unit.finetune.test_plan import BEDROCK, plan

COUNT = 12


def samples(domain: str) -> list[tuple[dict[str, Any], str, float]]:
    """Rows of the data with completions, right and wrong, and the rewards of our own verifier."""
    found = load_domain("facial")
    records = [found.record("rl", index, seed=1) for index in range(COUNT)]
    others = [found.record("train", index, seed=1) for index in range(COUNT)]
    cases = []
    for record, other in zip(records, others, strict=True):
        for asked in (record, other):
            row, _ = row_of(
                asked.model_copy(update={"split": "rl", "answer": asked.answer or other.solution}),
                provider="openai",
                method="rft",
            )
            for completion in (other.solution, "nothing of the kind"):
                cases.append((row, completion, found.verify(asked, completion).reward))
    assert domain == "facial"
    assert {0.0} < {reward for *_, reward in cases}
    return cases


def test_a_packed_verifier_grades_as_ours_where_nothing_of_ours_is_installed(tmp_path: Path) -> None:
    grader = python_grader("facial")
    cases = samples("facial")
    (tmp_path / "grader.py").write_text(grader.source)
    (tmp_path / "cases.json").write_text(json.dumps([(row, completion) for row, completion, _ in cases]))
    script = (
        "import json, grader; cases = json.load(open('cases.json')); "
        "print(json.dumps([grader.grade({'output_text': said}, row) for row, said in cases]))"
    )
    # -I: neither PYTHONPATH nor the folder is looked into.
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [reward for *_, reward in cases]
    assert len(grader.source.encode()) <= MOST_BYTES
    assert grader_params(grader)["type"] == "python"


def test_records_with_answers_are_graded_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder("lambdas")))
    import finetune_grade

    row = {"record_id": "r", "verifier": "records@1", "reference_answer": "4", "messages": []}
    asked = {"role": "user", "content": "2 + 2 ="}
    said = [{"role": "assistant", "content": text} for text in ("so\n4", "5")]
    said.append({"role": "assistant", "content": [{"text": "4"}]})
    event = [{**row, "id": str(n), "messages": [asked, answer]} for n, answer in enumerate(said)]
    answers = finetune_grade.handler(event, None)
    assert [(a["id"], a["aggregate_reward_score"]) for a in answers] == [("0", 1.0), ("1", 0.0), ("2", 1.0)]
    assert answers[1]["metrics_list"] == [{"name": "answer", "value": 0.0, "type": "Metric"}]
    with pytest.raises(KeyError):
        finetune_grade.handler([{"id": "1", "messages": [asked, said[0]]}], None)


def test_what_does_not_ship_has_no_grader() -> None:
    with pytest.raises(UnknownName, match="castles"):
        python_grader("castles")


def test_a_plan_takes_a_domain_s_verifier_as_its_grader(tmp_path: Path) -> None:
    records = [load_domain("facial").record("rl", index, seed=1) for index in range(COUNT)]
    records = [record.model_copy(update={"answer": "any"}) for record in records]
    asked = plan(provider={"type": "openai"}, base_model="o4-mini", method="rft", price=PRICE, verifier="facial")
    assert asked.spec(records, tmp_path).grader == python_grader("facial")
    for wrong, words in (
        ({"grader": {"type": "string_check"}}, "not both"),
        ({"provider": BEDROCK}, "finetune-grade"),
    ):
        with pytest.raises(InvalidInput, match=words):
            asked.model_validate({**asked.model_dump(), **wrong}).spec(records, tmp_path)


def test_vertex_grades_the_same_by_its_own_glue() -> None:
    scorer = reward_config(python_grader("facial"))["code_execution_reward_scorer"]
    names: dict[str, Any] = {}
    exec(scorer["python_code_snippet"], names)
    for row, completion, reward in samples("facial")[:8]:
        references = {name: row[name] for name in ("reference_answer", "record_id", "verifier")}
        contents = [{"role": "user", "parts": [{"text": row["messages"][-1]["content"]}]}]
        response = {"parts": [{"text": completion}]}
        assert names["evaluate"]({"references": references, "contents": contents}, response) == reward
