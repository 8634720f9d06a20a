"""Images by repository, and the entry points of Dockerfiles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stepforge.errors import InvalidInput
from stepforge.local.images import Image, Role, entrypoint, image_of, register_images, registered, repository
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


SOURCES = {"/opt/stepforge/sdk": Path("/here/sdk"), "/opt/stepforge/jobs": Path("/here/jobs")}
IMAGES = [(name, "train", "stepforge_jobs.main") for name in ("train", "train-cuda", "data")]


@pytest.mark.parametrize(("name", "role", "module"), [*IMAGES, ("serve", "serve", "stepforge_jobs.serving")])
def test_an_image_runs_here_with_the_command_and_the_variables_of_its_dockerfile(
    name: str, role: Role, module: str
) -> None:
    image = image_of(ROOT / "containers" / name / "Dockerfile", role, SOURCES)
    assert image.command(role) == [sys.executable, "-m", module]
    assert image.environment == {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "/here/sdk:/here/jobs",
        "STEPFORGE_RUN_AS": "10001",
        **({"STEPFORGE_VLLM_PYTHON": "/opt/vllm/bin/python"} if name == "train-cuda" else {}),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WORKDIR /srv", "WORKDIR '/srv' must be '/opt/ml'"),
        ("WORKDIR /opt\nWORKDIR ml\nENV PYTHONPATH=/opt/stepforge/sdk:/opt/more", "'/opt/more', which is none of"),
        ("WORKDIR /opt/ml\nENV DEBUG", "'DEBUG' without a value"),
    ],
    ids=["elsewhere", "unknown sources", "old form of ENV"],
)
def test_what_cannot_be_the_same_here_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(f'FROM a\n{text}\nENTRYPOINT ["python"]\n')
    with pytest.raises(InvalidInput, match=message):
        image_of(path, "train", SOURCES)


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
