"""Images by repository, and the entry points of Dockerfiles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stepforge.errors import InvalidInput
from stepforge.local.images import Image, entrypoint, register_images, registered, repository
from stepforge.local.state import Layout

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("host/a/b@sha256:00", "host/a/b"),
        ("host/a/b:tag", "host/a/b"),
        ("localhost:5000/a", "localhost:5000/a"),
        ("localhost:5000/a:tag@sha256:00", "localhost:5000/a"),
    ],
)
def test_a_repository_is_an_address_without_tag_and_digest(address: str, name: str) -> None:
    assert repository(address) == name


@pytest.mark.parametrize(("image", "module"), [("train", "stepforge_jobs.main"), ("serve", "stepforge_jobs.serving")])
def test_the_projects_images_have_an_entry_point_in_exec_form(image: str, module: str) -> None:
    assert entrypoint(ROOT / "containers" / image / "Dockerfile") == ["python", "-m", module]


def test_the_last_stage_and_the_last_entry_point_count(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(
        'FROM a\nENTRYPOINT ["one"]\nFROM b\nENTRYPOINT ["two"]\nENTRYPOINT ["three", \\\n "x"]\n'
    )
    assert entrypoint(tmp_path / "f") == ["three", "x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nENTRYPOINT python -m x", 'write \\["python", "-m", "x"\\]'),
        ('FROM a\nENTRYPOINT ["one"]\nFROM b\n', "no ENTRYPOINT in its last stage"),
        ("FROM a\nENTRYPOINT [1]", "not in exec form"),
    ],
    ids=["shell form", "none in the last stage", "not strings"],
)
def test_an_entry_point_that_cannot_get_signals_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        entrypoint(tmp_path / "Dockerfile")


def test_registering_adds_to_what_is_there_and_python_is_this_interpreter(tmp_path: Path) -> None:
    register_images({"one:1": Image(argv_train=("python", "-m", "a"))}, base=tmp_path)
    register_images({"two@sha256:0": Image(argv_serve=("/bin/serve",))}, base=tmp_path)
    images = registered(Layout.of(tmp_path))
    assert sorted(images) == ["one", "two"]
    assert images["one"].command("train") == [sys.executable, "-m", "a"]
    assert images["one"].command("serve") is None
    assert images["two"].command("serve") == ["/bin/serve"]
