"""What a folder must hold to be a Hugging Face model whose reading runs no code. Standard library alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepforge.contracts.manifests import PICKLES

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of them holds the vocabulary."""
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def missing_files(folder: Path) -> list[str]:
    """Names of what a model folder lacks, the shards that its index names among them; none where it is whole."""
    there = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    missing = [] if "config.json" in there else ["config.json"]
    missing += _missing_weights(folder, there)
    if not there.intersection(TOKENIZERS):
        missing.append(TOKENIZERS[0])
    return missing


def pickles(folder: Path) -> list[str]:
    """Relative paths of files in formats that can run code when they are read."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name.lower().endswith(PICKLES))
    return sorted(path.relative_to(folder).as_posix() for path in found)


def context_of(folder: Path) -> int | None:
    """The longest sequence that config.json names, in tokens; None where it names none that can be read."""
    found = _table(folder / "config.json")
    context = found.get("max_position_embeddings", found.get("n_positions"))
    return context if isinstance(context, int) and context > 0 else None


def has_chat_template(folder: Path) -> bool:
    """Whether transformers would find a chat template: in a file of its own, or in tokenizer_config.json."""
    if any((folder / name).is_file() for name in CHAT_TEMPLATES):
        return True
    return any((folder / "additional_chat_templates").glob("*.jinja")) or bool(
        _table(folder / "tokenizer_config.json").get("chat_template")
    )


def _table(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where it is none. What is wrong with it is said by whoever loads the model."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _missing_weights(folder: Path, there: set[str]) -> list[str]:
    if INDEX not in there:
        return [] if any(name.endswith(".safetensors") for name in there) else ["*.safetensors"]
    try:
        shards = json.loads((folder / INDEX).read_bytes())["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"a readable {INDEX}"]
    return sorted(set(shards) - there)
