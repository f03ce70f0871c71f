"""Loss and gradients of a batch: its slots' (`slot.py`), added by one fixed tree (`tree.py`).

Shape letters: B rows, D d_in, F d_sae, O d_out.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from monosem.sae.heads import Now
from monosem.sae.model import Sae
from monosem.sae.products import TILE_BYTES, Product
from monosem.sae.slot import Manner, SlotRows, Step, node_sums
from monosem.sae.sums import Result, finish
from monosem.sae.tree import Node
from monosem.sae.ways import DenseWay, SparseWay

Gather = Callable[[list[Tensor]], list[list[Tensor]]]
"""From a tensor per slot of this rank to those of all slots, in order, of every part of the features."""


def batch_gradients(
    sae: Sae,
    x_BD: Tensor,
    slots: int,
    manner: Manner = Manner(),  # noqa: B008  (a frozen value)
    masked_B: Tensor | None = None,
    y_BO: Tensor | None = None,
    now: Now | None = None,
    dead_F: Tensor | None = None,
) -> Result:
    """The batch cut into `slots` equal parts, their results added by one fixed binary tree.

    masked_B   rows that count for nothing, bool [B]
    y_BO       a transcoder's target
    """
    now = now or Now(power=sae.config.l1_power)
    step = Step(sae, len(x_BD), manner, now, dead_F, 0 if dead_F is None else len(dead_F))
    [rows] = rows_of(x_BD, y_BO, masked_B, slots, [(0, slots)])
    step.now, [products] = with_statistic(step, [rows], slots)
    return finish(sae, node_sums(step, rows, products), step.constant())


def rows_of(
    x_BD: Tensor, y_BO: Tensor | None, masked_B: Tensor | None, slots: int, nodes: Sequence[Node]
) -> list[SlotRows]:
    """The rows of some subtrees' slots, of a batch that is cut into `slots` equal parts."""
    B, y_BO = x_BD.shape[0], x_BD if y_BO is None else y_BO
    if B % slots:
        raise ValueError(f"a batch of {B} rows does not divide into {slots} slots")
    m, found = B // slots, []
    for first, end in nodes:
        x, y = x_BD[first * m : end * m], y_BO[first * m : end * m]
        counts = [m] * (end - first)
        if masked_B is not None:
            kept = ~masked_B[first * m : end * m]
            x, y, counts = x[kept], y[kept], [int(part.sum()) for part in kept.split(m)]
        found.append(SlotRows(x, y, tuple(sum(counts[: i + 1]) for i in range(len(counts)))))
    return found


def with_statistic(
    step: Step, nodes: Sequence[SlotRows], slots: int, rows: int | None = None, gather: Gather | None = None
) -> tuple[Now, list[list[Product] | None]]:
    """`now` with the statistic of the whole batch, where the variant has one.

    slots    of the whole batch
    rows     that count, of the whole batch; None: those of `nodes`

    The encoder's products come back too, by subtree, unless they are large: those are made anew when asked for.
    """
    head, sae = step.head(), step.sae
    if not head.batch_wide:
        return step.now, [None] * len(nodes)
    rows = sum(len(node.x_BD) for node in nodes) if rows is None else rows
    kept = keeps_products(step.batch_size, sae.config.d_sae, slots)
    partials, found = [], []
    for node in nodes:
        products = step.products(node.centred(sae)[0], node.ranges)
        found.append(products if kept else None)
        for i, product in enumerate(products):
            partials.append(head.partial(product, rows))
            if not kept:
                products[i] = None
    gathered = gather(partials) if gather else [sae.part.every(partial) for partial in partials]
    return replace(step.now, statistic=head.statistic(gathered, rows)), found


def keeps_products(batch_size: int, features: int, slots: int) -> bool:
    """Whether the products that a statistic is taken from stay for the step itself: in one slot they do anyway."""
    return slots == 1 or batch_size * features * 4 <= TILE_BYTES


def row_losses(
    sae: Sae, x_BD: Tensor, manner: Manner = Manner(), y_BO: Tensor | None = None, now: Now | None = None  # noqa: B008
) -> Tensor:
    """The loss of each row by itself, error and penalty, [B]; these rows are the batch of what is batch-wide.

    now   the coefficients; None: those of the end of training
    """
    step = Step(sae, len(x_BD), manner, now or Now(power=sae.config.l1_power))
    rows = SlotRows(x_BD, x_BD if y_BO is None else y_BO, (len(x_BD),))
    step.now, [products] = with_statistic(step, [rows], 1)
    xc_BD, yc_BO = rows.centred(sae)
    [product] = products or step.products(xc_BD, rows.ranges)
    head = step.head()
    entries = head.entries(product, manner.sparse_share) if manner.sparse_share > 0 else None
    if entries is None:
        way = DenseWay(sae, product, manner.precision)
    else:
        head.view, head.xc_BD = entries, xc_BD
        way = SparseWay(sae, entries, step.table, step.seen(xc_BD, [product]), manner.precision)
    f = head.features(way.pre())
    losses = sae.part.add(head.penalty_B())
    for features in (f,) if head.gate is None else (f, head.gate):
        squares_B = way.decode(features, yc_BO, 1.0).squares_BP[:, -1]
        losses = losses + (squares_B / sae.config.width_out if sae.config.error == "mean" else squares_B)
    return losses
