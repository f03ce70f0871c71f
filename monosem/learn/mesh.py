"""The ranks that train one dictionary together: replicas of it, each perhaps in several parts.

A mesh of R replicas times S parts has R S ranks; rank = replica * S + part. A replica sees some of a batch's slots; a
part holds some of the features, and a replica's part owns some of those: it alone keeps their moments and moves their
rows of W_dec and W_enc, which the other replicas then get from it. Vectors are small: everybody moves them alike.

What ranks say is a function of the config, so that all know what comes next. Everything is torch.distributed:
gloo between CPUs, NCCL between GPUs. A mesh of one says nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.learn.board import Board
from monosem.learn.pace import Pace, waiting
from monosem.learn.swap import Swap, shown_to_all, touched_rows
from monosem.learn.wire import gathered, joined_bytes, parted_bytes, said_to_all
from monosem.sae.part import Part
from monosem.sae.sums import Sums
from monosem.sae.tree import Node, combine, nodes, share

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up; one that died is noticed at once."""
WORTH_A_BOARD = 1 << 16
"""Bytes. What is smaller is as fast through sockets."""
FIGURES = ("errors", "penalty", "l1", "active", "least")


@dataclass(frozen=True)
class Seat:
    """A rank's place. exchange: "tree", the same bits on any number of replicas; "ring", plain all-reduce."""

    rank: int = 0
    replicas: int = 1
    parts: int = 1
    exchange: str = "tree"

    @property
    def world(self) -> int:
        return self.replicas * self.parts

    @property
    def replica(self) -> int:
        return self.rank // self.parts

    @property
    def part(self) -> int:
        return self.rank % self.parts


