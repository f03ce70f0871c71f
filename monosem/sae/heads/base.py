"""What makes one architecture differ from another: from pre-activations to features, the penalty, and the way back.

A head is made for one slot of a batch, keeps what its way back needs, and is thrown away. All of them share the
encoder's and the decoder's products (`gradients.py`). The derivatives are written out; `tests/sae/test_formulas.py`
holds each against float64 autograd of the formula in its docstring.

Values are a matrix [B, F], or a list [n] of the entries where a feature may be active: `self.view`
(`kernels/entries.py`) brings vectors over features into the same form and sums values back, so that a formula is
written once.

Shape letters: B rows of the slot, F d_sae. n_F: norms of the decoder's rows. `share`: 1 / rows of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.kernels import EVERYWHERE, Entries, kernels_for
from monosem.sae.kernels.entries import Everywhere
from monosem.sae.part import Part
from monosem.sae.products import Product


@dataclass(frozen=True)
class Now:
    """What schedules make of the config at one step.

    sparsity   factor of the sparsity coefficient (warm-up)
    k          active features per row; None: the config's
    power      exponent of the L1 penalty (p-annealing)
    statistic  of the whole batch, see `Head.statistic`; None outside training
    """

    sparsity: float = 1.0
    k: int | None = None
    power: float = 1.0
    statistic: Tensor | None = None


@dataclass
class Back:
    """Gradients by a head: of the encoder's product p = x W_enc, of its own parameters, of the decoder's norms.

    sum_F   gradient of p summed over rows, if it is not b_enc's as well
    """

    p: Tensor
    own: dict[str, Tensor]
    norm_F: Tensor | None = None
    sum_F: Tensor | None = None


class Head:
    """The base: features without a penalty, as TopK and BatchTopK need it.

    view      the form of the values
    part      which features these are
    xc_BD     entries only: the rows that the encoder saw
    """

    batch_wide = False
    """Whether features depend on a statistic of the whole batch."""
    has_least = False
    """Whether the smallest activation becomes the threshold of use: see `least`."""
    joins_slots = True
    """Whether everything it sums over rows it sums through its view, and does nothing to the sums (a factor would round
    otherwise), so that slots can be worked on together."""
    gate: Tensor | None = None
    """gated: what the decoder must reconstruct from as well; `gate_back` is that error's gradient by it."""
    gate_back: Tensor
    view: Everywhere | Entries = EVERYWHERE
    xc_BD: Tensor
    part: Part

    def __init__(self, config: SaeConfig, params: dict[str, Tensor], now: Now):
        self.config, self.params, self.now = config, params, now

    def bound_F(self) -> Tensor:
        """Pre-activations at most this give no feature and no gradient. [F], or [1] if it is the same for all."""
        return self.params["b_enc"].new_zeros(1)

    def entries(self, product: Product, share: float) -> Entries | None:
        """Where the encoder's product, b_enc added, is above `bound_F`; None if that is more than `share`."""
        return self._kernels().above(product, self.params["b_enc"], self.bound_F(), share)

    def features(self, pre: Tensor) -> Tensor:
        """Feature activations; `pre` may be overwritten."""
        raise NotImplementedError

    def partial(self, product: Product, batch_size: int) -> Tensor:
        """What the statistic needs of one slot, from the encoder's product without b_enc."""
        raise NotImplementedError

    def statistic(self, partials: Sequence[Sequence[Tensor]], batch_size: int) -> Tensor:
        """The statistic of the whole batch, a scalar, from all of its slots in order, each of every part in order."""
        raise NotImplementedError

    def base_F(self, share: float) -> Tensor | None:
        """A gradient that the encoder's product has in every row, which entries leave out; None if there is none."""
        return None

    def penalty_B(self) -> Tensor:
        """The penalty of each row, weighted."""
        return self.f.new_zeros(self.f.shape[0] if self.view.dense else self.view.rows)

    def back(self, g: Tensor, share: float) -> Back:
        """The way back from the gradient of the features, which is overwritten; the penalty's is added."""
        return self._through_relu(g)

    def least(self) -> Tensor:
        """The smallest activation that is not zero, for heads that turn it into a threshold; else infinity."""
        return self.f.new_full((), torch.inf)

    def _through_relu(self, g: Tensor) -> Back:
        torch.ops.aten.threshold_backward.grad_input(g, self.f, 0, grad_input=g)  # zero where f is zero
        return Back(g, {"b_enc": self.view.sum_F(g)})

    def _kernels(self) -> ModuleType:
        return kernels_for(self.params["b_enc"].device)

    def _norms(self) -> Tensor:
        return self.params["W_dec"].norm(dim=1)
