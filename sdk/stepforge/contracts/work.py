"""What the jobs do, setting by setting: the work of each type, and the model that training starts from."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract, NonNegativeInt, PositiveFloat, PositiveInt, Share, refuse_unread
from stepforge.contracts.losses import Normalisation, PolicyLoss, clips
from stepforge.contracts.reinforcement import VLLM_TEMPERATURES, Dpo, KlControl, KlPenalty, Ppo, Vllm

Asking = Literal["plain", "chat", "think"]
"""How a model is asked. `plain`: the text itself. `chat`: through the tokenizer's chat template. `think`: a system
prompt asks for thoughts in <think>...</think> and then the answer alone, through the template where there is one."""


class ScratchModel(Contract):
    """A small Llama-architecture model that starts from random weights with the domain's own vocabulary."""

    type: Literal["scratch"] = "scratch"
    hidden_size: PositiveInt = 64
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    context: PositiveInt = 64
    """Longest sequence, in tokens."""

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            near = max(1, round(self.hidden_size / (2 * self.heads))) * 2 * self.heads
            raise ValueError(
                f"hidden_size {self.hidden_size} is no even multiple of heads {self.heads}, as rotary positions need: "
                f"set hidden_size to {near}, or change heads"
            )
        return self


class LocalModel(Contract):
    """A Hugging Face directory that arrives through the `model` channel."""

    type: Literal["local"] = "local"


class Lora(Contract):
    """Low-rank adapters on all linear layers (arXiv 2106.09685)."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.05
    bits: Literal[4] | None = None
    """Precision of the frozen weights below the adapters: 4 bits (NF4, arXiv 2305.14314; CUDA alone), or float32."""


# ── What the jobs do ─────────────────────────────────────────────────────────────────────────────


class PartOf(Contract):
    """Which part of a generated dataset a job writes: the machine `dataset` gives a job each, and joins them."""

    number: NonNegativeInt
    """From 0, in the order of the shards."""
    of: PositiveInt

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.number >= self.of:
            raise ValueError(f"part {self.number} is none of {self.of}: they are numbered from 0 to {self.of - 1}")
        return self


class DatasetWork(Contract):
    """Write records, their shards and the manifest: from a domain's generator, or from the `records` channel."""

    type: Literal["dataset"] = "dataset"
    domain: str
    seed: int = 0
    corpus: NonNegativeInt = 12_000
    """Records of what a base model has read: careless authors."""
    train: NonNegativeInt = 48
    """Expert trajectories, retained ones included."""
    rl: NonNegativeInt = 600
    test: NonNegativeInt = 200
    """Records of each test split."""
    shard_rows: PositiveInt = 2_000
    part: Annotated[PartOf | None, Field(exclude_if=lambda part: part is None)] = None
    """Only these of its shards. Written where it is given alone, so that a whole dataset keeps its identity."""

    @property
    def shards(self) -> int:
        """How many shards it has at most: a domain may have fewer records than are asked for."""
        return sum(ceil(count / self.shard_rows) for count in (self.corpus, self.train, self.rl, *[self.test] * 3))


class GateWork(Contract):
    """Decide whether a dataset may be trained on, and write gate.json."""

    type: Literal["gate"] = "gate"
    sample: PositiveInt = 2_000
    """Most records whose verifier verdict is checked; structure is checked on all."""


class Optimisation(Contract):
    """What every training stage has in common."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,23}$")]
    """The stage's name in reports, such as `base` or `srl`."""
    steps: PositiveInt
    learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt = 10
    gradient_norm: PositiveFloat = 1.0
    seed: int = 0
    lora: Lora | None = None
    checkpoint_every: PositiveInt = 20
    """Optimiser steps between checkpoints: the most that an interruption can lose."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the model: those of the last step, or of the checkpoint with the highest `validation`. With
    `best` up to a fifth of the target problems of split `rl` is held out of training to measure it, in whole groups: at
    most 32, in RLVR at most `held_out`."""

    def cautions(self) -> list[str]:
        """What does less than it seems to, a sentence each."""
        if self.warmup_steps < self.steps:
            return []
        return [
            f"warmup_steps {self.warmup_steps} is not below steps {self.steps}, so the learning rate never comes near "
            f"{self.learning_rate:g}: lower warmup_steps, or train for more steps"
        ]

    def unread(self) -> dict[str, str]:
        """Settings that nothing reads as the others are, and why."""
        return {}

    def effective(self) -> dict[str, Any]:
        """What a stage is trained with, as JSON: defaults that hang on other settings filled in, what is unread out."""
        return self.model_dump(mode="json", exclude={"name", "type", *self.unread()})


