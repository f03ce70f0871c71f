"""Loss and gradients of a batch: its slots' (`slot.py`), added in one fixed tree.

Shape letters: B rows, D d_in, F d_sae, O d_out.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from monosem.sae.heads import Now, head_of
from monosem.sae.model import Sae
from monosem.sae.products import Product, encoder_product
from monosem.sae.slot import Manner, Slot, SlotResult, slot_gradients, way_of


def batch_gradients(
    sae: Sae,
    x_BD: Tensor,
    slots: int,
    manner: Manner = Manner(),  # noqa: B008  (a frozen value)
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
    now, product = with_statistic(sae, parts, manner, now or Now(power=sae.config.l1_power))
    return tree_sum([lambda p=p: slot_gradients(sae, p, B, manner, now, dead_F, product) for p in parts])


def with_statistic(sae: Sae, parts: Sequence[Slot], manner: Manner, now: Now) -> tuple[Now, Product | None]:
    """`now` with the statistic of the whole batch, where the variant has one.

    The encoder's product comes back too if the batch is one slot; those of several are made anew, one at a time.
    """
    head = head_of(sae.config, sae.tensors(), now)
    if not head.batch_wide:
        return now, None
    rows, partials, product = sum(len(p.x_BD) for p in parts), [], None
    for part in parts:
        product = encoder_product(part.centred(sae)[0], sae.W_enc, manner.precision)
        partials.append(head.partial(product, rows))
    return replace(now, statistic=head.statistic(partials, rows)), product if len(parts) == 1 else None


def tree_sum(parts: list):
    """Sum of the results of `parts` (functions), pairing neighbours; at most log2(n) + 1 results are alive."""
    if len(parts) == 1:
        return parts[0]()
    half = 1 << (len(parts) - 1).bit_length() - 1  # the largest power of two below len(parts)
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


def row_losses(sae: Sae, x_BD: Tensor, manner: Manner = Manner(), y_BO: Tensor | None = None) -> Tensor:  # noqa: B008
    """The loss of each row by itself, error and penalty, [B]; these rows are the batch of what is batch-wide."""
    slot = Slot(x_BD, x_BD if y_BO is None else y_BO)
    now, product = with_statistic(sae, [slot], manner, Now(power=sae.config.l1_power))
    head = head_of(sae.config, sae.tensors(), now)
    xc_BD, yc_BO = slot.centred(sae)
    product = product or encoder_product(xc_BD, sae.W_enc, manner.precision)
    way = way_of(sae, head, product, xc_BD, manner)
    f = head.features(way.pre())
    losses = head.penalty_B()
    for features in (f,) if head.gate is None else (f, head.gate):
        squares_B = way.decode(features, yc_BO, 1.0).squares_BP[:, -1]
        losses = losses + (squares_B / sae.config.width_out if sae.config.error == "mean" else squares_B)
    return losses
