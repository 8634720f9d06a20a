"""What a directory must hold to be a model. Needs no torch, so that what is refused is refused at once."""

from __future__ import annotations

from pathlib import Path

from stepforge.contracts.manifests import Manifest, check_files, read_manifest
from stepforge.contracts.model_folder import missing_files, pickles
from stepforge.errors import IntegrityError, InvalidInput


def verified_model(folder: Path, *, expected_sha256: str | None = None) -> Manifest:
    """The manifest of a model whose every file was compared. Raises IntegrityError for altered files and pickles."""
    manifest = read_manifest(folder, expected_sha256=expected_sha256)
    check_directory(folder)
    check_files(folder, manifest)
    return manifest


def check_directory(folder: Path) -> None:
    """Refuse what is not a whole model, and anything that could run code when it is read."""
    if pickled := pickles(folder):
        raise IntegrityError(
            f"{folder} has the pickle {pickled[0]!r}, which can run code when read: only safetensors are loaded"
        )
    if missing := missing_files(folder):
        files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        there = ", ".join(files[:10]) or "nothing"
        raise InvalidInput(
            f"{folder} is not a model: missing {', '.join(missing)}; it holds {there}. Models are never downloaded"
        )
