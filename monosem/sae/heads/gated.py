"""Gated: one path decides whether a feature is active, another how much."""

from torch import Tensor

from monosem.sae.heads.base import Back, Head


class Gated(Head):
    """pi = pre, f = max(exp(r_mag) (pre - b_enc) + b_mag, 0) where pi > 0. Rajamanoharan et al. 2024a.

    Penalty: l1 sum max(pi, 0) + |target - (max(pi, 0) W_dec + b_dec)|^2 in the unit of the error, with the decoder
    (and the skip) held fixed in this term.
    """

    def features(self, pre: Tensor) -> Tensor:
        at = self.view.at
        self.gate = pre.relu()
        self.scale = at(self.params["r_mag"].exp())
        self.p = pre - at(self.params["b_enc"])
        magnitude = (self.p * self.scale + at(self.params["b_mag"])).relu_()
        self.f = magnitude.masked_fill_(pre <= 0, 0.0)
        return self.f

    def penalty_B(self) -> Tensor:
        return self.config.l1_coefficient * self.now.sparsity * self.view.sum_B(self.gate)

    def back(self, g: Tensor, share: float) -> Back:
        view = self.view
        g.masked_fill_(self.f <= 0, 0.0)
        own = {"b_mag": view.sum_F(g), "r_mag": view.sum_F(g * self.p) * self.params["r_mag"].exp()}
        gate = self.frozen.add_(self.config.l1_coefficient * self.now.sparsity * share)
        gate.masked_fill_(self.gate <= 0, 0.0)
        own["b_enc"] = view.sum_F(gate)
        p = g.mul_(self.scale).add_(gate)
        return Back(p, own, sum_F=view.sum_F(p))
