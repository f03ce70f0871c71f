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
        W_dec, ends = self.sae.W_dec, self.sae.config.ends
        r_BO = matmul(f_BF[:, : ends[0]], W_dec[: ends[0]], self.precision).sub_(yc_BO)
        left = [r_BO]
        for lo, hi in pairwise(ends):
            left.append(matmul(f_BF[:, lo:hi], W_dec[lo:hi], self.precision).add_(left[-1]))
        squares = torch.stack([r.square().sum(dim=1) for r in left], dim=1)
        kept = left[-1].clone() if keep_r else None
        for r in left:
            r.mul_(weight)
        for r, after in reversed(list(pairwise(left))):
            r.add_(after)  # a feature is in its own prefix and in all longer ones
        back = [matmul(g, W_dec[lo:hi].T, self.precision) for g, lo, hi in self._prefixes(left)]
        return Decoded(squares, left, back[0] if len(back) == 1 else torch.cat(back, dim=1), kept)

    def W_dec(self, f_BF: Tensor, g_PBO: list[Tensor]) -> Tensor:
        """Gradient of the decoder, [F, O]."""
        parts = [matmul(f_BF[:, lo:hi].T, g, self.precision) for g, lo, hi in self._prefixes(g_PBO)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def W_enc(self, p_BF: Tensor, xc_BD: Tensor, base_F: Tensor | None) -> Tensor:
        """Gradient of the encoder, its transpose [F, D]."""
        return matmul(p_BF.T, xc_BD, self.precision)

    def _prefixes(self, g_PBO: list[Tensor]) -> list[tuple[Tensor, int, int]]:
        ends = self.sae.config.ends
        return list(zip(g_PBO, (0, *ends[:-1]), ends, strict=True))


class SparseWay:
    """Sums over the active entries. With "bf16" the rows that are gathered are rounded; values and sums are not."""

    def __init__(self, sae: Sae, entries: Entries, product: Product, precision: str):
        self.sae, self.view, self.kernels = sae, entries, entries.kernels
        self.product, self.precision = product, precision

    def pre(self) -> Tensor:
        return self.view.pre_n

    def decode(self, f_n: Tensor, yc_BO: Tensor, weight: float, keep_r: bool = False) -> Decoded:
        table = rounded(self.sae.W_dec, self.precision)
        return self.kernels.decode(self.view, f_n, table, yc_BO, self.sae.config.ends, weight, keep_r)

    def W_dec(self, f_n: Tensor, g_PBO: Tensor) -> Tensor:
        out = torch.empty_like(self.sae.W_dec)
        ends = self.sae.config.ends
        for g, lo, hi in zip(g_PBO, (0, *ends[:-1]), ends, strict=True):
            self.kernels.outer(self.view, f_n, rounded(g, self.precision), out, lo, hi)
        return out

    def W_enc(self, p_n: Tensor, xc_BD: Tensor, base_F: Tensor | None) -> Tensor:
        out = xc_BD.new_empty(self.view.features, xc_BD.shape[1])
        seen_BD = rounded(xc_BD, self.precision) if self.product.x_BD is None else self.product.x_BD
        self.kernels.outer(self.view, p_n, seen_BD, out, 0, len(out))
        return out if base_F is None else out.addr_(base_F, xc_BD.sum(dim=0))
