"""Adam on one dictionary's parameters, by the kernels of its device; decoder rows can be kept at unit norm.

Moments lie in memory as their parameters do. The encoder is held feature by feature, [F, D], and shown as its
transpose: the sums of a feature's gradient, and its step, then touch one stretch of memory.
"""

from torch import Tensor

from monosem.config.job import TrainConfig
from monosem.sae.kernels import kernels_for
from monosem.sae.model import FEATURE_AXIS, Sae
from monosem.sae.part import Part

MOMENTS = ("exp_avg", "exp_avg_sq")
MATRICES = ("W_dec", "W_enc")
"""The parameters that a mesh's replicas share out among themselves, by feature."""


def hold_by_feature(sae: Sae, part: Part | None = None) -> Sae:
    """The same SAE, its W_enc [D, F] the transpose of a contiguous tensor. part: which features these are."""
    sae.W_enc = sae.W_enc.T.contiguous().T
    sae.part = part or sae.part
    return sae


class Adam:
    """Moves all vectors, and the matrices' rows of the features `own`.

    moments: by parameter, by the names in MOMENTS.
    """

    def __init__(self, sae: Sae, train: TrainConfig, own: tuple[int, int]):
        self.sae, self.train, self.own = sae, train, own
        moved = {name: self._moved(name, t) for name, t in sae.tensors().items()}
        self.moments = {name: {key: _zeros(t) for key in MOMENTS} for name, t in moved.items()}

    def step(
        self, gradients: dict[str, Tensor], step: int, lr: float, unit: bool,
        on_device: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Step `step`, counted from 1, with gradients of what is moved. unit: decoder rows keep unit norm.

        on_device   a GPU's `numbers` and `ok`: see its kernel
        """
        kernels, train = kernels_for(self.sae.W_dec.device), self.train
        for name, t in self.sae.tensors().items():
            tensors = (self._moved(name, t), gradients[name], *(self.moments[name][key] for key in MOMENTS))
            kernels.adam(
                *(_rows(name, each) for each in tensors), step, lr, train.beta1, train.beta2, train.eps,
                unit and name == "W_dec", *(on_device or ()),
            )  # fmt: skip

    def reset(self, features: Tensor) -> None:
        """Zero the moments of some features."""
        lo, hi = self.own
        for name, moments in self.moments.items():
            if name in FEATURE_AXIS:
                own = features[(features >= lo) & (features < hi)] - lo if name in MATRICES else features
                for moment in moments.values():
                    moment.index_fill_(FEATURE_AXIS[name], own, 0.0)

    def _moved(self, name: str, t: Tensor) -> Tensor:
        lo, hi = self.own
        return t.narrow(FEATURE_AXIS[name], lo, hi - lo) if name in MATRICES else t


def _zeros(t: Tensor) -> Tensor:
    """Zeros laid out in memory as `t`."""
    return t.new_zeros(t.T.shape).T if t.ndim == 2 and not t.is_contiguous() else t.new_zeros(t.shape)


def _rows(name: str, t: Tensor) -> Tensor:
    """A parameter, or what belongs to it, as contiguous rows."""
    if t.ndim == 1:
        return t.contiguous().view(1, -1)
    return t.T.contiguous() if name == "W_enc" else t.contiguous()
