"""The digest of a job's code changes with what the job imports, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import InvalidInput
from stepforge.installation.code_digest import code_digests


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """Two small packages: a module for each type of job, one more for `srl`, and a domain that `gate` names."""
    jobs, sdk = tmp_path / "stepforge_jobs", tmp_path / "stepforge"
    for folder in (jobs, sdk, jobs / "rl", jobs / "domains"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    table = {work: f"stepforge_jobs.{work}:run" for work in WORK_TYPES}
    (jobs / "main.py").write_text(f"from stepforge.contracts import base\nWORK: dict[str, str] = {table!r}\n")
    (sdk / "contracts.py").write_text("base = 1\n")
    for work in WORK_TYPES:
        (jobs / f"{work}.py").write_text("def run(job): ...\n")
    (jobs / "srl.py").write_text("from .rl import rewards\n")
    (jobs / "rl" / "rewards.py").write_text("X = 1\n")
    (jobs / "gate.py").write_text("from stepforge_jobs import domains\n")
    (jobs / "domains" / "__init__.py").write_text('DOMAINS = {"a": "stepforge_jobs.domains.a:DOMAIN"}\n')
    (jobs / "domains" / "a.py").write_text("DOMAIN = 1\n")
    (tmp_path / "lock").write_text("torch==2.13.0\n")
    return {"stepforge": sdk, "stepforge_jobs": jobs}


def changed_by(roots: dict[str, Path], path: Path, text: str) -> set[str]:
    lock = roots["stepforge"].parent / "lock"
    before = code_digests(roots, lock)
    path.write_text(text)
    after = code_digests(roots, lock)
    return {work for work in WORK_TYPES if before[work] != after[work]}


def test_a_changed_reward_changes_only_the_job_that_imports_it(roots: dict[str, Path]) -> None:
    assert changed_by(roots, roots["stepforge_jobs"] / "rl" / "rewards.py", "X = 2\n") == {"srl"}


def test_a_domain_named_in_a_string_counts_as_imported(roots: dict[str, Path]) -> None:
    assert changed_by(roots, roots["stepforge_jobs"] / "domains" / "a.py", "DOMAIN = 2\n") == {"gate"}


@pytest.mark.parametrize(
    "name", ["main.py", "../lock", "../stepforge/contracts.py"], ids=["dispatcher", "lock", "contract"]
)
def test_what_all_jobs_share_changes_all_jobs(roots: dict[str, Path], name: str) -> None:
    path = (roots["stepforge_jobs"] / name).resolve()
    assert changed_by(roots, path, path.read_text() + "# changed\n") == set(WORK_TYPES)


def test_a_file_that_no_job_imports_changes_nothing(roots: dict[str, Path]) -> None:
    assert changed_by(roots, roots["stepforge_jobs"] / "rl" / "unused.py", "Y = 1\n") == set()


def test_a_type_without_an_entry_is_an_error(roots: dict[str, Path]) -> None:
    (roots["stepforge_jobs"] / "main.py").write_text("WORK = {}\n")
    with pytest.raises(InvalidInput, match="no entry"):
        code_digests(roots, roots["stepforge"].parent / "lock")


def test_lazy_exports_and_imports_for_types_alone_do_not_count(roots: dict[str, Path]) -> None:
    (roots["stepforge"] / "__init__.py").write_text(
        "if TYPE_CHECKING:\n    from stepforge.client import X\n"
        "def __getattr__(name):\n    from stepforge.client import X\n"
    )
    (roots["stepforge"] / "client.py").write_text("X = 1\n")
    assert changed_by(roots, roots["stepforge"] / "client.py", "X = 2\n") == set()


def test_who_names_the_dispatcher_does_not_depend_on_every_job(roots: dict[str, Path]) -> None:
    (roots["stepforge_jobs"] / "srl.py").write_text('PARENT = "stepforge_jobs.main"\n')
    assert changed_by(roots, roots["stepforge_jobs"] / "rlvr.py", "def run(job): return 1\n") == {"rlvr"}


def test_the_real_jobs_differ_in_what_they_depend_on() -> None:
    root = Path(__file__).resolve().parents[2]
    roots = {"stepforge": root / "sdk" / "stepforge", "stepforge_jobs": root / "jobs" / "stepforge_jobs"}
    codes = code_digests(roots, root / "containers" / "train" / "requirements.lock")
    assert len(set(codes.values())) == len(WORK_TYPES)


IMPORTS = {
    "dotted, with another name": "import stepforge_jobs.rl.rewards as r",
    "relative": "from .rl.rewards import X",
    "relative, of the package": "from . import rl\nfrom .rl import rewards",
    "within a function": "def f():\n    from stepforge_jobs.rl import rewards",
    "within a lazy attribute": "class A:\n  def __getattr__(self, n):\n    import stepforge_jobs.rl.rewards",
    "in a try": "try:\n    import stepforge_jobs.rl.rewards\nexcept ImportError:\n    pass",
    "under a condition": "if len('x'):\n    from stepforge_jobs.rl import rewards",
    "by importlib": "import importlib\nimportlib.import_module('stepforge_jobs.rl.rewards')",
    "of a star": "from stepforge_jobs.rl.rewards import *",
}


@pytest.mark.parametrize("form", IMPORTS)
def test_every_form_of_an_import_counts(roots: dict[str, Path], form: str) -> None:
    (roots["stepforge_jobs"] / "sft.py").write_text(IMPORTS[form] + "\n")
    assert "sft" in changed_by(roots, roots["stepforge_jobs"] / "rl" / "rewards.py", "X = 2\n")
