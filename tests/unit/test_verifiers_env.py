"""Environments of the package `verifiers`: each test runs on a fake of its protocol, and on the package where it is."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepforge.contracts.records import Record
from stepforge.contracts.user_records import RecordsFile, read_user_files
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.user import RecordsDomain
from stepforge_jobs.domains.verifiers_env import (
    environment_verifier,
    main,
    records_from_environment,
    write_records,
)

FAKE = Path(__file__).resolve().parents[1] / "support" / "fake_verifiers"


def _installed() -> bool:
    try:
        importlib.metadata.version("verifiers")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


REAL = pytest.param(
    "real",
    marks=pytest.mark.skipif(not _installed(), reason="verifiers is not installed: pip install 'stepforge[verifiers]'"),
)

SUMS = """
import verifiers.v1 as vf

class SumData(vf.TaskData):
    answer: int
    digits: list[int]

class SumTaskConfig(vf.TaskConfig):
    longest: int = 4

class SumTask(vf.Task[SumData, vf.State, SumTaskConfig]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.split()[-1:] == [str(self.data.answer)])

    @vf.reward(weight=0.5)
    async def short(self, task, trace) -> dict[str, float]:
        return {"short": 1.0 if len(trace.last_reply) <= self.config.longest else 0.5}

    @vf.reward(weight=-0.5)
    async def sworn(self, trace: vf.Trace) -> float:
        return float("damn" in trace.last_reply)

class SumConfig(vf.TasksetConfig):
    num_tasks: int = 40
    task: SumTaskConfig = SumTaskConfig()

class SumTaskset(vf.Taskset[SumTask, SumConfig]):
    def load(self):
        for n in range(self.config.num_tasks):
            data = SumData(prompt=f"{n} + 1 =", system_prompt="Add.", answer=n + 1, digits=[n, 1])
            yield SumTask(data, self.config.task)

__all__ = ["SumTaskset"]
"""


@pytest.fixture(params=["fake", REAL])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "verifiers"}
    if request.param == "fake":
        monkeypatch.syspath_prepend(str(FAKE))
    else:
        # The package is slow to import: once is enough.
        sys.modules.update(kept)
    yield request.param
    if request.param == "fake":
        for name in [name for name in sys.modules if name.partition(".")[0] == "verifiers"]:
            del sys.modules[name]
        sys.modules.update(kept)


@pytest.fixture
def environment(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Writes the source of an environment as an installed module, and gives its name."""
    made: list[str] = []

    def make(source: str = SUMS) -> str:
        name = f"env_of_tests_{len(made)}"
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    for name in made:
        sys.modules.pop(name, None)


def records_of(name: str, tmp_path: Path, **options: object) -> list[Record]:
    path = tmp_path / "records.jsonl"
    write_records(name, path, **options)  # type: ignore[arg-type]
    return read_user_files([RecordsFile(path, path.name, "0" * 64)], domain="sums", verifier="sums@1")


def test_tasks_become_records_that_a_run_can_read(environment, tmp_path: Path) -> None:
    records = records_of(environment(), tmp_path)
    assert len(records) == 40
    assert records[2].prompt == "Add.\n\n2 + 1 ="
    assert records[2].answer == "3"
    assert records[2].scenario["task"]["digits"] == [2, 1]
    assert {record.split for record in records} == {"rl", "test_known"}


def test_a_prompt_of_messages_is_read_in_order(environment, tmp_path: Path) -> None:
    messages = "[vf.SystemMessage(content='Be brief.'), vf.UserMessage(content=[vf.TextContentPart(text='1 + 1 =')])]"
    name = environment(SUMS.replace('prompt=f"{n} + 1 ="', f"prompt={messages}"))
    record = records_of(name, tmp_path, limit=1)[0]
    assert record.prompt == "Add.\n\nBe brief.\n\n1 + 1 ="
    assert environment_verifier(name)(record, "1").accepted


