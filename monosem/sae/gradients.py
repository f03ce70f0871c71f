"""Loss and gradients of an SAE on one slot of a batch, written out.

    L = E(x_hat - y) + penalty + AuxK       y: the rows themselves, or a transcoder's target

    E(r) = (1/(B O)) sum r^2   error "mean"   Bricken et al. 2023: the paper's text, not its printed formula
           (1/B) sum r^2       error "sum"    the 2024 updates (they differ by the factor O)

With nested prefixes (matryoshka) E is the mean over the prefixes' reconstructions. Penalties are the heads'
(`heads/`), AuxK is `auxk.py`'s.

By hand rather than by autograd: the pre-encoder bias needs no gradient per row (a sum over the batch and
one vector-matrix product do), which saves a sixth of the arithmetic, and the order of every sum is fixed.

Shape letters: B rows of the slot, D d_in, F d_sae, O d_out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from monosem.sae.auxk import aux_k
from monosem.sae.heads import Back, Now, head_of
from monosem.sae.model import Sae
from monosem.sae.products import matmul


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


@dataclass
class Decoded:
    """The way through the decoder and back: gradients of the error term.

    weighted   sum of squares, averaged over the prefixes
    r_BO       x_hat - y of all features, if it was asked for
    g_BO       gradient of x_hat of all features; its column sums are b_dec's
    f_BF       gradient of the features
    """

    weighted: Tensor
    squared_error: Tensor
    r_BO: Tensor | None
    g_BO: Tensor
    f_BF: Tensor
    W_dec: Tensor


def decode_and_back(sae: Sae, f_BF: Tensor, yc_BO: Tensor, unit: float, precision: str, keep_r: bool) -> Decoded:
    """Reconstruct by every prefix, and send what is left over back to decoder and features."""
    ends = sae.config.ends
    r_BO = matmul(f_BF[:, : ends[0]], sae.W_dec[: ends[0]], precision).sub_(yc_BO)
    left = [r_BO]
    for lo, hi in pairwise(ends):
        left.append(matmul(f_BF[:, lo:hi], sae.W_dec[lo:hi], precision).add_(left[-1]))
    squares = [(r * r).sum() for r in left]
    kept = left[-1].clone() if keep_r else None
    weight = 2.0 * unit / len(ends)
    parts, g_BO = [], None
    for lo, hi, r in reversed(list(zip((0, *ends[:-1]), ends, left, strict=True))):
        r.mul_(weight)
        g_BO = r if g_BO is None else g_BO.add_(r)  # a feature is in its own prefix and in all longer ones
        parts.append((matmul(f_BF[:, lo:hi].T, g_BO, precision), matmul(g_BO, sae.W_dec[lo:hi].T, precision)))
    W_dec, g_BF = parts[0]
    if len(parts) > 1:
        W_dec, g_BF = (torch.cat(column[::-1], dim) for dim, column in enumerate(zip(*parts, strict=True)))
    return Decoded(sum(squares) / len(ends), squares[-1], kept, g_BO, g_BF, W_dec)


def slot_gradients(
    sae: Sae,
    slot: Slot,
    batch_size: int,
    precision: str = "fp32",
    now: Now | None = None,
    dead_F: Tensor | None = None,
) -> SlotResult:
    """Gradients of the loss of a batch of `batch_size` rows, from those that are in this slot.

    dead_F   int64 [n]: features that AuxK gives a share of what is left over; None or n > 0
    """
    config, share = sae.config, 1.0 / batch_size
    unit = share / config.width_out if config.error == "mean" else share  # what a squared element counts
    head = head_of(config, sae.tensors(), now)
    xc_BD, yc_BO = slot.centred(sae)
    pre_BF = matmul(xc_BD, sae.W_enc, precision).add_(sae.b_enc)
    pre_Bn = None if dead_F is None else pre_BF[:, dead_F]  # a copy: the head may overwrite
    f_BF = head.features(pre_BF)
    decoded = decode_and_back(sae, f_BF, yc_BO, unit, precision, keep_r=dead_F is not None)
    loss = decoded.weighted * unit + head.penalty_B().sum() * share
    if head.gate is not None:  # a second way through the decoder, which holds still
        r_BO = matmul(head.gate, sae.W_dec, precision).sub_(yc_BO)
        loss = loss + (r_BO * r_BO).sum() * unit
        head.frozen_BF = matmul(r_BO.mul_(2.0 * unit), sae.W_dec.T, precision)
    back = head.back(decoded.f_BF, share)
    if dead_F is not None:
        aux = aux_k(config, pre_Bn, sae.W_dec[dead_F], decoded.r_BO, unit, precision)
        loss = loss + aux.loss
        back.add_at(dead_F, aux.pre)
        decoded.W_dec[dead_F] += aux.W_dec
    return SlotResult(
        _gradients(sae, slot, xc_BD, decoded, back, precision),
        f_BF.amax(dim=0) > 0 if len(f_BF) else torch.zeros_like(sae.b_enc, dtype=torch.bool),
        decoded.squared_error,
        f_BF.sum(),
        torch.count_nonzero(f_BF),
        loss,
        head.least(),
    )


def _gradients(
    sae: Sae, slot: Slot, xc_BD: Tensor, decoded: Decoded, back: Back, precision: str
) -> dict[str, Tensor]:
    """By parameter, in the order of the config."""
    b_dec = decoded.g_BO.sum(dim=0)
    if sae.config.subtract_b_dec:  # + from x_hat, - through the encoder; in x_hat - x itself it is not
        b_dec = b_dec - sae.W_enc @ back.sum_F()
    if back.norm_F is not None:
        decoded.W_dec.add_((back.norm_F / sae.W_dec.norm(dim=1))[:, None] * sae.W_dec)
    found = {"W_dec": decoded.W_dec, "W_enc": matmul(xc_BD.T, back.p_BF, precision), "b_dec": b_dec} | back.own
    if sae.config.skip:
        found["W_skip"] = matmul(decoded.g_BO.T, slot.x_BD, precision)
    return {name: found[name] for name in sae.config.shapes}


def batch_gradients(
    sae: Sae,
    x_BD: Tensor,
    slots: int,
    precision: str = "fp32",
    masked_B: Tensor | None = None,
    y_BO: Tensor | None = None,
    now: Now | None = None,
    dead_F: Tensor | None = None,
) -> SlotResult:
    """The batch cut into `slots` equal parts, their results added in one fixed binary tree.

    masked_B   rows that count for nothing, bool [B]
    y_BO       a transcoder's target
    """
    B = x_BD.shape[0]
    if B % slots:
        raise ValueError(f"a batch of {B} rows does not divide into {slots} slots")
    y_BO = x_BD if y_BO is None else y_BO
    parts = [Slot(x, y) for x, y in zip(x_BD.split(B // slots), y_BO.split(B // slots), strict=True)]
    if masked_B is not None:
        parts = [p.without(bad) for p, bad in zip(parts, masked_B.split(B // slots), strict=True)]
    now = with_statistic(sae, parts, precision, now or Now(power=sae.config.l1_power))
    return tree_sum([lambda p=p: slot_gradients(sae, p, B, precision, now, dead_F) for p in parts])


def with_statistic(sae: Sae, parts: Sequence[Slot], precision: str, now: Now) -> Now:
    """`now` with the statistic of the whole batch, where the variant has one. Each slot's products are made anew."""
    head = head_of(sae.config, sae.tensors(), now)
    if not head.batch_wide:
        return now
    pres = (matmul(p.centred(sae)[0], sae.W_enc, precision).add_(sae.b_enc) for p in parts)
    rows = sum(len(p.x_BD) for p in parts)
    return replace(now, statistic=head.statistic([head.partial(pre) for pre in pres], rows))


def tree_sum(parts: list):
    """Sum of the results of `parts` (functions), pairing neighbours; at most log2(n) + 1 results are alive."""
    if len(parts) == 1:
        return parts[0]()
    half = 1 << (len(parts) - 1).bit_length() - 1  # the largest power of two below len(parts)
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


def row_losses(sae: Sae, x_BD: Tensor, precision: str = "fp32", y_BO: Tensor | None = None) -> Tensor:
    """The loss of each row by itself, error and penalty, [B]; these rows are the batch of what is batch-wide."""
    slot = Slot(x_BD, x_BD if y_BO is None else y_BO)
    now = with_statistic(sae, [slot], precision, Now(power=sae.config.l1_power))
    head = head_of(sae.config, sae.tensors(), now)
    xc_BD, yc_BO = slot.centred(sae)
    f_BF = head.features(matmul(xc_BD, sae.W_enc, precision).add_(sae.b_enc))
    losses = head.penalty_B()
    for features in (f_BF,) if head.gate is None else (f_BF, head.gate):
        r_BO = matmul(features, sae.W_dec, precision).sub_(yc_BO)
        losses = losses + (r_BO.square().mean(dim=1) if sae.config.error == "mean" else r_BO.square().sum(dim=1))
    return losses
