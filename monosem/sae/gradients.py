"""Loss and gradients of the ReLU SAE on one slot of a batch, written out.

    L = (1/(B D)) sum (x - x_hat)^2 + (l1/B) sum |f|        Bricken et al. 2023

The MSE is averaged over rows and elements, the L1 term over rows only: the paper's text, not its
printed formula, which sums the squares (they differ by the factor D).

By hand rather than by autograd: the pre-encoder bias needs no gradient per row (a sum over the batch and
one vector-matrix product do), which saves a sixth of the arithmetic, and the order of every sum is fixed.

Shape letters: B rows of the slot, D d_in, F d_sae.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.model import Sae


@dataclass
class SlotResult:
    """Sums over one slot: gradients by parameter name, and which features were active."""

    gradients: dict[str, Tensor]
    fired_F: Tensor
    squared_error: Tensor
    l1: Tensor
    active: Tensor

    def __add__(self, other: "SlotResult") -> "SlotResult":
        return SlotResult(
            {name: g + other.gradients[name] for name, g in self.gradients.items()},
            self.fired_F | other.fired_F,
            self.squared_error + other.squared_error,
            self.l1 + other.l1,
            self.active + other.active,
        )


def matmul(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b; with "bf16" the factors are rounded to bfloat16 and the product comes back as float32."""
    if precision == "fp32":
        return a @ b
    return (a.bfloat16() @ b.bfloat16()).float()


def slot_gradients(
    sae: Sae, x_BD: Tensor, batch_size: int, precision: str = "fp32", masked_B: Tensor | None = None
) -> SlotResult:
    """Gradients of the loss of a batch of `batch_size` rows, from those of its rows that are in this slot.

    masked_B   rows that count for nothing, bool [B]; their values must be finite
    """
    D, l1 = sae.config.d_in, sae.config.l1_coefficient
    xc_BD = x_BD - sae.b_dec
    f_BF = matmul(xc_BD, sae.W_enc, precision).add_(sae.b_enc).relu_()
    if masked_B is not None:
        f_BF[masked_B] = 0.0
    r_BD = matmul(f_BF, sae.W_dec, precision).sub_(xc_BD)  # x_hat - x
    if masked_B is not None:
        r_BD[masked_B] = 0.0
    squared_error, l1_sum = (r_BD * r_BD).sum(), f_BF.sum()
    fired_F = f_BF.amax(dim=0) > 0
    active = torch.count_nonzero(f_BF)

    g_BD = r_BD.mul_(2.0 / (batch_size * D))
    grad_W_dec = matmul(f_BF.T, g_BD, precision)
    g_BF = matmul(g_BD, sae.W_dec.T, precision).add_(l1 / batch_size)
    torch.ops.aten.threshold_backward.grad_input(g_BF, f_BF, 0, grad_input=g_BF)  # zero where f is zero
    grad_b_enc = g_BF.sum(dim=0)
    gradients = {
        "W_enc": matmul(xc_BD.T, g_BF, precision),
        "b_enc": grad_b_enc,
        "W_dec": grad_W_dec,
        "b_dec": g_BD.sum(dim=0) - sae.W_enc @ grad_b_enc,
    }
    # b_dec: + from x_hat, - through the encoder; d(x_hat - x)/d b_dec of the decoder is the identity
    return SlotResult(gradients, fired_F, squared_error, l1_sum, active)


def batch_gradients(
    sae: Sae, x_BD: Tensor, slots: int, precision: str = "fp32", masked_B: Tensor | None = None
) -> SlotResult:
    """The batch cut into `slots` equal parts, their results added in one fixed binary tree."""
    B = x_BD.shape[0]
    if B % slots:
        raise ValueError(f"a batch of {B} rows does not divide into {slots} slots")
    m = B // slots
    masks = [None] * slots if masked_B is None else masked_B.split(m)
    pairs = zip(x_BD.split(m), masks, strict=True)
    return tree_sum([lambda x=x, bad=bad: slot_gradients(sae, x, B, precision, bad) for x, bad in pairs])


def tree_sum(parts: list):
    """Sum of the results of `parts` (functions), pairing neighbours; at most log2(n) + 1 results are alive."""
    if len(parts) == 1:
        return parts[0]()
    half = 1 << (len(parts) - 1).bit_length() - 1  # the largest power of two below len(parts)
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


def row_losses(sae: Sae, x_BD: Tensor, precision: str = "fp32") -> Tensor:
    """The loss of each row by itself, MSE and L1 term, [B]."""
    xc_BD = x_BD - sae.b_dec
    f_BF = matmul(xc_BD, sae.W_enc, precision).add_(sae.b_enc).relu_()
    r_BD = matmul(f_BF, sae.W_dec, precision).sub_(xc_BD)
    return (r_BD * r_BD).mean(dim=1) + sae.config.l1_coefficient * f_BF.sum(dim=1)