class SharedPart(Part):
    """Some of a dictionary's features; the others are with the ranks of `group`."""

    def __init__(self, of: int, count: int, index: int, group: dist.ProcessGroup, board: Board):
        super().__init__(of)
        self.count, self.index, self.group, self.board = count, index, group, board
        self.first = share(of, count, index)[0]

    def add(self, t: Tensor) -> Tensor:
        t = t.contiguous()
        whole = self.board.add(t) if self.count == 2 and t.nbytes >= WORTH_A_BOARD else None
        if whole is not None:
            return whole
        with waiting():
            dist.all_reduce(t, group=self.group)
        return t

    def least(self, t: Tensor) -> Tensor:
        t = t.clone()
        with waiting():
            dist.all_reduce(t, dist.ReduceOp.MIN, group=self.group)
        return t

    def every(self, t: Tensor) -> list[Tensor]:
        rows = t.shape[:-1]
        n = math.prod(rows)
        parts = gathered(t.flatten(), self.count, self.group)
        return [part.view(*rows, len(part) // n if n else t.shape[-1]) for part in parts]

    def agreed(self, yes: bool) -> bool:
        flag = torch.tensor([int(yes)])
        return bool(self.least(flag if dist.get_backend(self.group) == "gloo" else flag.cuda()).item())


class Mesh:
    """This process's seat among the ranks, and what they tell each other. Without `open` it is a mesh of one."""

    def __init__(self, seat: Seat = Seat()):
        self.seat = seat
        self.replica_group: dist.ProcessGroup | None = None  # of this part in all replicas
        self.part_group: dist.ProcessGroup | None = None  # of this replica's parts
        self.tree = seat.replicas > 1 and seat.exchange == "tree"
        self.ring = seat.replicas > 1 and seat.exchange == "ring"
        self.pace = Pace()
        self.board: Board | None = None  # of the replicas
        self.part_board: Board | None = None
        self.rooms: dict[tuple, Tensor] = {}  # memory that others' rows come into, step after step

    def open(self, store: dist.Store, device: str = "cpu") -> "Mesh":
        """Meet the others at `store`; returns when all are there."""
        seat, backend = self.seat, "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.world, timeout=PATIENCE)
        grid = torch.arange(seat.world).view(seat.replicas, seat.parts)
        for ranks in grid.T.tolist():
            group = dist.new_group(ranks, timeout=PATIENCE)
            self.replica_group = group if seat.rank in ranks else self.replica_group
        for ranks in grid.tolist():
            group = dist.new_group(ranks, timeout=PATIENCE)
            self.part_group = group if seat.rank in ranks else self.part_group
        if self.tree:
            self.board = Board(self.replica_group)
        if seat.parts > 1:
            self.part_board = Board(self.part_group)
        return self

    def close(self) -> None:
        if self.seat.world > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this rank speaks for all: to the store, the tracker, the terminal."""
        return self.seat.rank == 0

    def features(self, d_sae: int) -> tuple[int, int]:
        """The features that this rank holds."""
        return share(d_sae, self.seat.parts, self.seat.part)

    def part(self, d_sae: int) -> Part:
        seat = self.seat
        if seat.parts == 1:
            return Part(d_sae)
        return SharedPart(d_sae, seat.parts, seat.part, self.part_group, self.part_board)

    def own(self, held: int) -> tuple[int, int]:
        """Those of the `held` features of this part whose rows this rank moves."""
        return share(held, self.seat.replicas, self.seat.replica) if self.tree else (0, held)

    def nodes(self, slots: int, replica: int | None = None) -> list[Node]:
        """The subtrees of slots that a replica sees."""
        replica = self.seat.replica if replica is None else replica
        return nodes(slots, *share(slots, self.seat.replicas, replica))

    def gather_slots(self, slots: int) -> Callable[[list[Tensor]], list[list[Tensor]]] | None:
        """From a vector per slot of this rank to those of all slots, each of every part; None: this rank is alone."""
        if self.seat.world == 1:
            return None
        R, S = self.seat.replicas, self.seat.parts

        def gather(mine: list[Tensor]) -> list[list[Tensor]]:
            lengths = gathered(torch.tensor([len(t) for t in mine], device=mine[0].device), R * S, None)
            data = gathered(torch.cat(mine), R * S, None)
            split = [list(t.split(n.tolist())) for t, n in zip(data, lengths, strict=True)]
            return [[split[r * S + s][i] for s in range(S)] for r in range(R) for i in range(len(split[r * S]))]

        return gather

    def combine(self, slots: int, found: dict[Node, Sums], dead_F: Tensor | None) -> Sums:
        """The sums of all slots; of the matrices the rows of the features that this rank owns."""
        if self.seat.replicas == 1:
            return combine(slots, found)
        sockets = self.tree and not (self.board and self.board.on)
        touched = [touched_rows(sums) for sums in found.values()] if sockets else []
        said, everybodys = self._common(slots, list(found.values()), touched)
        if self.ring:
            matrices = _added(list(found.values()))
            with waiting():
                for t in matrices.values():
                    dist.all_reduce(t, group=self.replica_group)
            for sums in said.values():
                sums.matrices = {}
            whole = combine(slots, said)
            whole.matrices = matrices
            return whole
        nodes_of = [self.nodes(slots, k) for k in range(self.seat.replicas)]
        swap = Swap(self.seat.replica, found, nodes_of, dead_F, everybodys)
        got = swap.by_board(self.board) if self.board else None
        if got is None:
            got = swap.by_sockets(self.replica_group, self._room)
        for node, matrices in (swap.own() | got).items():
            said[node].matrices = matrices
        return combine(slots, said)

    def spread(self, *matrices: Tensor) -> None:
        """Rows [F, width] of this part's features, in place: each replica has moved its own, and gets the others'."""
        if self.tree:
            R = self.seat.replicas
            ranges = [share(len(matrices[0]), R, k) for k in range(R)]
            places = [[rows[lo:hi] for lo, hi in ranges] for rows in matrices]
            if not (self.board and shown_to_all(places, self.board)):
                said_to_all(places, self.replica_group)

    def of_replicas(self, mine: Tensor) -> list[Tensor]:
        """Every replica's tensor, in order; they may differ in their first dimension."""
        R = self.seat.replicas
        if R == 1:
            return [mine]
        return [t.view(-1, *mine.shape[1:]) for t in gathered(mine.flatten(), R, self.replica_group)]

    def shared_out(self, n: int) -> range:
        """Which of n pieces of work are this replica's."""
        return range(*share(n, self.seat.replicas, self.seat.replica))

    def own_rows(self, mine: Tensor) -> Tensor:
        """What belongs to the features that each replica owns, of all this part's features."""
        return torch.cat(self.of_replicas(mine)) if self.tree else mine

    def gather_text(self, text: str) -> list[str]:
        """Every rank's text, by rank."""
        if self.seat.world == 1:
            return [text]
        found: list = [None] * self.seat.world
        dist.all_gather_object(found, text)
        return found

    def any(self, yes: bool) -> bool:
        """Whether any rank says yes."""
        return yes if self.seat.world == 1 else "1" in self.gather_text(str(int(yes)))

    def leaders(self, yes: bool) -> bool:
        """What the leading rank says."""
        if self.seat.world == 1:
            return yes
        flag = torch.tensor([int(yes)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def _room(self, whose: tuple, rows: int, like: Tensor) -> Tensor:
        """Room for some rows as wide as those of `like`; what was in it before is done with."""
        held = self.rooms.get(whose)
        if held is None or held.shape != (rows, like.shape[1]) or held.dtype != like.dtype:
            held = self.rooms[whose] = like.new_empty(rows, like.shape[1])
        return held

    def _common(
        self, slots: int, mine: list[Sums], touched: list[Tensor]
    ) -> tuple[dict[Node, Sums], dict[Node, Tensor]]:
        """All but the matrices of every replica's subtrees, and of each a vector besides, if there are any."""
        R, flat = self.seat.replicas, [[*_small(sums), *touched[i : i + 1]] for i, sums in enumerate(mine)]
        mine_bytes = torch.cat([joined_bytes(tensors) for tensors in flat])
        lengths = [len(mine_bytes) // len(mine) * len(self.nodes(slots, k)) for k in range(R)]
        every = gathered(mine_bytes, R, self.replica_group, lengths)
        said: dict[Node, Sums] = {}
        besides: dict[Node, Tensor] = {}
        for replica, data in enumerate(every):
            theirs = self.nodes(slots, replica)
            for node, piece in zip(theirs, data.split(len(data) // len(theirs)), strict=True):
                tensors = parted_bytes(piece, flat[0])
                if touched:
                    besides[node] = tensors.pop()
                said[node] = _from_small(mine[0], tensors)
        return said, besides


def _added(parts: Sequence[Sums]) -> dict[str, Tensor]:
    """This rank's own sum, for all-reduce."""
    return {name: sum((p.matrices[name] for p in parts[1:]), t) for name, t in parts[0].matrices.items()}


def _small(sums: Sums) -> list[Tensor]:
    return [*sums.vectors.values(), sums.fired_F, *(getattr(sums, name) for name in FIGURES)]


def _from_small(like: Sums, tensors: list[Tensor]) -> Sums:
    n = len(like.vectors)
    vectors, figures = tensors[:n], tensors[n + 1 :]
    return Sums(
        {}, dict(zip(like.vectors, vectors, strict=True)), tensors[n], **dict(zip(FIGURES, figures, strict=True))
    )
