"""Where a batch's features are active: a list of entries instead of a matrix [rows, features].

A trained dictionary is active in some tens of thousands of features, so what follows the encoder's product is worth
doing at those entries only. Heads work on either form: they take per-feature vectors and sums through a view,
`EVERYWHERE` for a matrix or `Entries` for a list.

Shape letters: B rows, F features, n entries.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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


EVERYWHERE = Everywhere()


@dataclass
class Entries:
    """The view of a list: values are [n], ordered by row and within a row by feature.

    start_B    int64 [B + 1]: entries of row b are start_B[b] to start_B[b + 1]
    feature_n  int64 [n]
    row_n      int64 [n]
    pre_n      pre-activations there
    start_F    int64 [F + 1]: entries of feature f are order_n[start_F[f] : start_F[f + 1]], by row
    order_n    int64 [n]
    kernels    the module that sums over them
    """

    start_B: Tensor
    feature_n: Tensor
    row_n: Tensor
    pre_n: Tensor
    start_F: Tensor
    order_n: Tensor
    kernels: "ModuleType"

    dense = False

    @property
    def rows(self) -> int:
        return len(self.start_B) - 1

    @property
    def features(self) -> int:
        return len(self.start_F) - 1

    def at(self, t_F: Tensor) -> Tensor:
        return t_F[self.feature_n]

    def sum_F(self, values: Tensor) -> Tensor:
        return self.kernels.sum_F(self, values)

    def sum_B(self, values: Tensor, weight_F: Tensor | None = None) -> Tensor:
        return self.kernels.sum_B(self, values if weight_F is None else values * self.at(weight_F))

    def fired_F(self, values: Tensor) -> Tensor:
        return self.kernels.fired_F(self, values)


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
