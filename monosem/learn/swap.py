"""Sums of matrices between replicas: each gets, of the others' subtrees, the rows of the features that it owns.

Features that were active nowhere in a subtree have rows of zeros. Through sockets these stay at home where they are the
greater part; who gets the others puts zeros in between, so that the sums' bits are the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.learn.board import Board
from monosem.learn.wire import exchange, post
from monosem.sae.sums import Sums
from monosem.sae.tree import Node, share

Matrices = dict[str, Tensor]
Cuts = dict[str, tuple[int, int]]
AUX = ("aux.W_dec", "aux.W_enc")
WORTH_LEAVING = 0.5
"""Share of a reader's rows that must be zeros for the others to go without them."""


def touched_rows(sums: Sums) -> Tensor:
    """Features whose rows are not all zeros, to the bit: a negative zero is something. bool [F]"""
    found = None
    for name in ("W_dec", "W_enc"):
        t = sums.matrices[name].contiguous()
        bits = t.view(torch.int64 if t.element_size() == 8 else torch.int32)
        found = bits.any(dim=1) if found is None else found | bits.any(dim=1)
    return found


class Swap:
    """One exchange. Every replica knows of every other what it has to say: who sees which slots is arithmetic.

    found     this replica's sums; all of their matrices [rows of all features, width]
    nodes_of  each replica's subtrees
    dead_F    features that AuxK's matrices have rows for, sorted; None: there are no such
    touched   `touched_rows` of everybody's subtrees; empty: all rows are exchanged
    """

    def __init__(
        self, me: int, found: Mapping[Node, Sums], nodes_of: list[list[Node]], dead_F: Tensor | None,
        touched: Mapping[Node, Tensor] = MappingProxyType({}),
    ):  # fmt: skip
        self.me, self.found, self.nodes_of, self.touched = me, found, nodes_of, touched
        self.sample = next(iter(found.values())).matrices
        replicas, F = len(nodes_of), len(self.sample["W_dec"])
        self.cuts = [_cuts(share(F, replicas, k), dead_F) for k in range(replicas)]

    def own(self) -> dict[Node, Matrices]:
        """Of this replica's own subtrees the rows that it owns itself."""
        return {node: self._cut(sums, self.me) for node, sums in self.found.items()}

    def by_sockets(
        self, group: dist.ProcessGroup, room: Callable[[tuple, int, Tensor], Tensor]
    ) -> dict[Node, Matrices]:
        """The others' rows, in memory from `room(whose, rows, like)`."""
        peers, operations, got, parts = dist.get_process_group_ranks(group), [], {}, []
        for k in self._others():
            for node, sums in self.found.items():
                rows = self._chosen(node, k)
                for name, t in self._cut(sums, k).items():
                    post(operations, dist.isend, t if name in AUX or rows is None else t[rows], peers[k], group)
            for node in self.nodes_of[k]:
                got[node] = {n: room((k, node, n), _rows(self.cuts[self.me][n]), t) for n, t in self.sample.items()}
                rows = self._chosen(node, self.me)
                for name, whole in got[node].items():
                    part = whole if name in AUX or rows is None else whole.new_empty(len(rows), whole.shape[1])
                    post(operations, dist.irecv, part, peers[k], group)
                    if part is not whole:
                        parts.append((whole, rows, part))
        exchange(operations)
        for whole, rows, part in parts:
            whole.zero_().index_copy_(0, rows, part)
        return got

    def _chosen(self, node: Node, reader: int) -> Tensor | None:
        """Which of a reader's rows of a subtree are exchanged, int64 [n]; None: all."""
        if node not in self.touched:
            return None
        lo, hi = self.cuts[reader]["W_dec"]
        rows = self.touched[node][lo:hi].nonzero().flatten()
        return rows if len(rows) <= (1 - WORTH_LEAVING) * (hi - lo) else None

    def by_board(self, board: Board) -> dict[Node, Matrices] | None:
        """The others' rows, where they wrote them: good until the board's next turn. None: there is no board."""
        if not board.turn("sums", max(self._bytes(k) for k in range(len(self.cuts)))):
            return None
        mine = board.part(self.me)
        for node, name, reader, start, end in self._places(self.me):
            place = mine[start:end].view(self.sample[name].dtype)
            rows = self.found[node].matrices[name][slice(*self.cuts[reader][name])]
            place.view_as(rows).copy_(rows)
        board.written()
        got: dict[Node, Matrices] = {}
        for k in self._others():
            for node, name, reader, start, end in self._places(k):
                if reader == self.me:
                    t = board.part(k)[start:end].view(self.sample[name].dtype)
                    got.setdefault(node, {})[name] = t.view(-1, self.sample[name].shape[1])
        return got

    def _others(self) -> list[int]:
        return [k for k in range(len(self.cuts)) if k != self.me]

    def _cut(self, sums: Sums, k: int) -> Matrices:
        return {name: t[slice(*self.cuts[k][name])] for name, t in sums.matrices.items()}

    def _places(self, k: int) -> Iterator[tuple[Node, str, int, int, int]]:
        """What replica k writes: subtree, matrix, for whom, and from which byte of its part to which."""
        at = 0
        for node in self.nodes_of[k]:
            for name, t in self.sample.items():
                for reader, cuts in enumerate(self.cuts):
                    if reader != k:
                        end = at + _rows(cuts[name]) * t.shape[1] * t.element_size()
                        yield node, name, reader, at, end
                        at = end

    def _bytes(self, k: int) -> int:
        return max((end for *_, end in self._places(k)), default=0)


def shown_to_all(places: Sequence[Sequence[Tensor]], board: Board) -> bool:
    """As `wire.said_to_all`, by a board: each of these has a place per rank. False without a board: nothing is done."""
    if not board.turn("rows", max(sum(place.nbytes for place in of_rank) for of_rank in zip(*places, strict=True))):
        return False
    _copied(board.part(board.me), [of_ranks[board.me] for of_ranks in places], out=True)
    board.written()
    for k in range(len(board.ranks)):
        if k != board.me:
            _copied(board.part(k), [of_ranks[k] for of_ranks in places], out=False)
    return True


def _copied(part: Tensor, places: Sequence[Tensor], out: bool) -> None:
    """Places one after the other to a part of the board (`out`), or back."""
    at = 0
    for place in places:
        there = part[at : at + place.nbytes].view(place.dtype).view_as(place)
        there.copy_(place) if out else place.copy_(there)
        at += place.nbytes


def _rows(cut: tuple[int, int]) -> int:
    return cut[1] - cut[0]


def _cuts(own: tuple[int, int], dead_F: Tensor | None) -> Cuts:
    """The rows of each matrix that belong to the features `own`."""
    cuts = {"W_dec": own, "W_enc": own}
    if dead_F is not None:
        lo, hi = torch.searchsorted(dead_F, torch.tensor(own, device=dead_F.device)).tolist()
        cuts |= {"aux.W_dec": (lo, hi), "aux.W_enc": (lo, hi)}
    return cuts
