"""Model directories of the user: what must be there before anything is uploaded."""

from __future__ import annotations

from pathlib import Path

from stepforge.contracts.model_folder import missing_files, pickles
from stepforge.errors import InvalidInput


def check_model_folder(folder: Path) -> Path:
    """A Hugging Face directory with safetensors and no pickle. Raises InvalidInput naming the path and what is wrong.

    A pickle beside safetensors, such as the Trainer's training_args.bin, is refused here: the job would refuse it.
    """
    if not folder.is_dir():
        raise InvalidInput(
            f"model {str(folder)!r} is not a directory: give a local Hugging Face directory; nothing is downloaded"
        )
    missing = missing_files(folder)
    if not (folder / "tokenizer_config.json").is_file():
        missing.append("tokenizer_config.json")
    pickled = pickles(folder)
    if missing:
        refused = f" (pickled weights are refused: {', '.join(pickled)})" if pickled else ""
        raise InvalidInput(f"model {str(folder)!r} lacks {', '.join(missing)}{refused}: save it with save_pretrained()")
    if pickled:
        raise InvalidInput(
            f"model {str(folder)!r} has {', '.join(pickled)}, which can run code when read: give a folder without it"
        )
    return folder
