"""Model directories of the user: what must be there before anything is uploaded."""

from __future__ import annotations

from pathlib import Path

from stepforge.errors import InvalidInput

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of formats that run code when they are loaded."""


def check_model_folder(folder: Path) -> Path:
    """A Hugging Face directory with safetensors. Raises InvalidInput naming the path and what is missing."""
    if not folder.is_dir():
        raise InvalidInput(
            f"model {str(folder)!r} is not a directory: give a local Hugging Face directory; nothing is downloaded"
        )
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        missing.append("*.safetensors" + (f" (pickled weights are refused: {', '.join(pickled)})" if pickled else ""))
    if missing:
        raise InvalidInput(f"model {str(folder)!r} lacks {', '.join(missing)}: save it with save_pretrained()")
    return folder