@pytest.mark.parametrize(
    ("completion", "reward", "accepted"),
    [
        ("3", 1.0, True),
        ("it is 3", 1.25 / 1.5, False),
        ("4", 0.5 / 1.5, False),
        ("damn 3", 0.75 / 1.5, False),
        ("damn it", 0.0, False),
        ("", 0.5 / 1.5, False),
    ],
)
def test_the_verdict_is_the_weighted_sum_of_the_environments_rewards(
    environment, tmp_path: Path, completion: str, reward: float, accepted: bool
) -> None:
    name = environment()
    record = records_of(name, tmp_path)[2]
    verdict = environment_verifier(name)(record, completion)
    assert verdict.reward == pytest.approx(reward)
    assert verdict.accepted is accepted
    assert {rule.rule for rule in verdict.rules} == {"right", "short", "sworn"}


def test_accept_at_sets_the_share_that_is_enough(environment, tmp_path: Path) -> None:
    name = environment()
    record = records_of(name, tmp_path)[2]
    assert environment_verifier(name, accept_at=0.8)(record, "it is 3").accepted
    with pytest.raises(InvalidInput, match="accept_at"):
        environment_verifier(name, accept_at=1.5)


def test_settings_reach_the_taskset_and_its_tasks(environment, tmp_path: Path) -> None:
    name = environment()
    records = records_of(name, tmp_path, settings={"num_tasks": 3})
    assert len(records) == 3
    assert environment_verifier(name, settings={"task": {"longest": 9}})(records[2], "it is 3").accepted
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        environment_verifier(name, settings={"num_taskz": 3})


def test_it_is_a_verifier_of_the_users_records(environment, tmp_path: Path) -> None:
    """A reward that raises refuses the completion; a record of something else is the user's mistake."""
    name = environment(SUMS.replace("trace.last_reply.split()[-1:]", "[trace.last_reply.split()[0]]"))
    record = records_of(name, tmp_path)[2]
    domain = RecordsDomain("sums", environment_verifier(name), version="1")
    assert domain.verify(record, "3").accepted
    refused = environment(SUMS.replace("return float(trace", "raise KeyError('x')\n        return float(trace"))
    other = record.model_copy(update={"scenario": {**record.scenario, "environment": refused}})
    verdict = RecordsDomain("sums", environment_verifier(refused), version="1").verify(other, "3")
    assert not verdict.accepted
    assert "verifier:" in verdict.reason
    with pytest.raises(InvalidInput, match="is not of the environment"):
        domain.verify(record.model_copy(update={"scenario": {}}), "3")


REFUSED = {
    "its own Two": "\nclass Two(vf.Env): ...\n__all__ += ['Two']\n",
    "its own harness": "\nclass Program(vf.Harness): ...\n__all__ += ['Program']\n",
    "it has tools": "\nSumTask.toolsets = classmethod(lambda cls, config: [object()])\n",
    "without tools": "\nSumTaskset.toolsets = classmethod(lambda cls, config: [object()])\n",
    "a container": "\nSumTask.NEEDS_CONTAINER = True\n",
    r"runtime \(setup\)": "\nasync def setup(self, trace, runtime): ...\nSumTask.setup = setup\n",
    r"\['tests'\] need a runtime": ("\n@vf.reward\nasync def tests(self, runtime): ...\nSumTask.tests = tests\n"),
    "no rewards": "\nfor name in ('right', 'short', 'sworn'): delattr(SumTask, name)\n",
}


@pytest.mark.parametrize(("reason", "source"), REFUSED.items(), ids=list(REFUSED))
def test_what_is_more_than_one_answer_is_refused_with_the_reason(environment, reason: str, source: str) -> None:
    name = environment(SUMS + source)
    with pytest.raises(InvalidInput, match=reason):
        environment_verifier(name)
    with pytest.raises(InvalidInput, match=reason):
        next(records_from_environment(name))


