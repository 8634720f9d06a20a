"""What of the user's code is staged: its package, all of it, nothing beside it, and the same bytes every time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from stepforge.contracts.manifests import describe_folder
from stepforge.errors import InvalidInput, UnknownName
from stepforge.installation import user_code

CHECK = "def check(record, completion):\n    return True\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the user's code lies among other things."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def staged(verifier: str, into: Path) -> list[str]:
    found = user_code.plugin_for("any", verifier, into=into)
    assert found is not None
    assert found.plugin.verifier == verifier
    return sorted(p.relative_to(found.folder).as_posix() for p in found.folder.rglob("*") if p.is_file())


def test_a_single_file_travels_without_what_lies_beside_it(home: Path, tmp_path: Path) -> None:
    write(home, {"my_rules.py": CHECK, "diary.txt": "private", "photos/1.jpg": "x", ".ssh/id": "key"})
    before = list(sys.path)
    assert staged("my_rules:check", tmp_path / "s") == ["my_rules.py"]
    assert sys.path == before
    assert "my_rules" not in sys.modules


def test_a_package_travels_with_its_data_and_without_caches_and_hidden_files(home: Path, tmp_path: Path) -> None:
    files = {
        "rules/__init__.py": "",
        "rules/deep/__init__.py": "",
        "rules/deep/check.py": CHECK,
        "rules/tables/units.csv": "a,b\n",
    }
    left_out = {
        "rules/__pycache__/x.pyc": "x",
        "rules/old.pyc": "x",
        "rules/.git/config": "x",
        "rules/.env": "SECRET=1",
    }
    write(home, {**files, **left_out, "other/__init__.py": ""})
    assert staged("rules.deep.check:check", tmp_path / "s") == sorted(files)


def test_a_folder_without_init_is_a_package_too(home: Path, tmp_path: Path) -> None:
    write(home, {"rules/check.py": CHECK, "rules/helpers.py": ""})
    assert staged("rules.check:check", tmp_path / "s") == ["rules/check.py", "rules/helpers.py"]


def test_of_a_namespace_the_part_that_has_the_module_travels(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, {"acme/unrelated.py": ""})
    write(tmp_path / "site", {"acme/rules/__init__.py": CHECK})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert staged("acme.rules:check", tmp_path / "s") == ["acme/rules/__init__.py"]


def test_an_installed_package_wins_over_a_folder_that_merely_has_its_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        home, {"acme_rules/README.md": "the repository of acme_rules", "acme_rules/src/acme_rules/__init__.py": CHECK}
    )
    monkeypatch.syspath_prepend(str(home / "acme_rules" / "src"))
    assert staged("acme_rules:check", tmp_path / "s") == ["acme_rules/__init__.py"]


def test_an_editable_install_that_is_found_by_a_hook_is_staged(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.util import spec_from_file_location

    write(tmp_path / "checkout", {"hooked_rules/__init__.py": CHECK, "hooked_rules/more.py": ""})
    init = tmp_path / "checkout" / "hooked_rules" / "__init__.py"

    class Hook:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            locations = [str(init.parent)]
            return (
                spec_from_file_location(name, init, submodule_search_locations=locations)
                if name == init.parent.name
                else None
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hook])
    (home / "hooked_rules").mkdir()
    assert staged("hooked_rules:check", tmp_path / "s") == ["hooked_rules/__init__.py", "hooked_rules/more.py"]


def test_the_digest_depends_on_names_and_bytes_alone(home: Path, tmp_path: Path) -> None:
    write(home, {"rules/__init__.py": CHECK, "rules/b.py": "", "rules/a.py": "x = 1\n"})
    staged("rules:check", tmp_path / "first")
    write(tmp_path / "elsewhere", {"rules/a.py": "x = 1\n", "rules/b.py": "", "rules/__init__.py": CHECK})
    os.utime(tmp_path / "elsewhere" / "rules" / "a.py", (1, 1))
    (tmp_path / "elsewhere" / "rules" / "b.py").chmod(0o755)
    os.chdir(tmp_path / "elsewhere")
    staged("rules:check", tmp_path / "second")
    digests = [describe_folder(tmp_path / name, "plugin").sha256 for name in ("first", "second")]
    assert digests[0] == digests[1]
    write(tmp_path / "elsewhere", {"rules/a.py": "x = 2\n"})
    staged("rules:check", tmp_path / "third")
    assert describe_folder(tmp_path / "third", "plugin").sha256 != digests[0]


def test_a_link_inside_a_package_is_followed_and_one_out_of_it_is_refused(home: Path, tmp_path: Path) -> None:
    write(home, {"rules/__init__.py": CHECK, "rules/v1.csv": "1", "secret.txt": "s"})
    (home / "rules" / "now.csv").symlink_to("v1.csv")
    assert "rules/now.csv" in staged("rules:check", tmp_path / "s")
    (home / "rules" / "leak.txt").symlink_to(home / "secret.txt")
    with pytest.raises(InvalidInput, match=r"leak\.txt"):
        staged("rules:check", tmp_path / "t")


@pytest.mark.parametrize("target", ["..", ".", "/"], ids=["home", "loop", "root"])
def test_a_link_to_a_folder_is_refused(home: Path, tmp_path: Path, target: str) -> None:
    write(home, {"rules/__init__.py": CHECK})
    (home / "rules" / "all").symlink_to(target, target_is_directory=True)
    with pytest.raises(InvalidInput, match="link to a folder"):
        staged("rules:check", tmp_path / "s")


def test_a_package_that_is_itself_a_link_is_staged(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "code", {"rules/__init__.py": CHECK})
    (home / "rules").symlink_to(tmp_path / "code" / "rules", target_is_directory=True)
    assert staged("rules:check", tmp_path / "s") == ["rules/__init__.py"]


@pytest.mark.parametrize(("most_files", "most_bytes"), [(3, 10**6), (10**6, 30)], ids=["files", "bytes"])
def test_a_huge_folder_is_not_dragged_along(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_files: int, most_bytes: int
) -> None:
    write(home, {f"work/{n}.txt": "0123456789" for n in range(5)} | {"work/rules.py": CHECK})
    monkeypatch.setattr(user_code, "MOST_FILES", most_files)
    monkeypatch.setattr(user_code, "MOST_BYTES", most_bytes)
    with pytest.raises(InvalidInput, match="small package of its own"):
        staged("work.rules:check", tmp_path / "s")


@pytest.mark.parametrize(
    ("verifier", "reason"),
    [
        ("rules", "names no function"),
        ("rules:", "names no function"),
        (":check", "names no function"),
        ("rules.py:check", "single file"),
        ("../rules:check", "no name of a module"),
        (".rules:check", "no name of a module"),
        ("absent:check", "not found"),
        ("rules.absent:check", "single file"),
        ("package.absent:check", "not found"),
        ("package.sub.absent:check", "not found"),
        ("bare:check", "not found"),
        ("json:loads", "standard library"),
        ("math:sqrt", "standard library"),
        ("stepforge_jobs.domains.user:exact_answer", "stepforge's own"),
        ("broken:check", "is not Python"),
    ],
)
def test_what_cannot_be_staged_is_refused_with_the_reason(
    home: Path, tmp_path: Path, verifier: str, reason: str
) -> None:
    write(home, {"rules.py": CHECK, "package/__init__.py": "", "package/sub.py": CHECK, "bare/notes.txt": ""})
    write(home, {"json.py": "def loads(): ...\n", "broken.py": "def check(:\n"})
    with pytest.raises(InvalidInput, match=reason):
        staged(verifier, tmp_path / "s")


def test_a_function_that_the_module_lacks_is_named_with_the_nearest(home: Path, tmp_path: Path) -> None:
    write(home, {"rules.py": CHECK})
    with pytest.raises(UnknownName, match="did you mean 'check'"):
        staged("rules:chek", tmp_path / "s")


@pytest.mark.parametrize(
    "source",
    [
        "from helpers import check\n",
        "import helpers as check\n",
        "check = print\n",
        "check: object = print\n",
        "try:\n    import fast\nexcept ImportError:\n    def check(r, c): ...\n",
        "if True:\n    with open('x') as check: ...\n",
        "from helpers import *\n",
        "def __getattr__(name): ...\n",
        "class check: ...\n",
    ],
)
def test_every_way_to_bind_a_name_counts(home: Path, tmp_path: Path, source: str) -> None:
    write(home, {"rules.py": source})
    assert staged("rules:check", tmp_path / "s") == ["rules.py"]


def test_a_name_within_a_function_does_not_count(home: Path, tmp_path: Path) -> None:
    write(home, {"rules.py": "def outer():\n    def check(r, c): ...\n"})
    with pytest.raises(UnknownName):
        staged("rules:check", tmp_path / "s")


def test_a_domain_that_ships_needs_no_code_of_the_users(tmp_path: Path) -> None:
    assert user_code.plugin_for("facial", None, into=tmp_path / "s") is None
    assert not (tmp_path / "s").exists()
