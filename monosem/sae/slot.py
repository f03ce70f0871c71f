"""Loss and gradients of an SAE on slots of a batch, written out, as sums over their rows.

    L = E(x_hat - y) + penalty + AuxK       y: the rows themselves, or a transcoder's target

    E(r) = (1/(B O)) sum r^2   error "mean"   Bricken et al. 2023: the paper's text, not its printed formula
           (1/B) sum r^2       error "sum"    the 2024 updates (they differ by the factor O)

With nested prefixes (matryoshka) E is the mean over the prefixes' reconstructions. Penalties are the heads'
(`heads/`), AuxK is `auxk.py`'s; the products are made densely or sparsely (`ways.py`).

By hand rather than by autograd: the pre-encoder bias needs no gradient per row (a sum over the batch and
one vector-matrix product do), which saves a sixth of the arithmetic, and the order of every sum is fixed.

Slots that all are sparse are worked on together, so that their sums are added while they are at hand; the bits are
those of one slot after another.

Shape letters: B rows, D d_in, F d_sae, O d_out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from monosem.sae.auxk import Aux, aux_k
from monosem.sae.heads import Back, Head, Now, head_of
from monosem.sae.kernels import Entries, Room, kernels_for
from monosem.sae.kernels.entries import joined
from monosem.sae.model import Sae
from monosem.sae.products import Product, rounded
from monosem.sae.sums import Constant, Sums
from monosem.sae.tree import total, tree_sum
from monosem.sae.ways import DenseWay, SparseWay


@dataclass(frozen=True)
class Manner:
    """How products are made.

    precision     "fp32", or "bf16" for their factors
    sparse_share  active share of a group of rows up to which only entries are worked on; 0: matrices always
    expected      the entries that a GPU makes room for
    """

    precision: str = "fp32"
    sparse_share: float = 0.0
    expected: Room | None = None


@dataclass
class SlotRows:
    """Rows of slots, one after the other, without the masked ones.

    y_BO   the target, the same tensor as x_BD unless a transcoder's
    ends   where each slot's rows end
    """

    x_BD: Tensor
    y_BO: Tensor
    ends: tuple[int, ...]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return list(zip((0, *self.ends[:-1]), self.ends, strict=True))

    def centred(self, sae: Sae) -> tuple[Tensor, Tensor]:
        """What the encoder sees, and what the features must reconstruct: the target without b_dec and skip."""
        if sae.config.subtract_b_dec:
            xc_BD = self.x_BD - sae.b_dec
            return xc_BD, xc_BD
        yc_BO = self.y_BO - sae.b_dec
        return self.x_BD, yc_BO - self.x_BD @ sae.W_skip.T if sae.config.skip else yc_BO

    def each(self) -> list["SlotRows"]:
        """The slots by themselves."""
        return [SlotRows(self.x_BD[lo:hi], self.y_BO[lo:hi], (hi - lo,)) for lo, hi in self.ranges]


@dataclass
class Step:
    """What all slots of a batch have in common.

    dead_F   int64 [n]: the features held here that AuxK gives a share of what is left over
    dead     how many there are in all parts; 0: no AuxK
    """

    sae: Sae
    batch_size: int
    manner: Manner
    now: Now
    dead_F: Tensor | None = None
    dead: int = 0

    @cached_property
    def W_enc(self) -> Tensor:
        """The encoder as its product takes it."""
        return rounded(self.sae.W_enc, self.manner.precision)

    @cached_property
    def table(self) -> Tensor:
        """The decoder as sums over entries take it."""
        return rounded(self.sae.W_dec, self.manner.precision)

    @property
    def unit(self) -> float:
        """What a squared element counts."""
        return 1.0 / self.batch_size / (self.sae.config.width_out if self.sae.config.error == "mean" else 1)

    def head(self) -> Head:
        head = head_of(self.sae.config, self.sae.tensors(), self.now)
        head.part = self.sae.part
        return head

    def products(self, xc_BD: Tensor, ranges: Sequence[tuple[int, int]]) -> list[Product]:
        """The encoder's product of each slot by itself: its bits may depend on how many rows it has."""
        x = rounded(xc_BD, self.manner.precision)
        return [Product(x[lo:hi], self.W_enc, expected=self.manner.expected) for lo, hi in ranges]

    def seen(self, xc_BD: Tensor, products: Sequence[Product]) -> Tensor:
        """Rows as the products saw them."""
        known = products[0].x_BD if len(products) == 1 else None
        return rounded(xc_BD, self.manner.precision) if known is None else known

    def constant(self) -> Constant:
        share = 1.0 / self.batch_size
        return Constant(share, self.unit, self.dead_F if self.dead else None, self.head().base_F(share))


