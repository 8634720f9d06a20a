"""Several processes that train as one, through accelerate.

Every rank runs the same program on the same whole batch, and what is heavy is split: `sample` splits its prompts,
`micro_batches` its rows, the loop sums the gradients. All else, advantages and probes and the guard's decisions, is
computed by each rank from the same numbers, so no part of an algorithm knows how many there are, and the same spec
gives the same result on any number of processes, to rounding (with dropout: in distribution). A judge is asked once, by
rank 0, and the others are told. Only rank 0 reads and writes checkpoints, metrics and the model.

The network is not wrapped in DistributedDataParallel: its hooks want as many backward passes on every rank, and a rank
here has as many micro-batches as its rows fill. Not covered: a model that does not fit on one device (FSDP).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

BUCKET = 1 << 25
"""Elements that travel in one message: few messages, and little memory beside the gradients."""
PATIENCE = timedelta(hours=4)
"""How long ranks wait for one that judges or writes a checkpoint. A dead one is noticed at once, by its launcher."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process and its peers. Alone, nothing is sent and accelerate is not imported."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def own(self, count: int) -> slice:
        """This rank's part of `count` items in order; the parts of all follow each other and differ by one at most."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def gather(self, items: list[Item]) -> list[Item]:
        """The items of all ranks, in the order of the ranks."""
        if self.world == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[Item] = gather_object(items)
        return gathered

    def sum(self, *values: float) -> list[float]:
        """Sums over the ranks, each in double precision."""
        if self.world == 1:
            return list(values)
        from accelerate.utils import reduce

        total: Tensor = reduce(torch.tensor(values, dtype=torch.float64, device=self.device), reduction="sum")
        return total.tolist()

    def same(self, make: Callable[[], Item]) -> Item:
        """What `make` gives on rank 0, the only one that calls it."""
        if self.world == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [make() if self.first else None]
        broadcast_object_list(box, from_process=0)
        made: Item = box[0]
        return made

    def any(self, flag: object) -> bool:
        """Whether it holds on some rank."""
        return self.sum(float(bool(flag)))[0] > 0

    def sum_gradients(self, parameters: Collection[Tensor]) -> None:
        """Make every rank's gradients their sum. A rank without rows has none, which counts as zero."""
        if self.world == 1:
            return
        from accelerate.utils import reduce

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            total = reduce(torch.cat([gradient.flatten() for gradient in bucket]), reduction="sum")
            for gradient, part in zip(bucket, total.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Put rank 0's values into the tensors of all."""
        if self.world == 1:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            for tensor in tensors:
                # A collective wants one of its own device, and one whose bytes lie together.
                sent = tensor.detach().to(self.device).contiguous()
                tensor.copy_(broadcast(sent, from_process=0))


@lru_cache(maxsize=1)
def ranks() -> Ranks:
    """Of this process, by the environment that its launcher made. The first call joins the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
    )
    return Ranks(accelerator.process_index, accelerator.num_processes, str(accelerator.device))


def buckets(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one kind each, in order, up to BUCKET elements together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET
        if full or (bucket and bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
