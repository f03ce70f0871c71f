"""Adam on one dictionary's parameters, by the kernels of its device; decoder rows can be kept at unit norm.

Moments lie in memory as their parameters do. The encoder is held feature by feature, [F, D], and shown as its
transpose: the sums of a feature's gradient, and its step, then touch one stretch of memory.
"""

from torch import Tensor

from monosem.config.job import TrainConfig
from monosem.sae.kernels import kernels_for
from monosem.sae.model import Sae

MOMENTS = ("exp_avg", "exp_avg_sq")


def hold_by_feature(sae: Sae) -> Sae:
    """The same SAE, its W_enc [D, F] the transpose of a contiguous tensor."""
    sae.W_enc = sae.W_enc.T.contiguous().T
    return sae


class Adam:
    """moments: by parameter, by the names in MOMENTS."""

    def __init__(self, sae: Sae, train: TrainConfig):
        self.sae, self.train = sae, train
        self.moments = {name: {key: _zeros(t) for key in MOMENTS} for name, t in sae.tensors().items()}

    def step(self, gradients: dict[str, Tensor], step: int, lr: float, unit: bool) -> None:
        """Step `step`, counted from 1. unit: the decoder's rows have unit norm and keep it."""
        kernels, train = kernels_for(self.sae.W_dec.device), self.train
        for name, t in self.sae.tensors().items():
            tensors = (t, gradients[name], *(self.moments[name][key] for key in MOMENTS))
            kernels.adam(
                *(_rows(name, each) for each in tensors), step, lr, train.beta1, train.beta2, train.eps,
                unit and name == "W_dec",
            )  # fmt: skip


def _zeros(t: Tensor) -> Tensor:
    """Zeros laid out in memory as `t`."""
    return t.new_zeros(t.T.shape).T if t.ndim == 2 and not t.is_contiguous() else t.new_zeros(t.shape)


def _rows(name: str, t: Tensor) -> Tensor:
    """A parameter, or what belongs to it, as contiguous rows."""
    if t.ndim == 1:
        return t.contiguous().view(1, -1)
    return t.T.contiguous() if name == "W_enc" else t.contiguous()