class SftWork(Optimisation):
    """Supervised fine-tuning on prompts and whole expert trajectories; loss on the trajectory alone."""

    type: Literal["sft"] = "sft"
    name: str = "sft"
    split: Literal["corpus", "train"] = "train"
    steps: PositiveInt = 30
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-4


class PolicyGradient(Optimisation):
    """Groups of rollouts, advantages within the group, a clipped ratio: GRPO (arXiv 2402.03300) and its family."""

    loss: PolicyLoss = "grpo"
    """`dr_grpo` 2503.20783, `dapo` 2503.14476 (but see `dynamic_sampling`), `gspo` 2507.18071, `cispo` 2506.13585."""
    batch_prompts: PositiveInt = 16
    """Prompts in one step, from shuffled passes over all: where one pass ends in it, a prompt may come twice."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts for each prompt (G)."""
    updates_per_batch: PositiveInt = 1
    """Optimiser steps on one batch of rollouts. The first is on policy, so clips are live from the second on."""
    temperature: PositiveFloat = 1.0
    max_new_tokens: PositiveInt = 64
    normalisation: Normalisation | None = None
    """What the centred rewards are divided by: the deviation of the `group`, the `batch` or all so far (`running`).

    None is what the loss's paper has: `none` for dr_grpo, otherwise `group`.
    """
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL penalty towards the stage's initial policy, on the batch's rollouts."""
    kl_penalty: KlPenalty = "k3_times_ratio"
    kl: KlControl | None = None
    clip: PositiveFloat | None = None
    """How far below 1 the ratio counts, from the second update on a batch on. None is the loss's own: see CLIPS."""
    clip_high: PositiveFloat | None = None
    """How far above 1. None is the loss's own, or `clip` where that is given."""
    dynamic_sampling: bool = False
    """Take only groups whose rewards spread, and draw fresh prompts in place of the others (arXiv 2503.14476)."""
    spread_above: Annotated[float, Field(ge=0)] = 1e-6
    """Dynamic sampling keeps a group whose rewards' population standard deviation is above this; no paper states it."""
    sampling_rounds: PositiveInt = 4
    """Most rounds of drawing in one step, the first included. What is not full then is trained on as it is."""
    share_prefixes: Annotated[bool, Field(exclude_if=lambda wanted: wanted is True)] = True
    """Whether tokens with which several rollouts begin are computed once, where that is exact. Written where it is
    false alone, so that what was made before there was this choice keeps its identity."""
    vllm: Annotated[Vllm | None, Field(exclude_if=lambda vllm: vllm is None)] = None
    """None: our own sampler. With `vllm` rollouts need a GPU and vLLM in an environment of its own; evaluations and
    probes keep to our own sampler. Written where it is given alone."""

    @model_validator(mode="after")
    def _vllm_can_sample(self) -> Self:
        if self.vllm is None:
            return self
        low, high = VLLM_TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(
                f"temperature {self.temperature:g} is not one that vllm samples at, {low:g} to {high:g}: "
                "change it, or leave vllm out"
            )
        if self.lora is not None and self.lora.bits is not None:
            raise ValueError(
                f"lora.bits {self.lora.bits} beside vllm: vLLM gets the adapters merged into the weights, which 4 bits "
                "would round. Leave lora.bits out, or vllm"
            )
        return self

    @model_validator(mode="after")
    def _one_weight_on_the_rollouts(self) -> Self:
        if self.beta and self.kl is not None and self.kl.penalise == "rollouts":
            raise ValueError(
                f"beta {self.beta:g} and kl.penalise 'rollouts' both weigh what holds the rollouts: "
                "leave beta out, or set kl.penalise to 'retained'"
            )
        return self

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        refuse_unread(self, self.unread())
        return self

    @property
    def clips(self) -> tuple[float, float]:
        """How far below and above 1 the ratio counts."""
        return clips(self.loss, self.clip, self.clip_high)

    @property
    def divisor(self) -> Normalisation:
        """`normalisation`, or what the loss's paper has."""
        return self.normalisation or ("none" if self.loss == "dr_grpo" else "group")

    def effective(self) -> dict[str, Any]:
        found = super().effective()
        own = dict(zip(("clip", "clip_high"), self.clips, strict=True)) | {"normalisation": self.divisor}
        found |= {name: value for name, value in own.items() if name in found}
        if self.kl is not None:
            found["kl"] = self.kl.model_dump(mode="json", exclude=set(self.kl.unread()))
        return found

    def unread(self) -> dict[str, str]:
        unread: dict[str, str] = {}
        if self.updates_per_batch == 1:
            why = "where updates_per_batch is 1, since the first update is on the policy that sampled: its ratio is 1"
            unread |= dict.fromkeys(("clip", "clip_high"), why)
        if not self.dynamic_sampling:
            unread |= dict.fromkeys(("spread_above", "sampling_rounds"), "where dynamic_sampling is off")
        if not self.beta and (self.kl is None or self.kl.penalise == "retained"):
            unread["kl_penalty"] = "where no KL on rollouts is penalised (beta above 0, or kl.penalise 'rollouts')"
        return unread


