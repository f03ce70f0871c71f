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

import numpy as np
import torch
from torch import Tensor

from monosem.rows.permute import RESAMPLE, uniforms
from monosem.sae.gradients import row_losses
from monosem.sae.model import Sae
from monosem.sae.slot import Manner

NORM_SHARE = 0.2
FEATURE_AXIS = {"W_dec": 0, "W_enc": 1, "b_enc": 0, "threshold": 0, "r_mag": 0, "b_mag": 0}
"""Along which axis of a parameter its features lie; parameters that are not here belong to no feature."""


def draw_rows(losses: Tensor, n: int, seed: int, step: int) -> Tensor:
    """`n` distinct rows, drawn with probability proportional to loss^2 (exponential races). int64 [n]."""
    weight = losses.double().cpu().numpy() ** 2
    u = uniforms(seed, RESAMPLE, step, len(weight))
    with np.errstate(divide="ignore"):
        arrival = -np.log1p(-u) / weight
    order = np.argsort(arrival, kind="stable")[: min(n, np.count_nonzero(weight))]
    return torch.from_numpy(order)


def resample(
    sae: Sae,
    dead_F: Tensor,
    x_ND: Tensor,
    step: int,
    chunk: int,
    manner: Manner,
    reset_moments: Callable[[Tensor], None],
    y_NO: Tensor | None = None,
) -> Tensor:
    """Give dead features (bool [F]) a new life from rows `x_ND`, in place. Returns the features reborn, int64 [n].

    `reset_moments(features)` zeroes the optimiser's moments of those features' parameters. If more
    features are dead than there are rows with a loss, the rest stay dead. A transcoder's decoder rows come from
    the targets `y_NO` of the same rows; parameters that only some variants have go back to where they started.
    """
    dead = dead_F.nonzero().flatten()
    if len(dead) == 0:
        return dead
    device, config = sae.W_enc.device, sae.config
    targets = [None] * -(-len(x_ND) // chunk) if y_NO is None else y_NO.split(chunk)
    pairs = zip(x_ND.split(chunk), targets, strict=True)
    losses = torch.cat([row_losses(sae, x.to(device), manner, None if y is None else y.to(device)) for x, y in pairs])
    rows = draw_rows(losses, len(dead), config.seed, step)
    reborn = dead[: len(rows)]
    x = x_ND[rows].to(device)
    seen = _unit(x - sae.b_dec if config.subtract_b_dec else x)
    norms = sae.W_enc.norm(dim=0)
    alive = norms[~dead_F]
    scale = NORM_SHARE * (alive if len(alive) else norms).mean()
    sae.W_dec[reborn] = seen if y_NO is None else _unit(y_NO[rows].to(device) - sae.b_dec)
    sae.W_enc[:, reborn] = (seen * scale).T
    sae.b_enc[reborn] = 0.0
    for name, tensor in sae.extra.items():
        if name in FEATURE_AXIS:
            tensor[reborn] = config.threshold_init if name == "threshold" else 0.0
    reset_moments(reborn)
    return reborn


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
