"""Loss and gradients of an SAE on one slot of a batch, written out.

    L = E(x_hat - y) + penalty + AuxK       y: the rows themselves, or a transcoder's target

    E(r) = (1/(B O)) sum r^2   error "mean"   Bricken et al. 2023: the paper's text, not its printed formula
           (1/B) sum r^2       error "sum"    the 2024 updates (they differ by the factor O)

With nested prefixes (matryoshka) E is the mean over the prefixes' reconstructions. Penalties are the heads'
(`heads/`), AuxK is `auxk.py`'s; the products are made densely or sparsely (`ways.py`).

By hand rather than by autograd: the pre-encoder bias needs no gradient per row (a sum over the batch and
one vector-matrix product do), which saves a sixth of the arithmetic, and the order of every sum is fixed.

Shape letters: B rows of the slot, D d_in, F d_sae, O d_out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.auxk import Aux, aux_k
from monosem.sae.heads import Back, Head, Now, head_of
from monosem.sae.model import Sae
from monosem.sae.products import Product, encoder_product
from monosem.sae.ways import DenseWay, SparseWay


@dataclass
class SlotResult:
    """Sums over one slot: gradients by parameter name, which features were active, and terms of the loss.

    loss     this slot's part of the whole loss
    l1       sum of activations
    least    the smallest activation that is not zero; infinity if there is none
    """

    gradients: dict[str, Tensor]
    fired_F: Tensor
    squared_error: Tensor
    l1: Tensor
    active: Tensor
    loss: Tensor
    least: Tensor

    def __add__(self, other: "SlotResult") -> "SlotResult":
        return SlotResult(
            {name: g + other.gradients[name] for name, g in self.gradients.items()},
            self.fired_F | other.fired_F,
            self.squared_error + other.squared_error,
            self.l1 + other.l1,
            self.active + other.active,
            self.loss + other.loss,
            torch.minimum(self.least, other.least),
        )


@dataclass
class Slot:
    """Rows of one slot without the masked ones. y_BO: the target, the same tensor as x_BD unless a transcoder's."""

    x_BD: Tensor
    y_BO: Tensor

    def centred(self, sae: Sae) -> tuple[Tensor, Tensor]:
        """What the encoder sees, and what the features must reconstruct: the target without b_dec and skip."""
        if sae.config.subtract_b_dec:
            xc_BD = self.x_BD - sae.b_dec
            return xc_BD, xc_BD
        yc_BO = self.y_BO - sae.b_dec
        return self.x_BD, yc_BO - self.x_BD @ sae.W_skip.T if sae.config.skip else yc_BO

    def without(self, masked_B: Tensor) -> "Slot":
        kept = ~masked_B
        return Slot(self.x_BD[kept], self.y_BO[kept])


@dataclass(frozen=True)
class Manner:
    """How products are made.

    precision     "fp32", or "bf16" for their factors
    sparse_share  active share of a group of rows up to which only entries are worked on; 0: matrices always
    """

    precision: str = "fp32"
    sparse_share: float = 0.0


def way_of(sae: Sae, head: Head, product: Product, xc_BD: Tensor, manner: Manner) -> DenseWay | SparseWay:
    """The way for a slot, known to its head."""
    entries = head.entries(product, manner.sparse_share) if manner.sparse_share > 0 else None
    if entries is None:
        return DenseWay(sae, product, manner.precision)
    head.view, head.xc_BD = entries, xc_BD
    return SparseWay(sae, entries, product, manner.precision)


def slot_gradients(
    sae: Sae,
    slot: Slot,
    batch_size: int,
    manner: Manner,
    now: Now | None = None,
    dead_F: Tensor | None = None,
    product: Product | None = None,
) -> SlotResult:
    """Gradients of the loss of a batch of `batch_size` rows, from those that are in this slot.

    dead_F      int64 [n]: features that AuxK gives a share of what is left over; None or n > 0
    product     the encoder's, if it is at hand already
    """
    config, share = sae.config, 1.0 / batch_size
    unit = share / config.width_out if config.error == "mean" else share  # what a squared element counts
    head = head_of(config, sae.tensors(), now)
    xc_BD, yc_BO = slot.centred(sae)
    product = product or encoder_product(xc_BD, sae.W_enc, manner.precision)
    pre_Bn = None if dead_F is None else product.columns(dead_F).to(sae.b_enc.dtype).add_(sae.b_enc[dead_F])
    way = way_of(sae, head, product, xc_BD, manner)
    f = head.features(way.pre())
    prefixes = len(config.ends)
    decoded = way.decode(f, yc_BO, 2.0 * unit / prefixes, keep_r=dead_F is not None)
    squares_P = decoded.squares_BP.sum(dim=0)
    loss = squares_P.sum() * (unit / prefixes) + head.penalty_B().sum() * share
    second = None
    if head.gate is not None:  # a second way through the decoder
        second = way.decode(head.gate, yc_BO, 2.0 * unit)
        loss, head.gate_back = loss + second.squares_BP.sum() * unit, second.back
    back = head.back(decoded.back, share)
    aux = None
    if dead_F is not None:
        aux = aux_k(config, pre_Bn, sae.W_dec[dead_F], decoded.r_BO, unit, manner.precision)
        loss = loss + aux.loss
    found = {"W_dec": way.W_dec(f, decoded.g_PBO), "W_enc": way.W_enc(back.p, xc_BD, back.base_F)}
    g_BO = decoded.g_PBO[0]  # of x_hat by all features: the first prefix is in every longer one
    if second is not None and config.gate_decoder == "shared":
        found["W_dec"] += way.W_dec(head.gate, second.g_PBO)
        g_BO = g_BO + second.g_PBO[0]
    return SlotResult(
        _gradients(sae, slot, xc_BD, found, g_BO, back, dead_F, aux),
        way.view.fired_F(f),
        squares_P[-1],
        f.sum(),
        torch.count_nonzero(f),
        loss,
        head.least(),
    )


def _gradients(
    sae: Sae, slot: Slot, xc_BD: Tensor, found: dict[str, Tensor], g_BO: Tensor, back: Back,
    dead_F: Tensor | None, aux: Aux | None,
) -> dict[str, Tensor]:  # fmt: skip
    """By parameter, in the order of the config. The encoder's comes as its transpose, a view of which is returned.

    g_BO    gradient by what the decoder puts out
    """
    W_dec, W_enc_FD = found["W_dec"], found["W_enc"]
    if back.norm_F is not None:
        W_dec.addcmul_((back.norm_F / sae.W_dec.norm(dim=1))[:, None], sae.W_dec)
    if aux is not None:
        W_dec[dead_F] += aux.W_dec
        W_enc_FD[dead_F] += aux.pre.T @ xc_BD
        back.own["b_enc"][dead_F] += aux.pre.sum(dim=0)
    b_dec = g_BO.sum(dim=0)
    if sae.config.subtract_b_dec:  # + from x_hat, - through the encoder; in x_hat - x itself it is not
        b_dec = b_dec - sae.W_enc @ (back.own["b_enc"] if back.sum_F is None else back.sum_F)
    found |= {"W_enc": W_enc_FD.T, "b_dec": b_dec} | back.own
    if sae.config.skip:
        found["W_skip"] = g_BO.T @ slot.x_BD
    return {name: found[name] for name in sae.config.shapes}