class SrlWork(PolicyGradient):
    """Supervised reinforcement learning (arXiv 2510.25992): one expert step at a time, similarity as reward.

    The defaults of `instances`, `asking`, `next_title`, `window` and `dynamic_sampling` are the paper's.
    """

    type: Literal["srl"] = "srl"
    name: str = "srl"
    steps: PositiveInt = 100
    learning_rate: PositiveFloat = 5e-4
    max_new_tokens: PositiveInt = 24
    similarity: Literal["characters", "words"] = "characters"
    """What is matched; the paper leaves it open. Words suit a grammar whose words are its tokens."""
    instances: Literal["paper", "all", "whole"] = "paper"
    """What is asked for: `paper` is each of the steps 1 to N - 1 of N, `all` the last one too. `whole` is the solution
    at once, the paper's control with one similarity for all of it; `next_title` and `window` mean nothing to it."""
    asking: Asking = "think"
    """Also decides how the trained model is asked by the stages after this one, its evaluation and its endpoint."""
    next_title: bool = False
    """Whether the context names the title of the step that is asked for."""
    window: PositiveInt | None = None
    """Only the last so many steps stand in the context (2 in the paper's variant for software); all where None."""
    dynamic_sampling: bool = True
    order: Annotated[Literal["steps", "trajectories"], Field(exclude_if=lambda order: order == "steps")] = "steps"
    """What a pass over the instances shuffles: single `steps`, or whole `trajectories`, whose nested prompts then stand
    side by side and share more. Batches of trajectories are correlated: take many prompts in each. Written where it is
    not the default alone, so that what was made before there was this choice keeps its identity."""

    def unread(self) -> dict[str, str]:
        whole = ("next_title", "window", "order") if self.instances == "whole" else ()
        return super().unread() | dict.fromkeys(whole, "where instances is 'whole', which asks for no single step")


