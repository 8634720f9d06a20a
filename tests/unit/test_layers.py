"""Who may import whom. The directions are drawn in docs/architecture.md."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDK, JOBS = ROOT / "sdk", ROOT / "jobs"
STDLIB = set(sys.stdlib_module_names)
HEAVY = ("torch", "transformers", "trl", "boto3", "botocore", "aws_cdk", "ministack", "typer", "rich", "mlflow")
CLOUD_SIDE = (
    "machines",
    "submitting",
    "following",
    "client",
    "jobs",
    "pipelines",
    "registry",
    "connection",
    "transfers",
    "local",
    "cli",
    "report",
    "tracking.runs",
)


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, those for type checkers alone left out."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    return found


def offenders(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted(folder.rglob("*.py"))
        for module in sorted(imports(path))
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


def test_contracts_import_the_standard_library_and_pydantic_alone() -> None:
    allowed = ("stepforge.contracts", "stepforge.errors", "pydantic")
    found = [
        f"{path.name}: {module}"
        for path in (SDK / "stepforge" / "contracts").rglob("*.py")
        for module in imports(path)
        if module.split(".")[0] not in STDLIB and not module.startswith(allowed) and module != "stepforge"
    ]
    assert found == []


def test_the_sdk_never_imports_the_jobs() -> None:
    assert offenders(SDK, ("stepforge_jobs",)) == []


def test_jobs_use_contracts_and_pure_helpers_alone() -> None:
    assert offenders(JOBS, tuple(f"stepforge.{name}" for name in CLOUD_SIDE)) == []


def test_jobs_need_no_aws_sdk() -> None:
    assert offenders(JOBS, ("boto3", "botocore")) == []


def test_handlers_import_stepforge_but_not_its_local_part() -> None:
    found = offenders(ROOT / "lambdas", ("stepforge_jobs", "stepforge.local", "stepforge.cli", "torch"))
    # What judges a provider's model is what judges ours.
    assert {line.partition(" ")[0] for line in found} == {"lambdas/_judging.py", "lambdas/finetune_grade.py"}


def test_the_cloud_definition_imports_contracts_alone() -> None:
    found = [line for line in offenders(ROOT / "cdk", ("stepforge",)) if " imports stepforge.contracts" not in line]
    allowed = (" imports stepforge.errors", " imports stepforge.installation.assets")
    assert [line for line in found if not any(f"{name}." in f"{line}." for name in allowed)] == []


def test_an_algorithm_never_names_a_domain() -> None:
    for folder in ("rl", "training"):
        assert offenders(JOBS / "stepforge_jobs" / folder, ("stepforge_jobs.domains.facial",)) == []


def test_a_domain_never_names_an_algorithm() -> None:
    assert (
        offenders(JOBS / "stepforge_jobs" / "domains", ("stepforge_jobs.training", "stepforge_jobs.rl", "torch")) == []
    )


@pytest.mark.parametrize(
    "module",
    ["stepforge", "stepforge.contracts.pipelines", "stepforge.recipes", "stepforge.cli"],
)
def test_importing_the_sdk_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    environment = {"PYTHONPATH": f"{SDK}:{JOBS}", "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "[]"


def test_help_loads_what_it_prints_and_no_contracts() -> None:
    program = (
        "import sys; from stepforge.cli import main; main(['--help']); "
        "print([m for m in ('pydantic', 'boto3', 'stepforge.connection') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SDK)},
    )
    assert "Usage" in done.stdout
    assert done.stderr.strip() == "[]"
