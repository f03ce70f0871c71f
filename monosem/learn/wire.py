"""Tensors between ranks: of different lengths, of several kinds in one message, rows into their places."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.learn.pace import waiting


def gathered(t: Tensor, ranks: int, group: dist.ProcessGroup | None) -> list[Tensor]:
    """Every rank's vector, in the group's order; they may differ in length."""
    length = torch.tensor([len(t)], device=t.device)
    lengths = [torch.empty_like(length) for _ in range(ranks)]
    with waiting():
        dist.all_gather(lengths, length, group=group)
    longest = max(int(n) for n in lengths)
    if longest == 0:
        return [t] * ranks
    padded = torch.nn.functional.pad(t, (0, longest - len(t))).contiguous()
    found = [torch.empty_like(padded) for _ in range(ranks)]
    with waiting():
        dist.all_gather(found, padded, group=group)
    return [data[: int(n)] for data, n in zip(found, lengths, strict=True)]


def said_to_all(mine: Tensor, places: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Send `mine` to all others of the group, and receive theirs in their places, contiguous each."""
    peers, me, operations = dist.get_process_group_ranks(group), dist.get_rank(group), []
    for k, place in enumerate(places):
        if k != me:
            if mine.numel():
                operations.append(dist.P2POp(dist.isend, mine, peers[k], group))
            if place.numel():
                operations.append(dist.P2POp(dist.irecv, place, peers[k], group))
    done(operations)


def done(operations: list[dist.P2POp]) -> None:
    """Start all of these at once, and return when they are done."""
    with waiting():
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()


def joined_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of any dtypes as one vector of bytes."""
    return torch.cat([t.contiguous().reshape(-1).view(torch.uint8) for t in tensors])


def parted_bytes(data: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that `joined_bytes` made `data` of, which are shaped `like` these."""
    sizes = [t.numel() * t.element_size() for t in like]
    pieces = data.split(sizes)
    return [p.clone().view(t.dtype).reshape(t.shape) for p, t in zip(pieces, like, strict=True)]
