"""The sparse step's kernels in plain torch, on any device: what `cpu.py` and `gpu.py` do faster, and are held against.

Shape letters: B rows, F features, O width of the output, D of the input, n entries, P nested prefixes.

    above, largest, largest_values   find entries in the encoder's product, to which the bias is still to be added
    by_feature, decode, reconstruct, back, outer, sum_F, sum_B, total, fired_F
                                     everything after it, at the entries only
    spread                           what FVU is a share of
    adam                             the optimiser's step, with decoder rows kept at unit norm
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from monosem.sae.kernels.entries import Decoded, Entries
from monosem.sae.products import Product

SLOTS_TOGETHER = False
GROUP = 64
"""Rows whose active share is looked at together."""


def capacity(features: int, share: float) -> int:
    """How many entries a group of GROUP rows may have for a step to be sparse."""
    return int(share * features * GROUP)


def above(product: Product, bias_F: Tensor, bound_F: Tensor, share: float) -> Entries | None:
    """Entries where product + bias > bound; None if any group of rows has more than `share` of its features active.

    product  float32, float64, or bfloat16, which is widened before the bias is added
    """
    pre = _pre(product, bias_F)
    return _entries(pre, pre > bound_F, share)


def largest(product: Product, bias_F: Tensor, k: int, share: float) -> Entries | None:
    """Entries of the k <= F largest of product + bias in each row, if above zero; None if k is more than `share` of F.

    Of equal ones the first features win.
    """
    if k > share * product.shape[1]:
        return None
    pre = _pre(product, bias_F)
    rank = pre.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return _entries(pre, (rank < k) & (pre > 0), 1.0)


def largest_values(product: Product, bias_F: Tensor, n: int) -> Tensor:
    """The n largest of product + bias that are above zero, in any order, and perhaps some that are smaller."""
    pre = _pre(product, bias_F).flatten()
    pre = pre[pre > 0]
    return pre if len(pre) <= n else pre.topk(n, sorted=False).values


def decode(
    at: Entries, f_n: Tensor, W_dec: Tensor, yc_BO: Tensor, ends: Sequence[int], weight: float, keep_r: bool
) -> Decoded:
    """x_hat - y of every prefix, and the gradient of  weight/2 * (sum over prefixes of squares)  from there.

    W_dec   perhaps in bfloat16, which is widened
    """
    W_dec = W_dec.to(f_n.dtype)
    parts = f_n[:, None] * W_dec[at.feature_n]
    r, squares, scaled, lo = -yc_BO, [], [], 0
    for hi in ends:
        inside = (at.feature_n >= lo) & (at.feature_n < hi)
        r = r.index_add(0, at.row_n[inside], parts[inside])
        squares.append(r.square().sum(dim=1))
        scaled.append(r * weight)
        lo = hi
    g_PBO = torch.stack(scaled).flip(0).cumsum(0).flip(0)
    prefix_n = torch.bucketize(at.feature_n, torch.tensor(ends, device=f_n.device), right=True)
    back_n = (g_PBO[prefix_n, at.row_n] * W_dec[at.feature_n]).sum(dim=1)
    return Decoded(torch.stack(squares, dim=1), g_PBO, back_n, r if keep_r else None)


def reconstruct(at: Entries, f_n: Tensor, W_dec: Tensor, ends: Sequence[int]) -> Tensor:
    """What each prefix's own features add to the reconstruction, [P, B, O]: `decode` in two, this and `back`."""
    parts, lo = f_n.new_zeros(len(ends), at.rows, W_dec.shape[1]), 0
    for part, hi in zip(parts, ends, strict=True):
        inside = (at.feature_n >= lo) & (at.feature_n < hi)
        part.index_add_(0, at.row_n[inside], f_n[inside, None] * W_dec[at.feature_n[inside]].to(f_n.dtype))
        lo = hi
    return parts


