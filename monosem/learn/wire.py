"""Tensors between ranks: of different lengths, of several kinds in one message, rows into their places."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

import monosem.mkl  # noqa: F401
from monosem.learn.pace import waiting


def gathered(
    t: Tensor, ranks: int, group: dist.ProcessGroup | None, lengths: Sequence[int] | None = None
) -> list[Tensor]:
    """Every rank's vector, in the group's order. They may differ in length: `lengths`, or they are asked for first."""
    if lengths is None:
        mine = torch.tensor([len(t)], device=t.device)
        every = [torch.empty_like(mine) for _ in range(ranks)]
        with waiting():
            dist.all_gather(every, mine, group=group)
        lengths = [int(n) for n in every]
    longest = max(lengths)
    if longest == 0:
        return [t] * ranks
    padded = torch.nn.functional.pad(t, (0, longest - len(t))).contiguous()
    found = [torch.empty_like(padded) for _ in range(ranks)]
    with waiting():
        dist.all_gather(found, padded, group=group)
    return [data[:n] for data, n in zip(found, lengths, strict=True)]


def said_to_all(places: Sequence[Sequence[Tensor]], group: dist.ProcessGroup) -> None:
    """Each of these has a place per rank: send what is in this rank's own to all, and receive theirs in theirs."""
    peers, me, operations = dist.get_process_group_ranks(group), dist.get_rank(group), []
    for of_ranks in places:
        for k, place in enumerate(of_ranks):
            if k != me:
                post(operations, dist.isend, of_ranks[me], peers[k], group)
                post(operations, dist.irecv, place, peers[k], group)
    exchange(operations)


def post(operations: list[dist.P2POp], what: Callable, t: Tensor, peer: int, group: dist.ProcessGroup) -> None:
    """Another thing to be sent or received; nothing if there is nothing in it."""
    if t.numel():
        operations.append(dist.P2POp(what, t, peer, group))


def exchange(operations: list[dist.P2POp]) -> None:
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
