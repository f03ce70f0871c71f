"""The encoder's product made roughly, to say where its large values may be, and by how much it may be wrong.

Where a CPU multiplies bfloat16 several times as fast as float32, a product in bfloat16 is worth it even if what is
found by it has to be summed once more in float32: few values are.

Shape letters: n rows, D d_in, C columns of a tile.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.features.seek import keys_of, lengths
from monosem.sae.kernels.cpu import bits_of, shared_out

UNIT = 2.0**-24
"""Unit roundoff of float32."""


def rough_kind() -> torch.dtype:
    """What this CPU multiplies fastest: bfloat16 where it has instructions for it, else float32."""
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


@dataclass(frozen=True)
class Factor:
    """Vectors as a rough product takes them, [m, D + 2]; their lengths, and those of what rounding took off, [m].

    The bias is part of the product, by two more coordinates: ones in a row, and in an encoder's column the bias as it
    is rounded and what that leaves.
    """

    rounded: Tensor
    length: np.ndarray
    lost: np.ndarray


def factor(vectors_mD: Tensor, bias_m: Tensor | None, kind: torch.dtype) -> Factor:
    """Of rows, or with a bias of an encoder's columns, each in one piece."""
    m, D = vectors_mD.shape
    more = torch.ones(m, 2)
    if bias_m is not None:
        more[:, 0] = bias_m.to(kind)
        more[:, 1] = bias_m - more[:, 0]
    rounded = torch.empty(m, D + 2, dtype=kind)
    rounded[:, :D], rounded[:, D:] = vectors_mD, more
    length, lost = np.empty(m, np.float32), np.empty(m, np.float32)
    shared_out(lengths, m, vectors_mD.numpy(), more.numpy(), bits_of(rounded), length, lost)
    return Factor(rounded, length, lost)


def slack(x: Factor, w: Factor) -> np.ndarray:
    """How far x_i . w_j with its bias, summed in float32 from whole vectors, is at most from the rounded ones': [n].

    x.w = (x'+d).(w'+e) for what rounding took off, d and e, so by Cauchy and Schwarz it is off by at most
    |d||w| + (|x|+|d|)|e|. Sums over D terms are off by D units of the lengths' product (Higham 2002, section 3.1), here
    both and twice for good measure. What rounding the product itself takes off is not in it: see `half`.
    """
    length, lost = np.float32(w.length.max()), np.float32(w.lost.max())
    with np.errstate(over="ignore", invalid="ignore"):
        apart = x.lost * length + (x.length + x.lost) * lost
        sums = np.float32(4 * UNIT * x.rounded.shape[1]) * (x.length + x.lost) * (length + lost)
        off = np.float32(1.01) * (apart + sums)
    return np.where(np.isnan(off), np.float32(np.inf), off)  # of rows that are too long for float32 nothing is known


class RoughProduct:
    """Of rows [n, D] with some columns of an encoder after others, in tiles that share their memory.

    half   by how much of itself a rounded value of a tile may be wrong
    off_n  by how much it may have been before; of the columns that `turn_to` was last given
    """

    def __init__(self, x_nD: Tensor, kind: torch.dtype, room: int):
        self.kind, self.x = kind, factor(x_nD, None, kind)
        self.half = np.float32(1.01 * torch.finfo(kind).eps / 2)
        self.room = torch.empty(room, dtype=kind)

    def turn_to(self, w: Factor) -> None:
        self.w, self.off_n = w, slack(self.x, w)

    def tile(self, lo: int, hi: int) -> np.ndarray:
        """Rows lo to hi with the columns, as `seek.keys_of` it, until the next is made."""
        x, C = self.x.rounded[lo:hi], len(self.w.rounded)
        return keys_of(torch.mm(x, self.w.rounded.T, out=self.room[: len(x) * C].view(len(x), C)))
