"""The two ways from pre-activations to gradients: through whole matrices, or at the active entries only.

Both give the same numbers but for rounding; `tests/sae/test_formulas.py` holds every variant to its formula on both.
Which one a slot takes is a function of the config and the batch: `Head.entries`.

Shape letters: B rows, D d_in, F d_sae, O d_out, P nested prefixes. Values are [B, F] or [n].
"""

from itertools import pairwise

import torch
from torch import Tensor

from monosem.sae.kernels import EVERYWHERE, Decoded, Entries
from monosem.sae.model import Sae
from monosem.sae.part import Part
from monosem.sae.products import Product, matmul, rounded


class DenseWay:
    """Matrix products with all features."""

    view = EVERYWHERE

    def __init__(self, sae: Sae, product: Product, precision: str):
        self.sae, self.product, self.precision = sae, product, precision

    def pre(self) -> Tensor:
        """Made in the place of the product, if that is as wide."""
        return self.product.whole().to(self.sae.b_enc.dtype).add_(self.sae.b_enc)

    def decode(self, f_BF: Tensor, yc_BO: Tensor, weight: float, keep_r: bool = False) -> Decoded:
        """Reconstruct by every prefix, and send what is left over back to the features."""
        W_dec = self.sae.W_dec
        parts = [matmul(f_BF[:, lo:hi], W_dec[lo:hi], self.precision) for lo, hi in self._ranges()]
        left = _left_over(self.sae.part, parts, yc_BO)
        squares = torch.stack([r.square().sum(dim=1) for r in left], dim=1)
        kept = left[-1].clone() if keep_r else None
        _to_gradients(left, weight)
        back = [matmul(g, W_dec[lo:hi].T, self.precision) for g, (lo, hi) in zip(left, self._ranges(), strict=True)]
        return Decoded(squares, left, back[0] if len(back) == 1 else torch.cat(back, dim=1), kept)

    def W_dec(self, f_BF: Tensor, g_PBO: list[Tensor]) -> Tensor:
        """Gradient of the decoder, [F, O]."""
        pairs = zip(g_PBO, self._ranges(), strict=True)
        parts = [matmul(f_BF[:, lo:hi].T, g, self.precision) for g, (lo, hi) in pairs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def W_enc(self, p_BF: Tensor, xc_BD: Tensor) -> Tensor:
        """Gradient of the encoder, its transpose [F, D]."""
        return matmul(p_BF.T, xc_BD, self.precision)

    def _ranges(self) -> list[tuple[int, int]]:
        return _ranges(self.sae)


def _ranges(sae: Sae) -> list[tuple[int, int]]:
    """The features that each prefix has and the one before it has not."""
    return list(pairwise((0, *sae.ends)))


def _left_over(part: Part, parts: list[Tensor], yc_BO: Tensor) -> list[Tensor]:
    """x_hat - y of every prefix, from what each adds to the one before it in this part of the features."""
    if part.count > 1:
        parts = list(part.add(torch.stack(parts)))
    left = [parts[0].sub_(yc_BO)]
    for more in parts[1:]:
        left.append(more.add_(left[-1]))
    return left


def _to_gradients(left: list[Tensor], weight: float) -> None:
    """Of what is left over, in place: a feature is in its own prefix and in all longer ones."""
    for r in left:
        r.mul_(weight)
    for r, after in reversed(list(pairwise(left))):
        r.add_(after)


class SparseWay:
    """Sums over the active entries. With "bf16" the rows that are gathered are rounded; values and sums are not.

    table    the decoder, perhaps rounded
    seen_BD  rows as the encoder sees them, perhaps rounded
    """

    def __init__(self, sae: Sae, entries: Entries, table: Tensor, seen_BD: Tensor, precision: str):
        self.sae, self.view, self.kernels = sae, entries, entries.kernels
        self.table, self.seen_BD, self.precision = table, seen_BD, precision

    def pre(self) -> Tensor:
        return self.view.pre_n

    def decode(self, f_n: Tensor, yc_BO: Tensor, weight: float, keep_r: bool = False) -> Decoded:
        if self.sae.part.count == 1:
            return self.kernels.decode(self.view, f_n, self.table, yc_BO, self.sae.ends, weight, keep_r)
        parts = list(self.kernels.reconstruct(self.view, f_n, self.table, self.sae.ends))
        left = _left_over(self.sae.part, parts, yc_BO)
        squares = torch.stack([r.square().sum(dim=1) for r in left], dim=1)
        kept = left[-1].clone() if keep_r else None
        _to_gradients(left, weight)
        return Decoded(squares, left, self.kernels.back(self.view, self.table, left, self.sae.ends), kept)

    def W_dec(self, f_n: Tensor, g_PBO: Tensor | list[Tensor]) -> Tensor:
        out = torch.empty_like(self.sae.W_dec)
        for g, (lo, hi) in zip(g_PBO, _ranges(self.sae), strict=True):
            self.kernels.outer(self.view, f_n, rounded(g, self.precision), out, lo, hi)
        return out

    def W_enc(self, p_n: Tensor, xc_BD: Tensor) -> Tensor:
        out = xc_BD.new_empty(self.view.features, xc_BD.shape[1])
        self.kernels.outer(self.view, p_n, self.seen_BD, out, 0, len(out))
        return out
