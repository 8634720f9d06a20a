"""What is installed is compared with the lock that the digests of jobs cover."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from stepforge.cli import _doctor, main
from stepforge.installation import versions
from stepforge.installation.versions import Difference, differences, lock_file, locked


@pytest.fixture
def stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one package as it is installed, one in another version, and one that is absent."""
    path = tmp_path / "requirements.lock"
    path.write_text(f"# the image\npytest=={version('pytest')}\npydantic==1.0.0\nno-such-package==2.0\n")
    monkeypatch.setattr(versions, "lock_file", lambda: path)
    monkeypatch.setattr(_doctor, "lock_file", lambda: path)
    return path


def test_a_package_of_another_version_and_an_absent_one_differ(stale: Path) -> None:
    found = differences(stale)
    assert found == [Difference("pydantic", "1.0.0", version("pydantic")), Difference("no-such-package", "2.0", None)]
    assert str(found[1]) == "no-such-package is not installed (lock: 2.0)"


def test_a_local_build_is_the_version_that_it_is_a_build_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text("torch==2.13.0\n")
    (tmp_path / "torch-2.13.0+cpu.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert differences(tmp_path / "lock") == []


def test_the_shipped_lock_is_read_whole() -> None:
    found = locked(lock_file())
    assert {"torch", "transformers", "pydantic"} <= found.keys()
    assert all(number[0].isdigit() for number in found.values())


def test_doctor_lists_what_differs_and_says_what_to_do(stale: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 3
    said = capsys.readouterr().out
    assert "2 of 3 packages are not those of the lock" in said
    assert f"pip install -r {stale}" in said
    assert main(["doctor", "--json"]) == 3
    assert [d["package"] for d in json.loads(capsys.readouterr().out)["differences"]] == ["pydantic", "no-such-package"]


def test_a_run_is_warned_in_one_line_and_only_where_something_differs(
    stale: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _doctor.warn()
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "pydantic" in said.err
    stale.write_text("")
    _doctor.warn()
    assert capsys.readouterr().err == ""
