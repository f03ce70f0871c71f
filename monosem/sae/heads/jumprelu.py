"""JumpReLU: a learnt threshold for each feature."""

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.heads.base import Back, Head, Now


class JumpRelu(Head):
    """f = pre where pre > theta, else 0; theta >= 0 (kept so by projection after each step).

    step   penalty l0 sum H(pre - theta). Rajamanoharan et al. 2024b: with K the box of width e = bandwidth,
           d f/d theta = -(theta/e) K((pre - theta)/e),  d H/d theta = -(1/e) K((pre - theta)/e),  neither to pre
    tanh   penalty l1 sum tanh(c f n) + q sum max(theta - pre, 0) n. January 2025 update: the jump's estimate goes
           to pre as well: d f/d pre = H + (theta/e) K
    """

    def __init__(self, config: SaeConfig, params: dict[str, Tensor], now: Now):
        super().__init__(config, params, now)
        self.tanh = config.sparsity == "tanh"
        self.n_F = self._norms() if self.tanh else None

    def features(self, pre_BF: Tensor) -> Tensor:
        self.pre, self.theta = pre_BF, self.params["threshold"]
        self.on = pre_BF > self.theta
        self.f = torch.where(self.on, pre_BF, 0.0)
        return self.f

    def penalty_B(self) -> Tensor:
        c = self.config
        if not self.tanh:
            return c.l0_coefficient * self.now.sparsity * self.on.sum(dim=1).to(self.f.dtype)
        return c.l1_coefficient * self.now.sparsity * self._tanh().sum(dim=1) + c.pre_act_coefficient * (
            self._below() @ self.n_F
        )

    def back(self, g_BF: Tensor, share: float) -> Back:
        c, e = self.config, self.config.bandwidth
        box = ((self.pre - self.theta).abs() < e / 2).to(g_BF.dtype) / e
        if not self.tanh:
            # d L/d theta = -K/e (theta g + l0 share)
            theta_F = -(box * (g_BF * self.theta + c.l0_coefficient * self.now.sparsity * share)).sum(dim=0)
            g_BF.masked_fill_(~self.on, 0.0)
            return Back(g_BF, {"b_enc": g_BF.sum(dim=0), "threshold": theta_F})
        l1, q = c.l1_coefficient * self.now.sparsity * share, c.pre_act_coefficient * share
        slope = (1 - self._tanh().square()) * (c.tanh_scale * l1)  # of the tanh, by f n
        norm_F = (slope * self.f).sum(dim=0) + q * self._below().sum(dim=0)
        g_BF += slope * self.n_F
        low = (self.pre < self.theta).to(g_BF.dtype) * (q * self.n_F)
        jump = box * self.theta * g_BF
        theta_F = (low - jump).sum(dim=0)
        g_BF.masked_fill_(~self.on, 0.0).add_(jump).sub_(low)
        return Back(g_BF, {"b_enc": g_BF.sum(dim=0), "threshold": theta_F}, norm_F)

    def _tanh(self) -> Tensor:
        return torch.tanh(self.f * (self.config.tanh_scale * self.n_F))

    def _below(self) -> Tensor:
        return (self.theta - self.pre).relu()
