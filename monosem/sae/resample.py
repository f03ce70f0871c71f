"""Resampling of dead features, the six steps of Bricken et al. 2023 ("Neuron Resampling").

    1. dead: silent over the last `window` steps (told by the caller)
    2. the loss of many rows of the stream under the present parameters
    3. rows are drawn with probability proportional to the square of their loss
    4. decoder row := the drawn row, unit norm
    5. encoder column := the drawn row with 0.2 times the mean norm of alive features' columns; bias := 0
    6. Adam's moments of everything changed := 0

What the paper leaves open: "the input" is x - b_dec, what the encoder sees; "its loss" is the whole loss with
the L1 term; rows are drawn without replacement.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from monosem.rows.permute import RESAMPLE, uniforms
from monosem.sae.gradients import row_losses
from monosem.sae.heads import Now
from monosem.sae.model import FEATURE_AXIS, Sae
from monosem.sae.slot import Manner

NORM_SHARE = 0.2


def draw_rows(losses: Tensor, n: int, seed: int, step: int) -> Tensor:
    """`n` distinct rows, drawn with probability proportional to loss^2 (exponential races). int64 [n]."""
    weight = losses.double().cpu().numpy() ** 2
    u = uniforms(seed, RESAMPLE, step, len(weight))
    with np.errstate(divide="ignore"):
        arrival = -np.log1p(-u) / weight
    order = np.argsort(arrival, kind="stable")[: min(n, np.count_nonzero(weight))]
    return torch.from_numpy(order)


class Ranks(Protocol):
    """What replicas of a dictionary share out among themselves: the losses of rows."""

    def shared_out(self, n: int) -> range:
        """Which of n pieces of work are this rank's."""
        ...

    def of_replicas(self, mine: Tensor) -> list[Tensor]:
        """Every replica's tensor, in order."""
        ...


def resample(
    sae: Sae,
    dead_F: Tensor,
    x_ND: Tensor,
    step: int,
    chunk: int,
    manner: Manner,
    reset_moments: Callable[[Tensor], None],
    y_NO: Tensor | None,
    ranks: Ranks,
    now: Now,
) -> Tensor:
    """Give dead features (bool [F]) a new life from rows `x_ND`, in place. Returns the features reborn, int64 [n].

    `now` has the coefficients of the present loss, `reset_moments(features)` zeroes the optimiser's moments of those
    features' parameters. If more features are dead than there are rows with a loss, the rest stay dead. A transcoder's
    decoder rows come from the targets `y_NO` of the same rows; parameters that only some variants have go back to where
    they started. Where the features are in several parts, the dead of the first part take the first rows.
    """
    dead, part = dead_F.nonzero().flatten(), sae.part
    counts = [int(n) for n in part.every(torch.tensor([len(dead)], device=dead.device))]
    if sum(counts) == 0:
        return dead
    device, config = sae.W_enc.device, sae.config
    rows = draw_rows(_losses(sae, x_ND, y_NO, chunk, manner, ranks, now), sum(counts), config.seed, step)
    norms = sae.W_enc.norm(dim=0)
    alive = norms[~dead_F]
    living = part.add(torch.stack([alive.sum(), alive.new_tensor(len(alive))]))
    everyone = part.add(torch.stack([norms.sum(), norms.new_tensor(len(norms))]))
    mean, of = living if living[1] > 0 else everyone
    rows = rows[sum(counts[: part.index]) :][: len(dead)]
    reborn = dead[: len(rows)]
    x = x_ND[rows].to(device)
    seen = _unit(x - sae.b_dec if config.subtract_b_dec else x)
    sae.W_dec[reborn] = seen if y_NO is None else _unit(y_NO[rows].to(device) - sae.b_dec)
    sae.W_enc[:, reborn] = (seen * (NORM_SHARE * mean / of)).T
    sae.b_enc[reborn] = 0.0
    for name, tensor in sae.extra.items():
        if name in FEATURE_AXIS:
            tensor[reborn] = config.threshold_init if name == "threshold" else 0.0
    reset_moments(reborn)
    return reborn


def _losses(
    sae: Sae, x_ND: Tensor, y_NO: Tensor | None, chunk: int, manner: Manner, ranks: Ranks, now: Now
) -> Tensor:
    """The loss of every row, by chunks that replicas share out among themselves."""
    device = sae.W_enc.device
    xs = x_ND.split(chunk)
    ys = [None] * len(xs) if y_NO is None else y_NO.split(chunk)
    found = [
        row_losses(sae, xs[i].to(device), manner, None if ys[i] is None else ys[i].to(device), now)
        for i in ranks.shared_out(len(xs))
    ]
    return torch.cat(ranks.of_replicas(torch.cat(found) if found else x_ND.new_empty(0, device=device)))


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
