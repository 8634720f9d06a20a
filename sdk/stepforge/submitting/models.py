"""Model directories of the user: what must be there before anything is uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stepforge.contracts.model_folder import context_of, has_chat_template, missing_files, pickles
from stepforge.contracts.work import EvaluateWork, RlvrWork, SftWork, SrlWork, TrainingWork
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


def check_stages(folder: Path, stages: Sequence[TrainingWork], evaluation: EvaluateWork) -> None:
    """What stages ask of a model that its folder can tell it has not. Raises InvalidInput naming the stage."""
    context = context_of(folder)
    lengths = [(f"stage {stage.name!r}", stage.max_new_tokens) for stage in stages if not isinstance(stage, SftWork)]
    for where, tokens in [*lengths, ("the evaluation", evaluation.max_new_tokens)]:
        if context is not None and tokens > context:
            raise InvalidInput(
                f"max_new_tokens {tokens} of {where} is over the context of model {str(folder)!r}, {context} tokens "
                "(max_position_embeddings of its config.json): lower it"
            )
    for stage in stages:
        if isinstance(stage, SrlWork | RlvrWork) and stage.asking == "chat" and not has_chat_template(folder):
            raise InvalidInput(
                f"stage {stage.name!r} has asking 'chat', but model {str(folder)!r} has no chat template: set asking = "
                "'plain' or 'think' in this stage, or give a model with one (chat_template in tokenizer_config.json)"
            )
