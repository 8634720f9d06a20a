"""Checkpoints that are copied while they are written."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stepforge.local.sagemaker.objects import CheckpointSync, Objects


class Bucket:
    """Remembers what was put, in order."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, bytes]] = []

    def upload_file(self, path: str, bucket: str, key: str, ExtraArgs: object = None) -> None:
        self.puts.append((key, Path(path).read_bytes()))


def write(path: Path, text: str, *, age: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


def test_complete_files_are_copied_once_and_the_manifest_last(tmp_path: Path) -> None:
    folder, bucket = tmp_path / "checkpoints", Bucket()
    folder.mkdir()
    write(folder / "restored", "old")
    sync = CheckpointSync(Objects(bucket), folder, "s3://b/prefix/", {})
    write(folder / "step-1/manifest.json", "m", age=3)
    write(folder / "step-1/weights", "w", age=2)
    write(folder / "step-2.tmp/weights", "no")
    write(folder / ".hidden", "no")
    write(folder / "fresh", "f", age=0)
    assert sync.step() == 2
    assert bucket.puts == [("prefix/step-1/weights", b"w"), ("prefix/step-1/manifest.json", b"m")]
    assert sync.step() == 0
    write(folder / "step-1/weights", "changed")
    assert sync.step(final=True) == 2
    assert sorted(bucket.puts[2:]) == [("prefix/fresh", b"f"), ("prefix/step-1/weights", b"changed")]
