"""Log-probabilities of rollouts: over shared prefixes where that is exact, else row by row.

Both ways give parts of a batch, one forward pass each; whoever takes the gradient of a part does so before asking for
the next, so that the memory of one part is all that is needed.

Legend: B rows of a part, T tokens of its longest completion (row by row: positions, of which some are no completion's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepforge.contracts.metrics import Metric
from stepforge_jobs.prefixes.network import log_probabilities
from stepforge_jobs.prefixes.packing import Pack, in_tree_order, own_rows, packs
from stepforge_jobs.prefixes.reasons import dropout_of, reason_of
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.scoring import gathered, micro_batches, pick, precision, score

TOKENS = {"cpu": (2_048, 4_096), "cuda": (16_384, 16_384)}
"""Bounds of the most tokens of one pack; a single row may have more."""
ACTIVATIONS = 1 << 30
"""Bytes that the activations of one pack may take by the estimate in `most_tokens`, between these bounds."""
SWITCHED_OFF = "share_prefixes is false"
EMPTY = "no completion has a token"
TORN = "the sides of a pair do not fit in one pack"
GRADIENT = "the gradient"
"""What a stage's report calls the passes that learn."""


@dataclass(frozen=True)
class Part:
    """Rows `rows` of a batch. Outside `mask_BT` the values mean nothing."""

    rows: list[int]
    logps_BT: Tensor
    entropy_BT: Tensor
    mask_BT: Tensor


