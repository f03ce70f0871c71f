"""The encoder's product made roughly, to say where its largest values may be, and by how much it may be wrong.

Where a CPU multiplies bfloat16 several times as fast as float32, a product in bfloat16 is worth it even if what is
found by it has to be summed once more in float32: few values are.

Shape letters: n rows, D d_in, C columns of a tile.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from monosem.sae.kernels.cpu import bits_of, shared_out
from monosem.sae.kernels.numba_loops import ranged, widen

UNIT = 2.0**-24
"""Unit roundoff of float32."""


def rough_kind() -> torch.dtype:
    """What this CPU multiplies fastest: bfloat16 where it has instructions for it, else float32."""
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


@dataclass(frozen=True)
class Factor:
    """Vectors as a rough product takes them, [m, D + 2]; their lengths, and those of what rounding took off, [m].

    Two more coordinates make the bias part of the product: ones in a row, and in an encoder's column the bias as it is
    rounded and what that leaves.
    """

    rounded: Tensor
    length: np.ndarray
    lost: np.ndarray


def factor(vectors_mD: Tensor, bias_m: Tensor | None, kind: torch.dtype) -> Factor:
    """Of rows, or with a bias of an encoder's columns, each in one piece."""
    m, D = vectors_mD.shape
    rounded = torch.empty(m, D + 2, dtype=kind)
    rounded[:, :D] = vectors_mD
    more = np.ones((m, 2), np.float32)
    if bias_m is not None:
        leading = bias_m.to(kind)
        rounded[:, D], rounded[:, D + 1] = leading, bias_m - leading.float()
        more[:, 0], more[:, 1] = leading.float().numpy(), (bias_m - leading.float()).numpy()
    else:
        rounded[:, D:] = 1
    length, lost = np.empty(m, np.float32), np.empty(m, np.float32)
    shared_out(_lengths, m, vectors_mD.numpy(), more, bits_of(rounded), length, lost)
    return Factor(rounded, length, lost)


def slack(x: Factor, w: Factor) -> np.ndarray:
    """How far x_i . w_j with its bias, summed in float32 from whole vectors, is at most from the rounded ones': [n].

    x.w = (x'+d).(w'+e) for what rounding took off, d and e, so by Cauchy and Schwarz it is off by at most
    |d||w| + (|x|+|d|)|e|. Sums over D terms are off by D units of the lengths' product (Higham 2002, section 3.1), here
    both and twice for good measure. What rounding the product itself takes off is not in it: see `tiles.grow`.
    """
    length, lost = np.float32(w.length.max()), np.float32(w.lost.max())
    apart = x.lost * length + (x.length + x.lost) * lost
    sums = np.float32(4 * UNIT * x.rounded.shape[1]) * (x.length + x.lost) * (length + lost)
    return np.float32(1.01) * (apart + sums)


@ranged
def _lengths(whole, more, rounded, length, lost, lo, hi):
    D = whole.shape[1]
    for i in range(lo, hi):
        a, b = whole[i], rounded[i]
        square, off = np.float32(0), np.float32(0)
        for d in range(D):
            apart = a[d] - widen(b[d])
            square += a[d] * a[d]
            off += apart * apart
        for d in range(more.shape[1]):
            apart = more[i, d] - widen(b[D + d])
            square += more[i, d] * more[i, d]
            off += apart * apart
        length[i], lost[i] = np.sqrt(square), np.sqrt(off)


# -- numbers as keys -------------------------------------------------------------------------------


def keys_of(t: Tensor) -> np.ndarray:
    """A product's bits as whole numbers. Of numbers above zero they are in the same order, and above all others'."""
    return t.view(torch.int16 if t.dtype == torch.bfloat16 else torch.int32).numpy()


@intrinsic
def number_of(typingctx, key):
    """The number of a key, float32."""

    def codegen(context, builder, signature, args):
        bits = args[0]
        if key == types.int16:
            wide = builder.zext(bits, context.get_value_type(types.int32))
            bits = builder.shl(wide, wide.type(16))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(key), codegen


@intrinsic
def key_of(typingctx, x, like):
    """The key of a float32 above zero, in the type of `like`; of one between two, the lower."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], context.get_value_type(types.int32))
        if like == types.int16:
            bits = builder.trunc(builder.lshr(bits, bits.type(16)), context.get_value_type(types.int16))
        return bits

    return like(types.float32, like), codegen