class RlvrWork(PolicyGradient):
    """Reinforcement learning with verifiable rewards: whole trajectories, judged by the record's verifier."""

    type: Literal["rlvr"] = "rlvr"
    name: str = "rlvr"
    steps: PositiveInt = 100
    learning_rate: PositiveFloat = 5e-4
    algorithm: Literal["grpo", "ppo", "dpo"] = "grpo"
    """`grpo`: the family that `loss` is from. `ppo`: with a value head. `dpo`: on verified and refused rollouts."""
    ppo: Ppo | None = None
    """None is PPO's defaults."""
    dpo: Dpo | None = None
    """None is DPO's defaults."""
    reward: Literal["outcome", "reward", "partial"] = "outcome"
    """`outcome`: 1 where every hard rule holds. `reward`: hard x soft. `partial`: mean of the rules, a control."""
    rehearsal_share: Share = 0.25
    """Share of prompts drawn from retained records, without which what the base knows is lost."""
    asking: Asking | None = None
    """None: as the model that this stage starts from was asked, `plain` where it does not say."""
    held_out: NonNegativeInt = 32
    """Most problems of split `rl` (and at most a fifth) that are never trained on: signs of hacking are looked for
    there at checkpoints. With 0 demonstrations take their place."""

    @model_validator(mode="after")
    def _can_choose_the_best(self) -> RlvrWork:
        if self.keep == "best" and not self.held_out:
            raise ValueError("keep 'best' chooses by held-out problems, and held_out is 0: set held_out to 1 or more")
        return self

    @model_validator(mode="after")
    def _settings_belong_to_the_algorithm(self) -> RlvrWork:
        algorithm = self.algorithm
        for name in ("ppo", "dpo"):
            if getattr(self, name) is not None and name != algorithm:
                raise ValueError(f"settings of {name!r} beside algorithm {algorithm!r}: set algorithm to {name!r}")
        if algorithm == "ppo" and self.normalisation == "group":
            raise ValueError("PPO has values in place of groups: set normalisation to 'none', 'batch' or 'running'")
        if algorithm == "dpo" and self.vllm is not None:
            raise ValueError("DPO has no ratio that would take vLLM's probabilities into account: leave vllm out")
        if algorithm == "dpo" and not self.beta:
            raise ValueError("DPO needs beta > 0, the weight of its implicit reward: 0.1 is usual")
        return self

    @property
    def clips(self) -> tuple[float, float]:
        return super().clips if self.algorithm == "grpo" else clips("grpo", self.clip, self.clip_high)

    @property
    def divisor(self) -> Normalisation:
        return super().divisor if self.algorithm == "grpo" else self.normalisation or "none"

    def effective(self) -> dict[str, Any]:
        found = super().effective()
        own = {"ppo": self.ppo or Ppo(), "dpo": self.dpo or Dpo()}.get(self.algorithm)
        return found if own is None else found | {self.algorithm: own.model_dump(mode="json")}

    def unread(self) -> dict[str, str]:
        others = {
            "grpo": (),
            "ppo": ("loss", "kl_penalty"),
            "dpo": ("loss", "kl_penalty", "clip", "clip_high", "normalisation"),
        }
        unread = super().unread()
        if self.algorithm == "ppo":
            # Its old log-probabilities are scored without dropout, so with dropout the first ratio is not 1.
            unread = {name: why for name, why in unread.items() if name not in ("clip", "clip_high")}
        return unread | dict.fromkeys(others[self.algorithm], f"where algorithm is {self.algorithm!r}")


class EvaluateWork(Contract):
    """Score a model on the held-out splits, greedy and sampled."""

    type: Literal["evaluate"] = "evaluate"
    samples: PositiveInt = 4
    """Sampled completions for each record, at temperature 1."""
    max_new_tokens: PositiveInt = 64
    seed: int = 0
    bootstrap: PositiveInt = 2_000
    limit: PositiveInt | None = None
    """Most records of each split; all where None."""


TrainingWork = Annotated[SftWork | SrlWork | RlvrWork, Field(discriminator="type")]
Work = Annotated[DatasetWork | GateWork | SftWork | SrlWork | RlvrWork | EvaluateWork, Field(discriminator="type")]
WorkType = Literal["dataset", "gate", "sft", "srl", "rlvr", "evaluate"]
WORK_TYPES: tuple[WorkType, ...] = ("dataset", "gate", "sft", "srl", "rlvr", "evaluate")
TRAINING: tuple[WorkType, ...] = ("sft", "srl", "rlvr")