class Sharing:
    """What a stage's scoring does: `wanted` by its settings, and each reason why not, told once through `say`."""

    def __init__(self, *, wanted: bool, say: Callable[[str], None] = lambda text: None) -> None:
        self._wanted, self._say = wanted, say
        self.reasons: list[str] = []
        """Why some passes went row by row, in the order in which that was found."""
        self._shared: set[bool] = set()
        """Of passes with a gradient, and of those without, whether some went over packs."""

    def parts(
        self,
        network: Any,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        temperature: float,
        device: torch.device,
    ) -> Iterator[Part]:
        """This rank's rows, each in one part; sums over rows are to be summed over ranks."""
        if self._shares(network, completions):
            group = ranks()
            rows = own_rows(prompts, completions, rank=group.rank, world=group.world)
            made = packs(prompts, completions, rows, most=most_tokens(network, device))
            self._shared.add(torch.is_grad_enabled())
            yield from _over_packs(network, made, prompts, completions, temperature, device)
        else:
            yield from _row_by_row(network, prompts, completions, temperature, device)

    def pairs(
        self,
        network: Any,
        prompts: Sequence[Sequence[int]],
        sides: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
        *,
        temperature: float,
        device: torch.device,
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Numbers of this rank's pairs, each in one part, and the log-probabilities of both sides' completions.

        A pair whose sides do not fit in one pack makes all go row by row.
        """
        count, both = len(prompts), [*sides[0], *sides[1]]
        group = ranks()
        made: list[Pack] = []
        if self._shares(network, both):
            # By prompt and both sides: the ranks take whole pairs.
            together = [[*one, *other] for one, other in zip(*sides, strict=True)]
            own = set(own_rows(prompts, together, rank=group.rank, world=group.world))
            twice = [*prompts, *prompts]
            rows = [row for row in in_tree_order(twice, both) if row % count in own and both[row]]
            made = list(packs(twice, both, rows, most=most_tokens(network, device)))
            if not all(_whole_pairs(pack.rows, both) for pack in made):
                self._tell(TORN)
            else:
                self._shared.add(torch.is_grad_enabled())
                for part in _over_packs(network, made, twice, both, temperature, device):
                    sums = dict(zip(part.rows, (part.logps_BT * part.mask_BT).sum(1), strict=True))
                    numbers = sorted({row % count for row in part.rows})
                    none = part.logps_BT.new_zeros(())
                    chosen, refused = ([sums.get(n + side, none) for n in numbers] for side in (0, count))
                    yield numbers, torch.stack(chosen), torch.stack(refused)
                return
        lengths = [2 * (len(p) + max(len(c), len(r))) for p, c, r in zip(prompts, *sides, strict=True)]
        for numbers in micro_batches(lengths, network.config.vocab_size, device=device):
            given = pick(prompts, numbers) * 2, pick(sides[0], numbers) + pick(sides[1], numbers)
            with clock().phase(Metric.FORWARD_SECONDS):
                sums_2N = score(network, *given, device=device).logps(temperature).sum(1)
            chosen_N, refused_N = sums_2N.chunk(2)
            yield numbers, chosen_N, refused_N

    @torch.no_grad()
    def logps(
        self,
        network: Any,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        temperature: float,
        device: torch.device,
    ) -> list[Tensor]:
        """Log-probability of each completion's tokens, a row each, without gradient and without dropout."""
        rows: list[Tensor] = [torch.empty(0)] * len(prompts)
        was_training = network.training
        network.eval()
        for part in self.parts(network, prompts, completions, temperature=temperature, device=device):
            for row, logps_T, mask_T in zip(part.rows, part.logps_BT, part.mask_BT, strict=True):
                rows[row] = logps_T[mask_T]
        network.train(was_training)
        return gathered(rows)

    def choice(self, *of: str) -> str:
        """For the stage's report: where tokens that rows share were computed once, and why elsewhere they were not."""
        if not self._wanted:
            return f"row by row: {SWITCHED_OFF}"
        reasons = "; ".join(self.reasons)
        if reasons and not self._shared:
            return f"sampling alone reads what prompts share once, as far as that is exact; else row by row: {reasons}"
        apart = f"{GRADIENT} " if reasons and GRADIENT in of and True not in self._shared else ""
        where = ", ".join(name for name in of if not apart or name != GRADIENT)
        exceptions = f"; but {apart}row by row: {reasons}" if reasons else ""
        return f"tokens that rollouts share are computed once in {where}{exceptions}"

    def _shares(self, network: Any, completions: Sequence[Sequence[int]]) -> bool:
        if not completions:
            return False
        reason = SWITCHED_OFF if not self._wanted else None if any(completions) else EMPTY
        reason = reason or reason_of(network) or dropout_of(network)
        if reason is not None:
            self._tell(reason)
        return reason is None

    def _tell(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)
            self._say(f"prefixes are not shared: {reason}")


def _whole_pairs(rows: Sequence[int], both: Sequence[Sequence[int]]) -> bool:
    """Whether no row's other side is elsewhere; one without a token is nowhere."""
    count, inside = len(both) // 2, set(rows)
    return all((row + count) % len(both) in inside or not both[(row + count) % len(both)] for row in rows)


def most_tokens(network: Any, device: torch.device) -> int:
    """Of one pack: what a forward pass keeps for backward bounds it, since a pack is as long as its tree is large."""
    config = network.config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activation_bytes = 4 * config.num_hidden_layers * (10 * config.hidden_size + 4 * wide)
    low, high = TOKENS[device.type]
    return min(high, max(low, ACTIVATIONS // activation_bytes))


def _over_packs(
    network: Any,
    made: Iterable[Pack],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    device: torch.device,
) -> Iterator[Part]:
    for pack in made:
        with clock().phase(Metric.FORWARD_SECONDS):
            found = log_probabilities(network, pack, temperature=temperature, precision=precision)
        if torch.is_grad_enabled():
            whole = sum(len(prompts[row]) + len(completions[row]) - 1 for row in found.rows)
            read, scored = len(pack.tokens), len({node for nodes in pack.sources for node in nodes})
            clock().count(network, read=read, scored=scored, pairs=sum(pack.positions) + read, whole=whole)
        yield Part(found.rows, found.logps_BT, found.entropy_BT, found.mask_BT)


def _row_by_row(
    network: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    device: torch.device,
) -> Iterator[Part]:
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    for rows in micro_batches(lengths, network.config.vocab_size, device=device):
        with clock().phase(Metric.FORWARD_SECONDS):
            scored = score(network, pick(prompts, rows), pick(completions, rows), device=device)
            part = Part(rows, scored.logps(temperature), scored.entropy(temperature), scored.mask_BT)
        if torch.is_grad_enabled():
            read = [lengths[row] - 1 for row in rows]
            tokens, pairs = sum(len(completions[row]) for row in rows), sum(n * (n + 1) // 2 for n in read)
            clock().count(network, read=sum(read), scored=tokens, pairs=pairs, whole=sum(read))
        yield part
