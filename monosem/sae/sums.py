"""What a step sums over rows, and what it makes of the sums.

Everything that is not a plain sum over rows waits until all slots have been added (`finish`): the sums are then all
that ranks need to tell each other, and the gradient's bits follow from the tree (`tree.py`) alone.

Shape letters: B rows of a batch, D d_in, F features, O d_out, n dead features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.model import Sae

SCALARS = ("loss", "squared_error", "l1", "active", "least")


@dataclass
class Sums:
    """Sums over the rows of some slots. Every field can be added to that of other slots.

    matrices   W_dec [F, O] and W_enc [F, D], its transpose; with AuxK aux.W_dec [n, O] and aux.W_enc [n, D]
    vectors    gradients of b_enc and the heads' own parameters [F]; out: gradient of what the decoder puts out, [O];
               norm: gradient of the decoder rows' norms [F]; p: of the encoder's product if that is not b_enc's [F];
               x: rows [D], where p has a gradient everywhere; aux.b_enc [n]; W_skip [O, D]
    fired_F    which features were active
    errors     squares of x_hat - y for each nested prefix, [P]; the gate's own; AuxK's loss. [P + 2]
    penalty    of the head, not yet by the size of the batch
    l1, active sum of activations, and their number
    least      the smallest activation that is not zero; infinity if there is none
    """

    matrices: dict[str, Tensor]
    vectors: dict[str, Tensor]
    fired_F: Tensor
    errors: Tensor
    penalty: Tensor
    l1: Tensor
    active: Tensor
    least: Tensor

    def __add__(self, other: "Sums") -> "Sums":
        """In place of this one's matrices, which are large."""
        return Sums(
            {name: t.add_(other.matrices[name]) for name, t in self.matrices.items()},
            {name: t + other.vectors[name] for name, t in self.vectors.items()},
            self.fired_F | other.fired_F,
            self.errors + other.errors,
            self.penalty + other.penalty,
            self.l1 + other.l1,
            self.active + other.active,
            torch.minimum(self.least, other.least),
        )


@dataclass
class Result:
    """A batch's gradients by parameter, those of W_dec and W_enc for `Constant.own` only, and its figures."""

    gradients: dict[str, Tensor]
    fired_F: Tensor
    squared_error: Tensor
    l1: Tensor
    active: Tensor
    loss: Tensor
    least: Tensor

    def scalars(self) -> dict[str, Tensor]:
        """The figures by the names in SCALARS, on the device."""
        return {name: getattr(self, name) for name in SCALARS}


@dataclass(frozen=True)
class Constant:
    """What `finish` needs besides the sums.

    share    1 / rows of the batch; `unit`: what a squared element counts
    dead_F   int64 [n]: the features that AuxK was for; None: there were none
    base_F   a gradient that the encoder's product has in every row
    own      the features whose rows the sums' matrices hold; None: all
    """

    share: float
    unit: float
    dead_F: Tensor | None = None
    base_F: Tensor | None = None
    own: tuple[int, int] | None = None


def finish(sae: Sae, sums: Sums, constant: Constant) -> Result:
    """Gradients from the sums over a whole batch. The matrices of `sums` are overwritten."""
    lo, hi = constant.own or (0, sae.config.d_sae)
    found, vectors, dead_F = dict(sums.matrices), dict(sums.vectors), constant.dead_F
    out, norm_F, p_F, x_D = (vectors.pop(name, None) for name in ("out", "norm", "p", "x"))
    aux_b = vectors.pop("aux.b_enc", None)
    if norm_F is not None:
        W_dec = sae.W_dec[lo:hi]
        found["W_dec"].addcmul_((norm_F[lo:hi] / W_dec.norm(dim=1))[:, None], W_dec)
    if constant.base_F is not None:
        found["W_enc"].addr_(constant.base_F[lo:hi], x_D)
    if dead_F is not None:
        mine = dead_F[(dead_F >= lo) & (dead_F < hi)] - lo
        found["W_dec"][mine] += found.pop("aux.W_dec")
        found["W_enc"][mine] += found.pop("aux.W_enc")
        vectors["b_enc"] = vectors["b_enc"].index_add(0, dead_F, aux_b)
    found |= {"W_enc": found["W_enc"].T, "b_dec": out} | vectors
    l1, active, penalty = sums.l1, sums.active, sums.penalty
    if sae.config.subtract_b_dec:  # + from x_hat, - through the encoder; in x_hat - x itself it is not
        found["b_dec"] = out - sae.part.add(sae.W_enc @ (vectors["b_enc"] if p_F is None else p_F))
    if sae.part.count > 1:
        l1, active, penalty = sae.part.add(torch.stack([l1, active.to(l1), penalty]))
    *squares, gate, aux = sums.errors
    loss = sum(squares) * (constant.unit / len(squares)) + gate * constant.unit + aux + penalty * constant.share
    return Result(
        {name: found[name] for name in sae.config.shapes},
        sums.fired_F,
        squares[-1],
        l1,
        active,
        loss,
        sae.part.least(sums.least),
    )
