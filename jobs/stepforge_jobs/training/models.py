"""Models: made from scratch, read from a local Hugging Face directory, or saved as one. Nothing is ever downloaded.

Not covered: pickled weights (refused), quantised checkpoints, chat templates (prompts are read as plain text).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stepforge.contracts.base import Sha256
from stepforge.contracts.jobs import LocalModel, Lora, ScratchModel
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.reports import StageReport
from stepforge.errors import InvalidInput
from stepforge_jobs.directories import check_directory
from stepforge_jobs.job import Job
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

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


def policy_of(job: Job, data: Manifest, *, seed: int) -> Policy:
    """The policy that a training job starts from."""
    step_end = data.metadata.get("step_end")
    if isinstance(job.spec.model, ScratchModel):
        policy = from_scratch(job.spec.model, data.metadata.get("vocabulary", ()), step_end=step_end, seed=seed)
    else:
        assert isinstance(job.spec.model, LocalModel)
        policy = from_artifact(job, step_end=step_end)
    use_threads(policy.parameters)
    return policy


def from_artifact(job: Job, *, step_end: str | None) -> Policy:
    """The model of the channel `model`, with its own manifest as the last of its parents."""
    manifest = job.artifact("model")
    policy = from_directory(job.channel("model"), step_end=step_end)
    policy.parents = (*parents_of(job.channel("model")), manifest.sha256)
    return policy


def from_scratch(model: ScratchModel, vocabulary: Sequence[str], *, step_end: str | None, seed: int) -> Policy:
    """A Llama of random weights with std 1/sqrt(fan_in): the usual .02 keeps tiny models from learning at all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = scratch_tokenizer(vocabulary, step_end=step_end)
    if model.hidden_size % model.heads or (model.hidden_size // model.heads) % 2:
        raise InvalidInput(f"hidden_size {model.hidden_size} must be an even multiple of heads {model.heads}")
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
    return Policy(network=network.float(), codec=Codec(tokenizer, step_end=step_end), context=model.context)


def from_directory(folder: Path, *, step_end: str | None) -> Policy:
    """A local Hugging Face directory. Raises InvalidInput naming what is missing, IntegrityError for pickles."""
    check_directory(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    without_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    network = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    if torch.cuda.is_available():
        network.to(device="cuda")  # type: ignore[call-arg]
    context = getattr(network.config, "max_position_embeddings", None) or 2_048
    return Policy(network=network, codec=Codec(tokenizer, step_end=step_end), context=context)


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
    return Policy(network=network, codec=policy.codec, context=policy.context, parents=policy.parents)


def save(policy: Policy, folder: Path) -> None:
    """Write a directory that `transformers` loads alone: adapters are merged into the weights."""
    network = policy.network
    without_bars()
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    network.generation_config.eos_token_id = policy.codec.eos
    network.generation_config.pad_token_id = policy.codec.pad
    network.save_pretrained(folder)
    policy.codec.tokenizer.save_pretrained(folder)


def without_bars() -> None:
    """No progress bars: they have no line ends, and would run into the progress lines where a log merges both."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def use_threads(parameters: int) -> None:
    """One thread for tiny models, otherwise as many as there are cores."""
    torch.set_num_threads(1 if parameters <= ONE_THREAD_PARAMETERS else os.cpu_count() or 1)