def node_sums(step: Step, rows: SlotRows, products: Sequence[Product] | None = None) -> Sums:
    """Sums over slots that are a whole subtree. `products`: the encoder's, if they are at hand already."""
    centred = rows.centred(step.sae)
    products = products or step.products(centred[0], rows.ranges)
    head = step.head()
    if len(rows.ends) == 1:
        return _of_slot(step, head, rows, centred, products[0])
    entries = _entries_of_all(step, head, products)
    if entries is not None:
        return _sums(step, head, rows, centred, entries, products)
    slots = zip(rows.ranges, rows.each(), products, strict=True)
    return tree_sum([
        lambda lo=lo, hi=hi, slot=slot, p=p: _of_slot(step, step.head(), slot, tuple(t[lo:hi] for t in centred), p)
        for (lo, hi), slot, p in slots
    ])  # fmt: skip


def _of_slot(step: Step, head: Head, slot: SlotRows, centred: tuple[Tensor, Tensor], product: Product) -> Sums:
    share = step.manner.sparse_share
    return _sums(step, head, slot, centred, head.entries(product, share) if share > 0 else None, [product])


def _entries_of_all(step: Step, head: Head, products: Sequence[Product]) -> Entries | None:
    """The entries of all slots, if they can be worked on together in every part."""
    found: list[Entries] = []
    if step.manner.sparse_share > 0 and head.joins_slots and kernels_for(step.sae.b_enc.device).SLOTS_TOGETHER:
        for product in products:
            entries = head.entries(product, step.manner.sparse_share)
            if entries is None:
                break
            found.append(entries)
    return joined(found) if step.sae.part.agreed(len(found) == len(products)) else None


def _sums(
    step: Step, head: Head, rows: SlotRows, centred: tuple[Tensor, Tensor],
    entries: Entries | None, products: Sequence[Product],
) -> Sums:  # fmt: skip
    """entries: of all the slots; None if there is one, and it is to be dense."""
    sae, unit, share = step.sae, step.unit, 1.0 / step.batch_size
    xc_BD, yc_BO = centred
    pres = [p.columns(step.dead_F).to(sae.b_enc.dtype).add_(sae.b_enc[step.dead_F]) for p in products if step.dead]
    if entries is None:
        way = DenseWay(sae, products[0], step.manner.precision)
    else:
        head.view, head.xc_BD = entries, xc_BD
        way = SparseWay(sae, entries, step.table, step.seen(xc_BD, products), step.manner.precision)
    view = way.view
    f = head.features(way.pre())
    prefixes = len(sae.ends)
    decoded = way.decode(f, yc_BO, 2.0 * unit / prefixes, keep_r=step.dead > 0)
    errors = [*view.sum_rows(decoded.squares_BP), *decoded.squares_BP.new_zeros(2)]
    second = None
    if head.gate is not None:  # a second way through the decoder
        second = way.decode(head.gate, yc_BO, 2.0 * unit)
        errors[-2], head.gate_back = view.sum_rows(second.squares_BP[:, -1]), second.back
    penalty = view.sum_rows(head.penalty_B())
    back = head.back(decoded.back, share)
    matrices = {"W_dec": way.W_dec(f, decoded.g_PBO), "W_enc": way.W_enc(back.p, xc_BD)}
    g_BO = decoded.g_PBO[0]  # of x_hat by all features: the first prefix is in every longer one
    if second is not None and sae.config.gate_decoder == "shared":
        matrices["W_dec"] += way.W_dec(head.gate, second.g_PBO)
        g_BO = g_BO + second.g_PBO[0]
    vectors = _vectors(sae, head, back, view, g_BO, xc_BD, rows)
    if step.dead:
        pairs = zip(pres, rows.ranges, strict=True)
        aux = total([_aux(step, pre, decoded.r_BO[lo:hi], xc_BD[lo:hi]) for pre, (lo, hi) in pairs])
        matrices |= {"aux.W_dec": aux.W_dec, "aux.W_enc": aux.W_enc}
        vectors["aux.b_enc"], errors[-1] = aux.b_enc, aux.loss
    fired_F, active = view.fired_F(f), torch.count_nonzero(f)
    return Sums(matrices, vectors, fired_F, torch.stack(errors), penalty, view.total(f), active, head.least())


def _vectors(
    sae: Sae, head: Head, back: Back, view: object, g_BO: Tensor, xc_BD: Tensor, rows: SlotRows
) -> dict[str, Tensor]:
    vectors = dict(back.own) | {"out": view.sum_rows(g_BO)}
    if back.norm_F is not None:
        vectors["norm"] = back.norm_F
    if back.sum_F is not None:
        vectors["p"] = back.sum_F
    if head.base_F(1.0) is not None:  # matrices have it in their products
        vectors["x"] = xc_BD.new_zeros(xc_BD.shape[1]) if view.dense else view.sum_rows(xc_BD)
    if sae.config.skip:
        vectors["W_skip"] = total([g_BO[lo:hi].T @ rows.x_BD[lo:hi] for lo, hi in rows.ranges])
    return vectors


def _aux(step: Step, pre_Bn: Tensor, r_BO: Tensor, xc_BD: Tensor) -> Aux:
    """AuxK's loss and gradients of one slot."""
    sae = step.sae
    W_dec_nO = sae.W_dec[step.dead_F]
    return aux_k(sae.config, sae.part, step.dead, pre_Bn, W_dec_nO, r_BO, xc_BD, step.unit, step.manner.precision)
