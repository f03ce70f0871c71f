"""What makes one architecture differ from another: from pre-activations to features, the penalty, and the way back.

A head is made for one slot of a batch, keeps what its way back needs, and is thrown away. All of them share the
encoder's and the decoder's products (`gradients.py`). The derivatives are written out; `tests/sae/test_formulas.py`
holds each against float64 autograd of the formula in its docstring.

Shape letters: B rows of the slot, F d_sae. n_F: norms of the decoder's rows. `share`: 1 / rows of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.config import SaeConfig


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
    """Gradients by a head: of the encoder's product p = x W_enc, of its own parameters, of the decoder's norms."""

    p_BF: Tensor
    own: dict[str, Tensor]
    norm_F: Tensor | None = None
    tied: bool = True  # b_enc enters with p, so that their gradients have one sum

    def sum_F(self) -> Tensor:
        """Gradient of p, summed over rows."""
        return self.own["b_enc"] if self.tied else self.p_BF.sum(dim=0)

    def add_at(self, features_n: Tensor, pre_Bn: Tensor) -> None:
        """Add a gradient of some features' pre-activations."""
        self.p_BF[:, features_n] += pre_Bn
        self.own["b_enc"][features_n] += pre_Bn.sum(dim=0)


class Head:
    """The base: features without a penalty, as TopK and BatchTopK need it."""

    batch_wide = False
    """Whether features depend on a statistic of the whole batch."""
    gate: Tensor | None = None
    """gated: what the decoder, held fixed, must reconstruct from as well; `frozen_BF` is the gradient by it."""
    frozen_BF: Tensor

    def __init__(self, config: SaeConfig, params: dict[str, Tensor], now: Now):
        self.config, self.params, self.now = config, params, now

    def features(self, pre_BF: Tensor) -> Tensor:
        """Feature activations; `pre_BF` may be overwritten."""
        raise NotImplementedError

    def partial(self, pre_BF: Tensor) -> Tensor:
        """What the statistic needs of one slot."""
        raise NotImplementedError

    def statistic(self, partials: Sequence[Tensor], batch_size: int) -> Tensor:
        """The statistic of the whole batch, a scalar, from all of its slots in order."""
        raise NotImplementedError

    def penalty_B(self) -> Tensor:
        """The penalty of each row, weighted."""
        return torch.zeros(self.f.shape[0], dtype=self.f.dtype, device=self.f.device)

    def back(self, g_BF: Tensor, share: float) -> Back:
        """The way back from the gradient of the features, which is overwritten; the penalty's is added."""
        return self._through_relu(g_BF)

    def least(self) -> Tensor:
        """The smallest activation that is not zero, for heads that turn it into a threshold; else infinity."""
        return self.f.new_tensor(torch.inf)

    def _through_relu(self, g_BF: Tensor) -> Back:
        torch.ops.aten.threshold_backward.grad_input(g_BF, self.f, 0, grad_input=g_BF)  # zero where f is zero
        return Back(g_BF, {"b_enc": g_BF.sum(dim=0)})

    def _norms(self) -> Tensor:
        return self.params["W_dec"].norm(dim=1)
