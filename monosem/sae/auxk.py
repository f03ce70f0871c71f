"""AuxK: dead features learn to reconstruct what the living ones leave over. Gao et al. 2024, section 2.4.

    e = y - x_hat, held fixed;   a = the k_aux largest of max(pre, 0) among dead features;   e_hat = a W_dec
    L = coefficient * min(1, dead / k_aux) * E(e_hat - e)

E is the error's own unit. No b_dec in e_hat: it is in x_hat already, and would count twice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.part import Part
from monosem.sae.products import matmul
from monosem.sae.select import among_largest


@dataclass
class Aux:
    """loss, and gradients by the dead features' decoder rows [n, O], encoder columns [n, D] and biases [n]."""

    loss: Tensor
    W_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor

    def __add__(self, other: "Aux") -> "Aux":
        return Aux(
            self.loss + other.loss, self.W_dec + other.W_dec, self.W_enc + other.W_enc, self.b_enc + other.b_enc
        )


def aux_k(
    config: SaeConfig, part: Part, dead: int, pre_Bn: Tensor, W_dec_nO: Tensor, r_BO: Tensor, xc_BD: Tensor,
    unit: float, precision: str,
) -> Aux:  # fmt: skip
    """The term and its gradients for the n dead features held here, of `dead` > 0 in all parts.

    r_BO   x_hat - y
    unit   what a squared element counts in the loss
    """
    wanted = config.aux_k or max(1, config.d_in // 2)
    values, at = pre_Bn.topk(min(wanted, pre_Bn.shape[1]), dim=1, sorted=False)
    values = values.relu_() if part.count == 1 else values.masked_fill(~among_largest(values, wanted, part), 0.0)
    a_Bn = torch.zeros_like(pre_Bn).scatter_(1, at, values)
    coefficient = config.aux_coefficient * min(1.0, dead / wanted) * unit
    d_BO = part.add(matmul(a_Bn, W_dec_nO, precision)).add_(r_BO)
    loss = (d_BO * d_BO).sum() * coefficient
    d_BO.mul_(2 * coefficient)
    pre = matmul(d_BO, W_dec_nO.T, precision).masked_fill_(a_Bn <= 0, 0.0)
    return Aux(loss, matmul(a_Bn.T, d_BO, precision), pre.T @ xc_BD, pre.sum(dim=0))
