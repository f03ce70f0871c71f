"""Gated: one path decides whether a feature is active, another how much."""

from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.heads.base import Back, Head, Now


class Gated(Head):
    """pi = pre, f = max(exp(r_mag) (pre - b_enc) + b_mag, 0) where pi > 0. Rajamanoharan et al. 2024a.

    Penalty: l1 sum max(pi, 0) n + |target - (max(pi, 0) W_dec + b_dec)|^2 in the unit of the error, with the decoder
    (and the skip) held fixed in this second term unless gate_decoder is shared. n: the decoder rows' norms, or 1 if
    l1_weight is plain.
    """

    def __init__(self, config: SaeConfig, params: dict[str, Tensor], now: Now):
        super().__init__(config, params, now)
        self.l1 = config.l1_coefficient * now.sparsity
        self.n_F = self._norms() if config.l1_weight == "decoder_norm" else None
        self.joins_slots = config.gate_decoder == "frozen"  # else two sums over rows are added to each other

    def features(self, pre: Tensor) -> Tensor:
        at = self.view.at
        self.gate = pre.relu()
        self.scale = at(self.params["r_mag"].exp())
        self.p = pre - at(self.params["b_enc"])
        magnitude = self.p * self.scale + at(self.params["b_mag"])
        self.f = magnitude.masked_fill_(pre <= 0, 0.0).relu_()  # relu_ last: autograd needs what it leaves
        return self.f

    def penalty_B(self) -> Tensor:
        return self.l1 * self.view.sum_B(self.gate, self.n_F)

    def back(self, g: Tensor, share: float) -> Back:
        view = self.view
        g.masked_fill_(self.f <= 0, 0.0)
        own = {"b_mag": view.sum_F(g), "r_mag": view.sum_F(g * self.p * self.scale)}
        gate, norm_F = self.gate_back, None
        if self.n_F is None:
            gate.add_(self.l1 * share)
        else:
            gate.add_(view.at(self.n_F), alpha=self.l1 * share)
            norm_F = view.sum_F(self.gate * (self.l1 * share))
        gate.masked_fill_(self.gate <= 0, 0.0)
        own["b_enc"] = view.sum_F(gate)
        p = g.mul_(self.scale).add_(gate)
        return Back(p, own, norm_F=norm_F, sum_F=view.sum_F(p))
