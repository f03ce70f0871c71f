"""The k largest: of each row, or of the batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monosem.sae.heads.base import Head
from monosem.sae.kernels import Entries
from monosem.sae.products import Product
from monosem.sae.select import among_largest


class TopK(Head):
    """f = the k largest of max(pre, 0) in each row. Gao et al. 2024."""

    def entries(self, product: Product, share: float) -> Entries | None:
        return self._kernels().largest(product, self.params["b_enc"], self._k(product.shape[1]), share)

    def features(self, pre: Tensor) -> Tensor:
        if self.view.dense:
            values, at = pre.topk(self._k(pre.shape[1]), dim=1, sorted=False)
            pre = torch.zeros_like(pre).scatter_(1, at, self._of_all(values))
        elif self.part.count > 1:
            pre = self._of_all_entries(pre)
        self.f = pre
        return self.f

    def _of_all(self, values_Bk: Tensor) -> Tensor:
        """This part's largest values; what is not among the k largest of all parts, or not above zero, is zero."""
        if self.part.count == 1:
            return values_Bk.relu_()
        k = min(self.now.k or self.config.k, self.part.of)
        return values_Bk.masked_fill(~among_largest(values_Bk, k, self.part), 0.0)

    def _of_all_entries(self, pre_n: Tensor) -> Tensor:
        """The same of entries."""
        view = self.view
        values = pre_n.new_zeros(view.rows, self._k(view.features))
        place_n = torch.arange(len(pre_n), device=pre_n.device) - view.start_B[view.row_n]
        values[view.row_n, place_n] = pre_n
        return self._of_all(values)[view.row_n, place_n]

    def _k(self, features: int) -> int:
        return min(self.now.k or self.config.k, features)


class BatchTopK(Head):
    """f = pre where it is positive and among the k B largest of the batch. Bussmann et al. 2024.

    The statistic is the k B-th largest itself; what equals it is active too, so that neither the order of rows nor
    how they are cut into slots can decide.
    """

    batch_wide = has_least = True

    def bound_F(self) -> Tensor:
        bound = self.now.statistic
        below = torch.nextafter(bound, bound.new_tensor(-torch.inf))  # what equals the bound is active
        return torch.where(bound > 0, below, bound).view(1)

    def partial(self, product: Product, batch_size: int) -> Tensor:
        return self._kernels().largest_values(product, self.params["b_enc"], self._n(batch_size))

    def statistic(self, partials: Sequence[Sequence[Tensor]], batch_size: int) -> Tensor:
        n = self._n(batch_size)
        positive = torch.cat([values for parts in partials for values in parts])
        if len(positive) < max(n, 1):
            return positive.new_zeros(())
        return _nth_smallest(positive, len(positive) - n)

    def features(self, pre: Tensor) -> Tensor:
        if not self.view.dense:
            self.f = pre
            return pre
        bound = self.now.statistic
        if bound is None:  # used by itself, these rows are the batch
            bound = self.statistic([[pre[pre > 0]]], pre.shape[0])
        self.f = torch.where((pre >= bound) & (pre > 0), pre, 0.0)
        return self.f

    def least(self) -> Tensor:
        bound = self.now.statistic
        if bound is not None and bound > 0:
            return bound  # it is active itself
        return torch.where(self.f > 0, self.f, torch.inf).min() if self.f.numel() else super().least()

    def _n(self, rows: int) -> int:
        return (self.now.k or self.config.k) * rows


def _nth_smallest(values: Tensor, n: int) -> Tensor:
    """The n-th smallest value (from 0), a scalar. On CPU by numpy's selection: a sixth of the time of kthvalue."""
    if values.device.type != "cpu":
        return values.kthvalue(n + 1).values
    return torch.tensor(np.partition(values.detach().numpy(), n)[n], dtype=values.dtype)
