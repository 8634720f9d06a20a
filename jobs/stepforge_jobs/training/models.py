"""Models: made from scratch, read from a local Hugging Face directory, or saved as one. Nothing is ever downloaded.

Adapters (LoRA) are merged into the weights where a model is saved, so that every artifact is a whole model.
Not covered: pickled weights (refused), checkpoints that are stored quantised.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stepforge.contracts.base import Sha256
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.reports import StageReport
from stepforge.contracts.work import Asking, LocalModel, Lora, ScratchModel
from stepforge.errors import InvalidInput
from stepforge_jobs.directories import check_directory
from stepforge_jobs.job import Job
from stepforge_jobs.training.asking import Asker
from stepforge_jobs.training.text import Codec, scratch_tokenizer

RUN = "run.json"
ONE_THREAD_PARAMETERS = 1_000_000
"""Up to about here one thread is faster than two."""


@dataclass
class Policy:
    """What a stage trains: the network, its text conventions and where it comes from."""

    network: Any
    codec: Codec
    context: int
    """Longest sequence, in tokens."""
    parents: tuple[Sha256, ...] = ()
    asking: Asking = "plain"
    folder: Path | None = None
    """Where its weights were read from."""

    @property
    def asker(self) -> Asker:
        return Asker(self.codec, self.asking)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


def policy_of(job: Job, data: Manifest, *, seed: int, lora: Lora | None = None) -> Policy:
    """The policy that a training job starts from, its adapters not added yet."""
    bits = None if lora is None else lora.bits
    step_end = data.metadata.get("step_end")
    if isinstance(job.spec.model, ScratchModel):
        if bits is not None:
            raise InvalidInput("random weights cannot be trained in 4 bits: leave lora.bits out, or give --model PATH")
        policy = from_scratch(job.spec.model, data.metadata.get("vocabulary", ()), step_end=step_end, seed=seed)
    else:
        assert isinstance(job.spec.model, LocalModel)
        policy = from_artifact(job, step_end=step_end, bits=bits)
    use_threads(policy.parameters)
    return policy


def from_artifact(job: Job, *, step_end: str | None, bits: int | None = None) -> Policy:
    """The model of the channel `model`, with its own manifest as the last of its parents."""
    manifest = job.artifact("model")
    policy = from_directory(job.channel("model"), step_end=step_end, bits=bits)
    policy.parents = (*parents_of(job.channel("model")), manifest.sha256)
    policy.asking = manifest.metadata.get("asking", "plain")
    return policy


def from_scratch(model: ScratchModel, vocabulary: Sequence[str], *, step_end: str | None, seed: int) -> Policy:
    """A Llama of random weights with std 1/sqrt(fan_in): the usual .02 keeps tiny models from learning at all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = scratch_tokenizer(vocabulary, step_end=step_end)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        intermediate_size=4 * model.hidden_size,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.heads,
        max_position_embeddings=model.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    network = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    network.to(device=best_device())  # type: ignore[call-arg]
    return Policy(network=network, codec=Codec(tokenizer, step_end=step_end), context=model.context)


def from_directory(folder: Path, *, step_end: str | None, bits: int | None = None) -> Policy:
    """A local Hugging Face directory, in float32 or in 4 bits for adapters above it.

    Raises InvalidInput naming what is missing, IntegrityError for pickles.
    """
    check_directory(folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    network = _weights(folder, **({} if bits is None else _in_4_bits()))
    if bits is None:
        network.to(device=best_device())
    known = network.get_input_embeddings().weight.shape[0]
    if (most := max(tokenizer.get_vocab().values(), default=0)) >= known:
        raise InvalidInput(
            f"{folder} has a tokenizer with token {most}, but its weights know {known} tokens, 0 to {known - 1}: the "
            "two are of different models, or tokens were added without resize_token_embeddings"
        )
    context = getattr(network.config, "max_position_embeddings", None) or 2_048
    return Policy(network=network, codec=Codec(tokenizer, step_end=step_end), context=context, folder=folder)


def _weights(folder: Path, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM

    without_bars()
    return AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, **{"dtype": torch.float32, **more}
    )


def _in_4_bits() -> dict[str, Any]:
    """Arguments of from_pretrained for NF4 weights (arXiv 2305.14314). Raises InvalidInput where nothing can do it."""
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        lacking = "no CUDA device" if not torch.cuda.is_available() else "no package bitsandbytes"
        raise InvalidInput(
            f"lora.bits = 4 needs a CUDA device and the package bitsandbytes, and this job has {lacking}: "
            "leave lora.bits out to train adapters above float32 weights"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}, "dtype": torch.bfloat16}


def parents_of(folder: Path) -> tuple[Sha256, ...]:
    """Ancestors that a model's run.json names; none where another tool wrote it."""
    path = folder / RUN
    return StageReport.model_validate_json(path.read_bytes()).parents if path.is_file() else ()


def with_lora(policy: Policy, lora: Lora | None, *, seed: int) -> Policy:
    """The same policy with low-rank adapters on all linear layers; only they are trained."""
    if lora is None:
        return policy
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    torch.manual_seed(seed)
    network = get_peft_model(policy.network, config)
    return replace(policy, network=network)


def save(policy: Policy, folder: Path) -> None:
    """Write a directory that `transformers` loads alone: adapters are merged into the weights."""
    network = policy.network
    without_bars()
    if hasattr(network, "merge_and_unload"):
        if getattr(network, "is_loaded_in_4bit", False):
            network = above_float32(policy)
        network = network.merge_and_unload()
    network.generation_config.eos_token_id = policy.codec.eos
    network.generation_config.pad_token_id = policy.codec.pad
    network.save_pretrained(folder)
    policy.codec.tokenizer.save_pretrained(folder)


def above_float32(policy: Policy) -> Any:
    """A policy's adapters above the float32 weights that it was read from: merged into 4 bits they would be rounded."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    assert policy.folder is not None
    network = get_peft_model(_weights(policy.folder), policy.network.peft_config["default"])
    set_peft_model_state_dict(network, get_peft_model_state_dict(policy.network))
    return network


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def without_bars() -> None:
    """No progress bars: they have no line ends, and would run into the progress lines where a log merges both."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def use_threads(parameters: int) -> None:
    """One thread for tiny models, otherwise as many as there are cores."""
    torch.set_num_threads(1 if parameters <= ONE_THREAD_PARAMETERS else os.cpu_count() or 1)
