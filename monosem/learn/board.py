"""Memory that all ranks of a group see, if one machine holds them all: what they tell each other is written there.

Sockets of one machine copy every byte four times; here the one who tells writes it, and the others read it in place.
The memory belongs to no file: the first rank makes it, the others open it through that process, and when the last
of them ends, however it ends, it is gone.
"""

import mmap
import os
import secrets
import sys

import torch
import torch.distributed as dist
from torch import Tensor

import monosem.mkl  # noqa: F401
from monosem.learn.pace import waiting

MARK = 16
"""Bytes at the end that say that it is this memory, not another machine's that goes by the same name."""


class Board:
    """`turn` begins a round on one of its pages; each rank writes in its own part, `written`, each reads the others'.

    on   False once the ranks turn out to be on several machines, or the memory cannot be had
    """

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.ranks = group, dist.get_process_group_ranks(group)
        self.me = self.ranks.index(dist.get_rank())
        self.on = dist.get_backend(group) == "gloo"
        self.pages: dict[str, list[Tensor]] = {}
        self.page, self.sums = "", 0

    def turn(self, page: str, each: int) -> bool:
        """All ranks call it, with the same page and number of bytes for each. Whether the board is there.

        What was read on this page is done with: it is written over from now on. If another page had its turn since,
        all have read this one: they told by having written on that. Else they are waited for.
        """
        if not self.on:
            return False
        parts = self.pages.get(page)
        if parts is None or each > len(parts[0]):
            self.pages.pop(page, None)
            self._grow(page, -(-each // mmap.PAGESIZE) * mmap.PAGESIZE)
        elif page == self.page:
            self._wait()
        self.page = page
        return self.on

    def written(self) -> None:
        """All ranks have written; returns when that is so."""
        self._wait()

    def part(self, rank: int) -> Tensor:
        """uint8 [each]: what a rank writes on this page, by its place in the group."""
        return self.pages[self.page][rank]

    def add(self, t: Tensor) -> Tensor | None:
        """Of a board of two: the sum of both tensors. None without a board.

        Of more than two the sum would depend on their order, and an all-reduce through sockets has an order of its own.
        """
        self.sums += 1
        if not self.turn(f"add {self.sums % 2}", t.nbytes):  # the page before this one may still be read
            return None
        mine, theirs = (self.part(k)[: t.nbytes].view(t.dtype).view_as(t) for k in (self.me, 1 - self.me))
        mine.copy_(t)
        self.written()
        return t + theirs

    def _wait(self) -> None:
        with waiting():
            dist.barrier(group=self.group)

    def _grow(self, page: str, each: int) -> None:
        total, fd = each * len(self.ranks) + MARK, None
        place: list = [None]
        if self.me == 0:
            fd, place[0] = _made(total)
        with waiting():
            dist.broadcast_object_list(place, self.ranks[0], group=self.group)
        memory = _opened(*place[0], total) if place[0] else None
        there = torch.tensor([int(memory is not None)])
        with waiting():
            dist.all_reduce(there, dist.ReduceOp.MIN, group=self.group)
        if fd is not None:
            os.close(fd)
        self.on = bool(there.item())
        if self.on:
            whole = torch.frombuffer(memory, dtype=torch.uint8)
            self.pages[page] = list(whole[: each * len(self.ranks)].split(each))
        elif self.me == 0:
            sys.stderr.write("monosem: the ranks of a learner share no memory: they talk through sockets, slower\n")


def _made(total: int) -> tuple[int | None, tuple[str, bytes] | None]:
    """Memory of no file, its bytes taken now: a full machine says so here, not by a signal later."""
    if not hasattr(os, "memfd_create"):  # not Linux
        return None, None
    fd = os.memfd_create("monosem-board")
    try:
        os.posix_fallocate(fd, 0, total)
    except OSError:
        os.close(fd)
        return None, None
    mark = secrets.token_bytes(MARK)
    os.pwrite(fd, mark, total - MARK)
    return fd, (f"/proc/{os.getpid()}/fd/{fd}", mark)


def _opened(place: str, mark: bytes, total: int) -> mmap.mmap | None:
    """None if the place is another machine's, or not for this process to open."""
    try:
        fd = os.open(place, os.O_RDWR)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_size != total:
            return None
        memory = mmap.mmap(fd, total)
    finally:
        os.close(fd)
    return memory if memory[total - MARK :] == mark else None
