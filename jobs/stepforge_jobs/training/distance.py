"""Exact KL between two policies at the tokens of completions; over shared prefixes where that is exact.

In a pack each place is computed once and counts for as many completions as go through it.

Legend: S places that something follows, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from stepforge_jobs.prefixes.network import in_chunks, read, sources_of
from stepforge_jobs.prefixes.packing import own_rows, packs
from stepforge_jobs.prefixes.reasons import dropout_of, reason_of
from stepforge_jobs.rl.kl import exact_kl
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.scoring import micro_batches, pick, precision, score
from stepforge_jobs.training.sharing import most_tokens


@dataclass(frozen=True)
class MeasuredKl:
    """Exact KL(policy || reference) at the tokens of completions, in nats."""

    total: float
    tokens: int
    completions: int

    @property
    def per_token(self) -> float:
        return self.total / max(1, self.tokens)

    @property
    def per_completion(self) -> float:
        """With completions of the policy itself, an unbiased estimate of the KL between whole completions."""
        return self.total / max(1, self.completions)


@contextmanager
def as_reference(policy: Policy) -> Iterator[None]:
    """The network as the stage found it: with adapters it is the same one without them. No dropout falls on it."""
    network = policy.network
    was_training = network.training
    network.eval()
    with network.disable_adapter() if hasattr(network, "disable_adapter") else nullcontext():
        yield
    network.train(was_training)


def kl_of(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    weight: float | None = None,
) -> MeasuredKl:
    """Exact KL(policy || reference) over all tokens of the completions.

    With a weight, the gradient of weight x the KL a token is added to the parameters; the completions count as given.
    """
    total, tokens = 0.0, max(1, sum(map(len, completions)))
    was_training = policy.network.training
    policy.network.train(was_training and weight is not None)
    shares = any(map(len, completions)) and not (
        reason_of(policy.network) or reason_of(reference.network) or dropout_of(policy.network)
    )
    with torch.set_grad_enabled(weight is not None):
        for found in (_over_packs if shares else _row_by_row)(policy, reference, prompts, completions):
            if weight is not None:
                (weight * found / tokens).backward()  # type: ignore[no-untyped-call]
            total += float(found.detach())
    policy.network.train(was_training)
    (total,) = ranks().sum(total)
    return MeasuredKl(total, tokens, len(completions))


def _over_packs(
    policy: Policy, reference: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Iterator[Tensor]:
    group, device = ranks(), policy.device
    rows = own_rows(prompts, completions, rank=group.rank, world=group.world)
    for pack in packs(prompts, completions, rows, most=most_tokens(policy.network, device)):
        sources, uses = sources_of(pack)
        uses_S = torch.tensor(uses, device=device)
        with torch.no_grad(), as_reference(reference):
            other_SH = read(reference.network, pack, sources, precision)
        own_SH = read(policy.network, pack, sources, precision)

        def some(own_sH: Tensor, other_sH: Tensor, uses_s: Tensor) -> Tensor:
            with precision(device):
                # Under the reference's own heading: where this is made again in backward, adapters are on.
                with torch.no_grad(), as_reference(reference):
                    other_sV = reference.network.get_output_embeddings()(other_sH)
                own_sV = policy.network.get_output_embeddings()(own_sH)
            wide = torch.promote_types(own_sV.dtype, torch.float32)
            return (exact_kl(own_sV.to(wide), other_sV.to(wide)) * uses_s).sum()

        vocabulary = policy.network.config.get_text_config().vocab_size
        yield torch.stack(in_chunks(some, own_SH, other_SH, uses_S, vocabulary=vocabulary)).sum()


def _row_by_row(
    policy: Policy, reference: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Iterator[Tensor]:
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    for rows in micro_batches(lengths, policy.network.config.vocab_size, device=policy.device):
        given = pick(prompts, rows), pick(completions, rows)
        with torch.no_grad(), as_reference(reference):
            other = score(reference.network, *given, device=policy.device)
        own = score(policy.network, *given, device=policy.device)
        yield exact_kl(own.logits_BTV, other.logits_BTV)[own.mask_BT].sum()
