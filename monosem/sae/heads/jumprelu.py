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

    Entries reach down to where the box begins. Below it q alone has a gradient, -q n whatever pre is: for entries it is
    taken for all rows at once, and taken back where pre >= theta.
    """

    def __init__(self, config: SaeConfig, params: dict[str, Tensor], now: Now):
        super().__init__(config, params, now)
        self.tanh = config.sparsity == "tanh"
        self.norms_F = self._norms() if self.tanh else None
        self.joins_slots = not self.tanh

    def bound_F(self) -> Tensor:
        return self.params["threshold"] - self.config.bandwidth / 2

    def features(self, pre: Tensor) -> Tensor:
        self.pre, self.theta = pre, self.view.at(self.params["threshold"])
        self.n = self.view.at(self.norms_F) if self.tanh else None
        self.on = pre > self.theta
        self.f = torch.where(self.on, pre, 0.0)
        return self.f

    def base_F(self, share: float) -> Tensor | None:
        return -self.config.pre_act_coefficient * share * self.norms_F if self.tanh else None

    def penalty_B(self) -> Tensor:
        c = self.config
        if not self.tanh:
            return c.l0_coefficient * self.now.sparsity * self.view.sum_B(self.on.to(self.f.dtype))
        tanh = c.l1_coefficient * self.now.sparsity * self.view.sum_B(self._tanh())
        if self.view.dense:
            return tanh + c.pre_act_coefficient * self.view.sum_B(self._below(), self.norms_F)
        return tanh + c.pre_act_coefficient * self._below_B()

    def back(self, g: Tensor, share: float) -> Back:
        c, e, view = self.config, self.config.bandwidth, self.view
        box = ((self.pre - self.theta).abs() < e / 2).to(g.dtype) / e
        if not self.tanh:
            # d L/d theta = -K/e (theta g + l0 share)
            theta_F = -view.sum_F(box * (g * self.theta + c.l0_coefficient * self.now.sparsity * share))
            g.masked_fill_(~self.on, 0.0)
            return Back(g, {"b_enc": view.sum_F(g), "threshold": theta_F})
        l1, q = c.l1_coefficient * self.now.sparsity * share, c.pre_act_coefficient * share
        slope = (1 - self._tanh().square()) * (c.tanh_scale * l1)  # of the tanh, by f n
        norm_F = view.sum_F(slope * self.f) + q * self._below_F()
        g += slope * self.n
        low = (self.pre < self.theta).to(g.dtype) * (q * self.n)
        lows_F = None
        if not view.dense:
            low = low - q * self.n
            lows_F = -self.base_F(share) * view.rows
        jump = box * self.theta * g
        theta_F = view.sum_F(low - jump)
        g.masked_fill_(~self.on, 0.0).add_(jump).sub_(low)
        b_enc = view.sum_F(g)
        if lows_F is not None:
            theta_F, b_enc = theta_F + lows_F, b_enc - lows_F
        return Back(g, {"b_enc": b_enc, "threshold": theta_F}, norm_F)

    def _tanh(self) -> Tensor:
        return torch.tanh(self.f * (self.config.tanh_scale * self.n))

    def _below(self) -> Tensor:
        return (self.theta - self.pre).relu()

    def _below_F(self) -> Tensor:
        """max(theta - pre, 0) summed over rows; of entries by what it is without the max, and what that adds."""
        if self.view.dense:
            return self._below().sum(dim=0)
        above_F = self.view.sum_F((self.pre - self.theta).relu())
        return self._above_encoder() * self.view.rows - self.xc_BD.sum(dim=0) @ self.params["W_enc"] + above_F

    def _below_B(self) -> Tensor:
        """max(theta - pre, 0) n of entries, summed over features."""
        above_B = self.view.sum_B((self.pre - self.theta).relu(), self.norms_F)
        constant = self._above_encoder() @ self.norms_F
        return constant - self.xc_BD @ (self.params["W_enc"] @ self.norms_F) + above_B

    def _above_encoder(self) -> Tensor:
        """theta - pre without the encoder's product."""
        return self.params["threshold"] - self.params["b_enc"]