def test_a_language_model_that_judges_is_refused(environment) -> None:
    name = environment(
        SUMS.replace("longest: int = 4", "longest: int = 4\n    asker: vf.JudgeConfig = vf.JudgeConfig()")
    )
    with pytest.raises(InvalidInput, match=r"\['asker'\] are for a language model"):
        environment_verifier(name)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("prompt=None", "no prompt"),
        ("prompt=' '", "no prompt"),
        ("prompt=[vf.UserMessage(content='a'), vf.AssistantMessage(content='b')]", "role 'assistant'"),
        (
            "prompt=[vf.UserMessage(content=[vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url='x'))])]",
            "shows an image",
        ),
        ("prompt='a', image='ubuntu'", "without a container"),
    ],
)
def test_a_task_that_is_more_than_text_is_refused_and_leaves_no_file(
    environment, tmp_path: Path, field: str, reason: str
) -> None:
    name = environment(SUMS.replace('prompt=f"{n} + 1 ="', field))
    with pytest.raises(InvalidInput, match=f"task 0 of .*{reason}"):
        write_records(name, tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_data_that_json_cannot_carry_is_refused(environment) -> None:
    name = environment(
        "from pydantic import Field\n"
        + SUMS.replace("digits: list[int]", "digits: list[int] = Field(exclude=True, default=[])")
    )
    with pytest.raises(InvalidInput, match="does not survive"):
        next(records_from_environment(name))


def test_a_scale_that_is_unknown_is_refused(environment, tmp_path: Path) -> None:
    name = environment(SUMS.replace('{"short": 1.0', '{"short": 7.0'))
    with pytest.raises(InvalidInput, match=r"'short' is 7\.0"):
        environment_verifier(name)(records_of(name, tmp_path)[0], "1")


def test_an_endless_environment_needs_a_limit(environment, tmp_path: Path) -> None:
    name = environment(
        SUMS.replace("def load", "INFINITE = True\n    def load").replace(
            "range(self.config.num_tasks)", "iter(int, 1)"
        )
    )
    with pytest.raises(InvalidInput, match="give a limit"):
        write_records(name, tmp_path / "out.jsonl")
    assert write_records(name, tmp_path / "out.jsonl", limit=3) == 3


def test_the_older_api_and_what_is_not_installed_say_so(environment) -> None:
    with pytest.raises(InvalidInput, match="older API"):
        environment_verifier(environment("def load_environment(): ...\n"))
    with pytest.raises(InvalidInput, match="cannot be imported"):
        environment_verifier("env-of-nobody")


def test_the_command_writes_a_new_file_once(environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.jsonl"
    command = [environment(), "--out", str(out), "--limit", "5", "--set", "num_tasks=9"]
    assert main(command) == 0
    assert len(out.read_text().splitlines()) == 5
    assert set(json.loads(out.read_text().splitlines()[0])) == {"prompt", "answer", "scenario"}
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


def test_without_the_package_the_message_is_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "verifiers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(InvalidInput, match=r"pip install 'stepforge\[verifiers\]'"):
        environment_verifier("anything")


@pytest.mark.skipif(not _installed(), reason="verifiers is not installed: pip install 'stepforge[verifiers]'")
def test_the_fake_takes_the_arguments_that_the_package_takes() -> None:
    import verifiers.v1 as real

    sys.path.insert(0, str(FAKE))
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "verifiers"}
    try:
        import verifiers.v1 as fake
    finally:
        sys.path.remove(str(FAKE))
        for name in [name for name in sys.modules if name.partition(".")[0] == "verifiers"]:
            del sys.modules[name]
        sys.modules.update(kept)
    assert fake is not real
    for name in ("TaskData", "Trace", "TraceTask", "MessageNode", "AgentInfo", "TaskConfig", "TasksetConfig", "Reward"):
        assert set(getattr(fake, name).model_fields) <= set(getattr(real, name).model_fields), name
    for cls, methods in {
        "Task": ("setup", "finalize", "stage_verifier", "score", "hooks"),
        "Taskset": ("load", "take"),
    }.items():
        for method in methods:
            theirs, ours = (len(inspect.signature(getattr(getattr(m, cls), method)).parameters) for m in (real, fake))
            assert theirs == ours, method