def back(at: Entries, W_dec: Tensor, g_PBO: Sequence[Tensor], ends: Sequence[int]) -> Tensor:
    """The gradient of the feature values from that of each prefix's reconstruction, [n]."""
    prefix_n = torch.bucketize(at.feature_n, torch.tensor(ends, device=W_dec.device), right=True)
    g_PBO = torch.stack(list(g_PBO))
    return (g_PBO[prefix_n, at.row_n] * W_dec[at.feature_n].to(g_PBO.dtype)).sum(dim=1)


def outer(at: Entries, v_n: Tensor, rows_BO: Tensor, out_FO: Tensor, first: int, last: int) -> None:
    """out[f] = sum over f's entries of v * (the entry's row of rows_BO), for features first to last.

    rows_BO   perhaps in bfloat16, which is widened
    """
    rows_BO = rows_BO.to(v_n.dtype)
    inside = (at.feature_n >= first) & (at.feature_n < last)
    out_FO[first:last] = 0
    out_FO.index_add_(0, at.feature_n[inside], v_n[inside, None] * rows_BO[at.row_n[inside]])


def sum_F(at: Entries, v_n: Tensor) -> Tensor:
    """v summed over each feature's entries, [F]."""
    return v_n.new_zeros(at.features).index_add_(0, at.feature_n, v_n)


def by_feature(feature_n: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """Entries by feature, and by row within one: `Entries.start_F` and `order_n`."""
    counts = torch.bincount(feature_n, minlength=features)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), feature_n.argsort(stable=True)


def sum_B(at: Entries, v_n: Tensor) -> Tensor:
    """v summed over each row's entries, [B]."""
    return v_n.new_zeros(at.rows).index_add_(0, at.row_n, v_n)


def total(at: Entries, v_n: Tensor) -> Tensor:
    """All of v, a scalar."""
    return v_n.sum()


def fired_F(at: Entries, v_n: Tensor) -> Tensor:
    """Features with v above zero at one of their entries. bool [F]."""
    fired = torch.zeros(at.features, dtype=torch.bool, device=v_n.device)
    fired[at.feature_n[v_n > 0]] = True
    return fired


def spread(rows_BO: Tensor) -> Tensor:
    """Squared distances of the rows from their mean, summed: what FVU is a share of. float64 inside, a scalar."""
    x = rows_BO.double()
    return (x.square().sum() - x.sum(dim=0).square().sum() / max(1, len(x))).to(rows_BO.dtype)


def adam(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor,
    step: int, lr: float, beta1: float, beta2: float, eps: float, unit: bool,
) -> None:  # fmt: skip
    """Step `step` (from 1) of Adam (Kingma & Ba 2015) in place, all tensors [rows, columns] in one dense layout.

    unit   rows of unit norm stay so: the gradient's part along them is taken away first, the norm restored after.
           Bricken et al. 2023, "Autoencoder Training"
    """
    if unit:
        grad = grad - (grad * param).sum(dim=1, keepdim=True) * param
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    scale = lr / (1 - beta1**step)
    param.addcdiv_(m, v.sqrt().div_((1 - beta2**step) ** 0.5).add_(eps), value=-scale)
    if unit:
        param /= param.norm(dim=1, keepdim=True)


def _pre(product: Product, bias_F: Tensor) -> Tensor:
    return product.whole().to(bias_F.dtype) + bias_F


def _entries(pre_BF: Tensor, on_BF: Tensor, share: float) -> Entries | None:
    B, F = pre_BF.shape
    counts = on_BF.sum(dim=1)
    groups = torch.nn.functional.pad(counts, (0, -B % GROUP)).view(-1, GROUP).sum(dim=1)
    if B and int(groups.max()) > capacity(F, share):
        return None
    row_n, feature_n = on_BF.nonzero(as_tuple=True)
    start_B = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Entries(start_B, feature_n, row_n, pre_BF[row_n, feature_n], F, _module())


def _module():
    import sys

    return sys.modules[__name__]
