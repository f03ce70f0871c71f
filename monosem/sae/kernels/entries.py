"""Where a batch's features are active: a list of entries instead of a matrix [rows, features].

A trained dictionary is active in some tens of thousands of features, so what follows the encoder's product is worth
doing at those entries only. Heads work on either form: they take per-feature vectors and sums through a view,
`EVERYWHERE` for a matrix or `Entries` for a list.

Shape letters: B rows, F features, n entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import monosem.mkl  # noqa: F401
from monosem.sae.tree import total

if TYPE_CHECKING:
    from types import ModuleType


class Everywhere:
    """The view of a matrix: values are [B, F]."""

    dense = True

    def at(self, t_F: Tensor) -> Tensor:
        """A vector over features, in a form that goes with values."""
        return t_F

    def sum_F(self, values: Tensor) -> Tensor:
        """Values summed over rows, [F]."""
        return values.sum(dim=0)

    def sum_B(self, values: Tensor, weight_F: Tensor | None = None) -> Tensor:
        """Values, times a weight per feature, summed over features, [B]."""
        return values.sum(dim=1) if weight_F is None else values @ weight_F

    def fired_F(self, values: Tensor) -> Tensor:
        """Features that have a value above zero anywhere. bool [F]."""
        return values.amax(dim=0) > 0 if len(values) else values.new_zeros(values.shape[1], dtype=torch.bool)

    def total(self, values: Tensor) -> Tensor:
        """All values' sum, a scalar."""
        return values.sum()

    def sum_rows(self, rows: Tensor) -> Tensor:
        """What belongs to rows, [B] or [B, width], summed over them."""
        return rows.sum(dim=0)


EVERYWHERE = Everywhere()


@dataclass
class Entries:
    """The view of a list: values are [n], ordered by row and within a row by feature.

    start_B    int64 [B + 1]: entries of row b are start_B[b] to start_B[b + 1]
    feature_n  int64 [n]
    row_n      int64 [n]
    pre_n      pre-activations there
    features   F
    kernels    the module that sums over them
    slots      row ends of the slots that the rows are; sums over rows are made slot by slot and added by the tree
               of `tree.py`. Empty: one slot
    count      where lists are longer than there are entries (zeros follow them), how many there are
    """

    start_B: Tensor
    feature_n: Tensor
    row_n: Tensor
    pre_n: Tensor
    features: int
    kernels: "ModuleType"
    slots: tuple[int, ...] = ()
    count: Tensor | None = None

    dense = False

    @property
    def rows(self) -> int:
        return len(self.start_B) - 1

    @property
    def slot_ends(self) -> tuple[int, ...]:
        return self.slots or (self.rows,)

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor]:
        feature_n = self.feature_n
        if self.count is not None:  # what follows the entries is in no feature's list
            there = torch.arange(len(feature_n), device=feature_n.device) < self.count
            feature_n = torch.where(there, feature_n, self.features)
        return self.kernels.by_feature(feature_n, self.features)

    @property
    def start_F(self) -> Tensor:
        """int64 [F + 1]: entries of feature f are order_n[start_F[f] : start_F[f + 1]], by row."""
        return self._by_feature[0]

    @property
    def order_n(self) -> Tensor:
        """int64 [n]"""
        return self._by_feature[1]

    def at(self, t_F: Tensor) -> Tensor:
        return t_F[self.feature_n]

    def sum_F(self, values: Tensor) -> Tensor:
        return self.kernels.sum_F(self, values)

    def sum_B(self, values: Tensor, weight_F: Tensor | None = None) -> Tensor:
        return self.kernels.sum_B(self, values if weight_F is None else values * self.at(weight_F))

    def fired_F(self, values: Tensor) -> Tensor:
        return self.kernels.fired_F(self, values)

    def total(self, values: Tensor) -> Tensor:
        if len(self.slot_ends) == 1:
            return self.kernels.total(self, values)
        return total([values[lo:hi].sum() for lo, hi in self._ranges([int(self.start_B[b]) for b in self.slot_ends])])

    def sum_rows(self, rows: Tensor) -> Tensor:
        return total([rows[lo:hi].sum(dim=0) for lo, hi in self._ranges(self.slot_ends)])

    @staticmethod
    def _ranges(ends: Sequence[int]) -> list[tuple[int, int]]:
        return list(zip((0, *ends[:-1]), ends, strict=True))


@dataclass
class Room:
    """What a GPU's step expects of its entries, so that it need not wait to be told how many there are.

    size    it makes room for so many of each slot; None: it asks
    ok      int32 [1]: 1 while they found room, and no group of rows had too many for a sparse step
    found   int64 [1]: how many there were, the most of any slot
    last    what was found, of a step that asked; 0: the step was not sparse
    """

    size: int | None = None
    ok: Tensor | None = None
    found: Tensor | None = None
    last: int = 0

    def note(self, n: Tensor, *conditions: Tensor) -> None:
        """One slot has n entries."""
        self.found.copy_(torch.maximum(self.found, n))
        for yes in (n <= self.size, *conditions):
            self.ok.mul_(yes)


def joined(parts: Sequence[Entries]) -> Entries:
    """Entries of several slots as those of one after the other."""
    starts, rows, first, n, ends = [parts[0].start_B[:1]], [], 0, 0, []
    for part in parts:
        starts.append(part.start_B[1:] + n)
        rows.append(part.row_n + first)
        first, n = first + part.rows, n + len(part.pre_n)
        ends.append(first)
    feature_n, pre_n = (torch.cat([getattr(part, name) for part in parts]) for name in ("feature_n", "pre_n"))
    return Entries(
        torch.cat(starts), feature_n, torch.cat(rows), pre_n, parts[0].features, parts[0].kernels, tuple(ends)
    )


@dataclass
class Decoded:
    """The way through the decoder and back.

    squares_BP  squares of x_hat - y, summed over a row, for each nested prefix of the features
    g_PBO       gradient of x_hat by prefix: what a feature of that prefix gets
    back        gradient of the feature values
    r_BO        x_hat - y of all features; None if it was not asked for
    """

    squares_BP: Tensor
    g_PBO: Tensor | list[Tensor]
    back: Tensor
    r_BO: Tensor | None
