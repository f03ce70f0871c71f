"""AuxK: dead features learn to reconstruct what the living ones leave over. Gao et al. 2024, section 2.4.

    e = y - x_hat, held fixed;   a = the k_aux largest of max(pre, 0) among dead features;   e_hat = a W_dec
    L = coefficient * min(1, dead / k_aux) * E(e_hat - e)

E is the error's own unit. No b_dec in e_hat: it is in x_hat already, and would count twice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.products import matmul


@dataclass
class Aux:
    """loss, and gradients by the dead features' pre-activations [B, n] and decoder rows [n, O]."""

    loss: Tensor
    pre: Tensor
    W_dec: Tensor


def aux_k(config: SaeConfig, pre_Bn: Tensor, W_dec_nO: Tensor, r_BO: Tensor, unit: float, precision: str) -> Aux:
    """The term and its gradients for n > 0 dead features.

    r_BO   x_hat - y
    unit   what a squared element counts in the loss
    """
    wanted = config.aux_k or max(1, config.d_in // 2)
    n = pre_Bn.shape[1]
    values, at = pre_Bn.topk(min(wanted, n), dim=1, sorted=False)
    a_Bn = torch.zeros_like(pre_Bn).scatter_(1, at, values.relu_())
    coefficient = config.aux_coefficient * min(1.0, n / wanted) * unit
    d_BO = matmul(a_Bn, W_dec_nO, precision).add_(r_BO)
    loss = (d_BO * d_BO).sum() * coefficient
    d_BO.mul_(2 * coefficient)
    pre = matmul(d_BO, W_dec_nO.T, precision).masked_fill_(a_Bn <= 0, 0.0)
    return Aux(loss, pre, matmul(a_Bn.T, d_BO, precision))
