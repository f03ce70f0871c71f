"""From ablated rows to the loss on the next token: two ways, of the same numbers but for rounding.

Shape letters: n rows, m ablations, a of them whose logits are looked at, F features, V vocabulary, D d_model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.features import loops, softmax
from monosem.host.direct import Continuation, LastNorm
from monosem.sae.kernels.cpu import shared_out

CHANGES = 5
"""Tokens listed whose logits change most, either way. As published."""
LOGITS_AT_ONCE = 1 << 22
"""Logits of ablated rows held at a time, or numbers of them before the last product."""
MOVES_AT_ONCE = 1 << 26
"""Logits held of what features add, over which `Linear` goes."""
Ends = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""up, their changes, down, their changes: [a, CHANGES], tokens int32, changes float32."""


def empty_ends(n: int) -> Ends:
    return tuple(np.zeros((n, CHANGES), kind) for kind in (np.int32, np.float32) * 2)


@dataclass(frozen=True)
class Ablations:
    """m ablations of a feature on a token: row of the batch, feature, activation; asked: whether logits are listed."""

    row: np.ndarray
    feature: np.ndarray
    act: np.ndarray
    asked: np.ndarray

    def no_ends(self) -> Ends:
        return empty_ends(int(self.asked.sum()))

    def parts(self, step: int):
        """(first, last, which of the asked ones they are) of `step` at a time."""
        before = np.concatenate([[0], np.cumsum(self.asked)])
        for lo in range(0, len(self.row), step):
            hi = min(len(self.row), lo + step)
            yield lo, hi, slice(int(before[lo]), int(before[hi]))


class Through:
    """By the continuation itself: the rows of every ablation go through all that follows."""

    def __init__(self, way: Continuation, decoder_FW: Tensor):
        self.way, self.moves = way, way.moves(decoder_FW)

    def run(self, x_nW: Tensor, beside_nD: Tensor, following_n: Tensor, todo: Ablations) -> tuple[np.ndarray, Ends]:
        """Rise of the loss on the token that follows [m], nats, and the ends of the changes of logits."""
        base = self.way.base(x_nW, beside_nD)
        clean = self.way.finish(base, beside_nD)
        clean_loss, out, ends = loss(clean, following_n), np.empty(len(todo.row), np.float32), todo.no_ends()
        for lo, hi, among in todo.parts(max(1, LOGITS_AT_ONCE // clean.shape[1])):
            row = torch.from_numpy(todo.row[lo:hi])
            moved = torch.from_numpy(todo.act[lo:hi])[:, None] * self.moves[torch.from_numpy(todo.feature[lo:hi])]
            logits = self.way.finish(base[row] - moved, beside_nD[row])
            out[lo:hi] = (loss(logits, following_n[row]) - clean_loss[row]).numpy()
            asked = np.flatnonzero(todo.asked[lo:hi])
            for target, values in zip(ends, ends_of(logits, asked, clean, todo.row[lo + asked]), strict=True):
                target[among] = values
        return out, ends


class Linear:
    """Where only a norm and the unembedding follow.

        logits = s (c(x) - a c(d)) G U + b U        s: one over the norm's scale of x - a d; c takes the mean away

    c(x) G U and c(d) G U are made once for each row and each feature, so that an ablation costs V numbers' sums and
    exponentials, and no product with U.
    """

    def __init__(self, way: Continuation, last: LastNorm, decoder_FW: Tensor):
        self.way, self.last, self.moves = way, last, way.moves(decoder_FW)
        self.moves_FV, self.bias = last.unscaled(self.moves).numpy(), last.constant().numpy()

    def run(self, x_nW: Tensor, beside_nD: Tensor, following_n: Tensor, todo: Ablations) -> tuple[np.ndarray, Ends]:
        """As `Through.run`."""
        base, following = self.way.base(x_nW, beside_nD), following_n.numpy()
        clean, scale, before = self.last.unscaled(base).numpy(), self.last.scale(base).numpy(), np.empty(len(base))
        shared_out(softmax.losses, len(base), clean, self.bias, scale, following, before)
        (after, out), ends = np.empty((2, len(todo.row)), np.float32), todo.no_ends()
        which = (todo.row, todo.feature, todo.act)
        shared_out(
            softmax.scales, len(todo.row), base.numpy(), self.moves.numpy(), *which, np.float32(self.last.eps), after
        )
        ends_at = np.where(todo.asked, np.cumsum(todo.asked) - 1, -1)
        shared_out(
            softmax.ablated, len(todo.row), clean, self.moves_FV, self.bias, scale, following, before,
            *which, after, ends_at, CHANGES, out, *ends,
        )  # fmt: skip
        return out, ends


def onward(way: Continuation, decoder_FW: Tensor) -> Through | Linear:
    return Through(way, decoder_FW) if way.last is None else Linear(way, way.last, decoder_FW)


def features_at_once(way: Continuation) -> int | None:
    """Features to go over the contexts with at a time; None: all."""
    return None if way.last is None else max(1, MOVES_AT_ONCE // len(way.last.unembed_VD))


def loss(logits_nV: Tensor, token_n: Tensor) -> Tensor:
    """-log p of each token, nats [n]."""
    return torch.nn.functional.cross_entropy(logits_nV.float(), token_n, reduction="none")


def ends_of(after_nV: Tensor, after: np.ndarray, before_mV: Tensor, before: np.ndarray) -> Ends:
    """Of rows `after` of one against rows `before` of the other."""
    ends = empty_ends(len(after))
    logits_n, logits_m = (t.float().contiguous().numpy() for t in (after_nV, before_mV))
    rows = (logits_n, after, logits_m, before)
    shared_out(loops.changes, len(after), *rows, CHANGES, *ends)
    return ends
