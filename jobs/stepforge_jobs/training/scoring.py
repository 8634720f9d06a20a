"""Log-probabilities of given completions, in micro-batches that fit the memory.

Legend: B rows, T positions from the first that predicts a completion's token, V vocabulary, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from stepforge_jobs.training.ranks import ranks

TOKENS = {"cpu": 1_024, "cuda": 16_384}
LOGITS = 1 << 26
"""Most tokens and most logits of one micro-batch. On CPU small ones of like length are a quarter faster than one."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Scored:
    logits_BTV: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    """Where a target belongs to a completion."""
    hidden_BTH: Tensor | None = None
    """The network's last hidden states, from which the logits are made; where they were asked for."""

    def logps(self, temperature: float = 1.0) -> Tensor:
        """Log-probability of each target, BT; 0 outside the completions."""
        logps_BTV = torch.log_softmax(self.logits_BTV / temperature, -1)
        picked_BT = logps_BTV.gather(-1, self.targets_BT[..., None])[..., 0]
        return torch.where(self.mask_BT, picked_BT, torch.zeros_like(picked_BT))

    def entropy(self, temperature: float = 1.0) -> Tensor:
        """Entropy of each next-token distribution in nats, BT; no gradient."""
        with torch.no_grad():
            logps_BTV = torch.log_softmax(self.logits_BTV / temperature, -1)
            return -(logps_BTV.exp() * logps_BTV).sum(-1)


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """float32 on CPU; on CUDA bfloat16 where autocast thinks it safe, weights and moments stay float32."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def score(
    network: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    device: torch.device,
    hidden: bool = False,
) -> Scored:
    """One forward pass over prompts and completions. Rows are padded on the right, so no attention mask is needed."""
    lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
    width, first = max(lengths), min(len(prompt) for prompt in prompts) - 1
    rows = [[*p, *c, *([0] * (width - len(p) - len(c)))] for p, c in zip(prompts, completions, strict=True)]
    ids_BL = torch.tensor(rows, device=device)
    with precision(device):
        out = network(
            input_ids=ids_BL[:, :-1], logits_to_keep=width - 1 - first, use_cache=False, output_hidden_states=hidden
        )
    columns_T = torch.arange(first, width - 1, device=device)
    start_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    end_B = torch.tensor(lengths, device=device) - 1
    mask_BT = (columns_T >= start_B[:, None]) & (columns_T < end_B[:, None])
    return Scored(
        logits_BTV=out.logits.to(torch.promote_types(out.logits.dtype, torch.float32)),
        targets_BT=ids_BL[:, first + 1 :],
        mask_BT=mask_BT,
        hidden_BTH=out.hidden_states[-1][:, first:] if hidden else None,
    )


def gathered(rows: list[Tensor]) -> list[Tensor]:
    """All rows, of which each rank has filled its own."""
    if (group := ranks()).world > 1:
        for index, row in group.gather([(index, row.cpu()) for index, row in enumerate(rows) if len(row)]):
            rows[index] = row
    return rows


def laid_out(rows: Sequence[Tensor], mask_BT: Tensor) -> Tensor:
    """Values of each completion's tokens where `mask_BT` has these tokens, BT; 0 elsewhere."""
    laid_BT = torch.zeros(mask_BT.shape, dtype=rows[0].dtype, device=mask_BT.device)
    laid_BT[mask_BT] = torch.cat(list(rows)).to(mask_BT.device)
    return laid_BT


def micro_batches(lengths: Sequence[int], vocabulary: int, *, device: torch.device) -> Iterator[list[int]]:
    """This rank's row numbers, in micro-batches of rows of like length that fit the device's tokens when padded.

    Every so-manieth row by length, so that the ranks have as much to do; sums over rows are to be summed over ranks.
    """
    most = TOKENS.get(device.type, TOKENS["cuda"])
    chosen: list[int] = []
    group = ranks()
    for index in sorted(range(len(lengths)), key=lengths.__getitem__)[group.rank :: group.world]:
        padded = lengths[index] * (len(chosen) + 1)
        if chosen and (padded > most or padded * vocabulary > LOGITS):
            yield chosen
            chosen = []
        chosen.append(index)
    if chosen:
        yield chosen


def pick(items: Sequence[Item], rows: Sequence[int]) -> list[Item]:
    return [items[row] for row in rows]
