"""A domain's verifier as a grader: the same rewards in the sandbox and in the function as in our own jobs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stepforge.contracts.records import Record
from stepforge.contracts.user_records import RecordsFile, read_user_files
from stepforge.errors import InvalidInput, UnknownName
from stepforge.finetune.datasets import row_of
from stepforge.finetune.graders import MOST_BYTES, function_zip, python_grader
from stepforge.finetune.openai import grader_params
from stepforge.finetune.vertex_rewards import reward_config
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


def test_records_with_answers_are_graded_by_them(load: Callable[[str], ModuleType]) -> None:
    finetune_grade = load("finetune_grade")
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
        ({"provider": BEDROCK, "verifier": "my_rules:check"}, "stepforge finetune grader my_rules:check"),
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


RULES = """
from my_rules.sums import total
from stepforge.contracts.rewards import RuleResult, Verdict

def check(record, completion):
    if record.answer is not None:
        return completion.strip() == record.answer
    found = float(completion.strip() == str(total(record.scenario["numbers"])))
    rules = (RuleResult(rule="sum", score=found, hard=True),)
    return Verdict(accepted=found == 1, reward=found / 2 + 0.5, partial=found, rules=rules)
"""
OWN = [
    {"prompt": "2 + 2 =", "answer": "4", "split": "rl"},
    {"prompt": "add them", "scenario": {"numbers": [3, 4, 5]}, "split": "rl"},
]


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package with a verifier, in the current folder."""
    package = tmp_path / "home" / "my_rules"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(RULES)
    (package / "sums.py").write_text("def total(numbers):\n    return sum(numbers)\n")
    (package / "README.md").write_text("For people.")
    monkeypatch.chdir(package.parent)
    return package


def own_records(folder: Path) -> list[Record]:
    file = folder / "own.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in OWN))
    return read_user_files([RecordsFile(file, file.name, "0" * 64)], domain="records", verifier=None)


def run_apart(script: str, folder: Path) -> Any:
    """In a Python that finds neither our packages nor the user's."""
    code = f"import sys, json; sys.path.insert(0, {str(folder)!r}); {script}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=folder, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_user_s_own_verifier_grades_in_the_sandbox_and_in_a_function(rules: Path, tmp_path: Path) -> None:
    records = own_records(tmp_path)
    rows = [row_of(r, provider="openai", method="rft", whole=True)[0] for r in records]
    completions = ("4", "12", "so\n4")
    wanted = [1.0, 0.0, 0.0, 0.5, 1.0, 0.5]
    apart = tmp_path / "apart"
    apart.mkdir()
    grader = python_grader("my_rules:check")
    (apart / "sandbox.py").write_text(grader.source)
    (apart / "cases.json").write_text(json.dumps([(row, said) for row in rows for said in completions]))
    script = (
        "import sandbox; cases = json.load(open('cases.json')); "
        "print(json.dumps([sandbox.grade({'output_text': said}, row) for row, said in cases]))"
    )
    assert run_apart(script, apart) == wanted
    assert len(grader.source) < MOST_BYTES / 2

    code = function_zip("my_rules:check")
    assert code == function_zip("my_rules:check")
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        archive.extractall(apart)
    event = [
        {**row, "id": f"{n}", "messages": [*row["messages"], {"role": "assistant", "content": [{"text": said}]}]}
        for n, (row, said) in enumerate((row, said) for row in rows for said in completions)
    ]
    (apart / "event.json").write_text(json.dumps(event))
    script = "import grader; print(json.dumps(grader.handler(json.load(open('event.json')), None)))"
    answers = run_apart(script, apart)
    assert [answer["aggregate_reward_score"] for answer in answers] == wanted
    assert answers[-1]["metrics_list"] == [{"name": "sum", "value": 0.0, "type": "Metric"}]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("table.csv", "1,2", "no files"),
        ("more.py", "import torch", "'torch'.*does not have"),
    ],
    ids=["data", "package"],
)
def test_what_a_sandbox_lacks_is_refused_by_name(rules: Path, file: str, text: str, words: str) -> None:
    (rules / file).write_text(text)
    with pytest.raises(InvalidInput, match=words):
        python_grader("my_rules:check")


def test_a_plan_sends_whole_records_to_a_user_s_own_verifier(rules: Path, tmp_path: Path) -> None:
    given = {"provider": {"type": "openai"}, "base_model": "o4-mini", "method": "rft", "price": PRICE}
    spec = plan(**given, verifier="my_rules:check").spec(own_records(tmp_path) * 6, tmp_path)
    assert spec.grader == python_grader("my_rules:check")
    rows = [json.loads(line) for line in (tmp_path / spec.training.filename).read_text().splitlines()]
    assert [json.loads(row["record"])["scenario"] for row in rows[:2]] == [{}, {"numbers": [3, 4, 5]}]
    vertex, _ = row_of(own_records(tmp_path)[1], provider="vertex", method="rft", whole=True)
    scorer = reward_config(python_grader("my_rules:check"))["code_execution_reward_scorer"]
    names: dict[str, Any] = {}
    before = list(sys.meta_path), set(sys.modules)
    exec(scorer["python_code_snippet"], names)
    assert names["evaluate"](vertex, {"parts": [{"text": "12"}]}) == 1.0
    sys.meta_path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        del sys.modules[name]
