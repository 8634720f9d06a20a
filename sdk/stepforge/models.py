"""Model directories of the user: what must be there before anything is uploaded."""

from __future__ import annotations

from pathlib import Path

from stepforge.contracts.manifests import PICKLES
from stepforge.errors import InvalidInput

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of them holds the vocabulary."""


def check_model_folder(folder: Path) -> Path:
    """A Hugging Face directory with safetensors and no pickle. Raises InvalidInput naming the path and what is wrong.

    A pickle beside safetensors, such as the Trainer's training_args.bin, is refused here: the job would refuse it.
    """
    if not folder.is_dir():
        raise InvalidInput(
            f"model {str(folder)!r} is not a directory: give a local Hugging Face directory; nothing is downloaded"
        )
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append(TOKENIZERS[0])
    pickled = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in PICKLES)
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors" + (f" (pickled weights are refused: {', '.join(pickled)})" if pickled else ""))
    if missing:
        raise InvalidInput(f"model {str(folder)!r} lacks {', '.join(missing)}: save it with save_pretrained()")
    if pickled:
        raise InvalidInput(
            f"model {str(folder)!r} has {', '.join(pickled)}, which can run code when read: give a folder without it"
        )
    return folder
