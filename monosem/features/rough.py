"""The encoder's product made roughly, to say where its largest values may be, and by how much it may be wrong.

Where a CPU multiplies bfloat16 several times as fast as float32, a product in bfloat16 is worth it even if what is
found by it has to be summed once more in float32: few values are.

Shape letters: n rows, D d_in, C columns of a tile.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNIT = 2.0**-24
"""Unit roundoff of float32."""


def rough_kind() -> torch.dtype:
    """What this CPU multiplies fastest: bfloat16 where it has instructions for it, else float32."""
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


@dataclass(frozen=True)
class Factor:
    """Vectors [m, D] as a rough product takes them; their lengths, and those of what rounding took off, [m]."""

    rounded: Tensor
    length: Tensor
    lost: Tensor


def factor(vectors_mD: Tensor, kind: torch.dtype) -> Factor:
    rounded = vectors_mD.to(kind)
    length, lost = (torch.linalg.vector_norm(t, dim=1) for t in (vectors_mD, vectors_mD - rounded.float()))
    return Factor(rounded, length, lost)


def slack(x: Factor, w: Factor, bias_C: Tensor) -> np.ndarray:
    """How far x_i . w_j + b_j, summed in float32 from whole vectors, is at most from that of the rounded ones: [n].

    x.w = (x'+d).(w'+e) for what rounding took off, d and e, so by Cauchy and Schwarz it is off by at most
    |d||w| + (|x|+|d|)|e|. Sums over D terms are off by D units of the lengths' product (Higham 2002, section 3.1), here
    both and twice for good measure. What rounding the product itself takes off is not in it: see `tiles.grow`.
    """
    length, lost, bias = (float(t.abs().max()) for t in (w.length, w.lost, bias_C))
    apart = x.lost * length + (x.length + x.lost) * lost
    sums = 4 * UNIT * (x.rounded.shape[1] * (x.length + x.lost) * (length + lost) + bias)
    return (1.01 * (apart + sums)).numpy()
