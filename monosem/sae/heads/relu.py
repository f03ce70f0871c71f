"""ReLU with an L1 penalty, plain or by decoder norm, and its annealed form."""

from collections.abc import Sequence

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.heads.base import Back, Head, Now
from monosem.sae.products import Product


class Relu(Head):
    """f = max(pre, 0), penalty  l1 c sum f^p n  (n = 1 if l1_weight is plain).

    p = 1: c = 1, Bricken et al. 2023; with n the April 2024 update. p < 1: p-annealing (Karvonen et al. 2024);
    c = sum f / sum f^p over the batch, held fixed, so that the penalty keeps its size whatever p is.
    """

    def __init__(self, config: SaeConfig, params: dict[str, Tensor], now: Now):
        super().__init__(config, params, now)
        self.batch_wide = now.power != 1.0
        self.l1 = config.l1_coefficient * now.sparsity
        self.n_F = self._norms() if config.l1_weight == "decoder_norm" else None

    def features(self, pre: Tensor) -> Tensor:
        self.f = pre.relu_()
        return self.f

    def partial(self, product: Product, batch_size: int) -> Tensor:
        f = (product.whole().to(self.params["b_enc"].dtype) + self.params["b_enc"]).relu_()
        return torch.stack([f.sum(), f.pow(self.now.power).sum()])

    def statistic(self, partials: Sequence[Sequence[Tensor]], batch_size: int) -> Tensor:
        plain, powered = torch.stack([sum(parts) for parts in partials]).sum(dim=0)
        return torch.where(powered > 0, plain / powered, torch.ones_like(plain))

    def penalty_B(self) -> Tensor:
        return self.l1 * self.view.sum_B(self._powered(), self.n_F)

    def back(self, g: Tensor, share: float) -> Back:
        slope = self._slope()
        norm_F = None
        if self.n_F is None:
            g.add_(slope, alpha=self.l1 * share) if isinstance(slope, Tensor) else g.add_(self.l1 * share)
        else:
            g.add_(slope * self.view.at(self.n_F), alpha=self.l1 * share)
            norm_F = self.view.sum_F(self._powered() * (self.l1 * share))
        found = self._through_relu(g)
        found.norm_F = norm_F
        return found

    def _powered(self) -> Tensor:
        """c f^p."""
        if self.now.power == 1.0:
            return self.f
        return self.f.pow(self.now.power) * self._c()

    def _slope(self) -> Tensor | float:
        """c p f^(p-1), where f is not zero."""
        if self.now.power == 1.0:
            return 1.0
        p = self.now.power
        return torch.where(self.f > 0, self.f, 1.0).pow(p - 1) * (p * self._c())

    def _c(self) -> Tensor | float:
        return 1.0 if self.now.statistic is None else self.now.statistic
