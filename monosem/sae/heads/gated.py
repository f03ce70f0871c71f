"""Gated: one path decides whether a feature is active, another how much."""

from torch import Tensor

from monosem.sae.heads.base import Back, Head


class Gated(Head):
    """pi = pre, f = max(exp(r_mag) (pre - b_enc) + b_mag, 0) where pi > 0. Rajamanoharan et al. 2024a.

    Penalty: l1 sum max(pi, 0) + |target - (max(pi, 0) W_dec + b_dec)|^2 in the unit of the error, with the decoder
    (and the skip) held fixed in this term.
    """

    def features(self, pre_BF: Tensor) -> Tensor:
        self.gate = pre_BF.relu()
        self.scale_F = self.params["r_mag"].exp()
        self.p = pre_BF - self.params["b_enc"]
        magnitude = (self.p * self.scale_F + self.params["b_mag"]).relu_()
        self.f = magnitude.masked_fill_(pre_BF <= 0, 0.0)
        return self.f

    def penalty_B(self) -> Tensor:
        return self.config.l1_coefficient * self.now.sparsity * self.gate.sum(dim=1)

    def back(self, g_BF: Tensor, share: float) -> Back:
        on = self.f > 0
        g_BF.masked_fill_(~on, 0.0)
        own = {"b_mag": g_BF.sum(dim=0), "r_mag": (g_BF * self.p).sum(dim=0) * self.scale_F}
        gate_BF = self.frozen_BF.add_(self.config.l1_coefficient * self.now.sparsity * share)
        gate_BF.masked_fill_(self.gate <= 0, 0.0)
        own["b_enc"] = gate_BF.sum(dim=0)
        return Back(g_BF.mul_(self.scale_F).add_(gate_BF), own, tied=False)
