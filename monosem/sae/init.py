"""Starting points: Kaiming-uniform weights from counter-based random words, and the geometric median."""

import numpy as np
import torch
from torch import Tensor

from monosem.errors import InputError
from monosem.rows.permute import INIT, uniforms
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae

ENCODER, DECODER = 0, 1
BLOCK = 1 << 20
"""Random numbers drawn at a time; part of the definition of the initial weights."""


def init_sae(config: SaeConfig, b_dec: Tensor | None = None) -> Sae:
    """Untrained SAE, a function of the config alone.

    kaiming      PyTorch's default for linear layers. Bricken et al. 2023, "Autoencoder Training"
    transposed   random decoder rows, W_enc = W_dec^T. April 2024 update; Gao et al. 2024

    Decoder rows have unit norm, or `init_norm` where the decoder is free. b_enc is zero; `b_dec` [d_out] is where
    the decoder bias starts (the 2023 recipe: the geometric median of the data), zero if not given.
    """
    D, F, out = config.d_in, config.d_sae, config.width_out
    W_dec = _uniform(config.seed, DECODER, (F, out), bound=F**-0.5)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    if config.decoder == "free":
        W_dec *= config.init_norm
    transposed = config.init == "transposed"
    W_enc = W_dec.T.contiguous() if transposed else _uniform(config.seed, ENCODER, (D, F), bound=D**-0.5)
    start = {"threshold": config.threshold_init, "r_mag": 0.0, "b_mag": 0.0, "W_skip": 0.0, "b_enc": 0.0, "b_dec": 0.0}
    tensors = {name: torch.full(shape, start[name]) for name, shape in config.shapes.items() if name in start}
    if b_dec is not None:
        tensors["b_dec"] = b_dec.clone().float()
    return Sae.of(config, tensors | {"W_enc": W_enc, "W_dec": W_dec})


def _uniform(seed: int, which: int, shape: tuple[int, int], bound: float) -> Tensor:
    n = shape[0] * shape[1]
    out = np.empty(n, dtype=np.float32)
    for block, lo in enumerate(range(0, n, BLOCK)):
        hi = min(n, lo + BLOCK)
        out[lo:hi] = (2 * uniforms(seed, INIT, 2 * block + which, hi - lo) - 1) * bound
    return torch.from_numpy(out).reshape(shape)


def geometric_median(x_BD: Tensor, max_iterations: int = 200, tolerance: float = 1e-7) -> Tensor:
    """The point with the least sum of Euclidean distances to the rows, by Weiszfeld's iteration.

    float64 inside; returns float32 [D]. Stops when a step moves it by less than `tolerance` times the
    rows' mean distance.
    """
    x = x_BD.double()
    median = x.mean(dim=0)
    for _ in range(max_iterations):
        distance = (x - median).norm(dim=1)
        weight = 1.0 / distance.clamp_min(1e-12 + 1e-9 * float(distance.mean()))
        moved = (x * weight[:, None]).sum(dim=0) / weight.sum()
        step = float((moved - median).norm())
        median = moved
        if step <= tolerance * float(distance.mean()):
            break
    return median.float()


def input_scale(x_BD: Tensor, kind: str) -> float:
    """The constant by which rows are multiplied in training, from some rows of the data. float64 inside.

    none     1
    sqrt_d   mean norm sqrt(D) afterwards. April 2024 update
    unit     mean squared norm 1 afterwards. Gemma Scope
    """
    if kind == "none":
        return 1.0
    norm = x_BD.double().norm(dim=1)
    size, wanted = (norm.mean(), x_BD.shape[1] ** 0.5) if kind == "sqrt_d" else (norm.square().mean().sqrt(), 1.0)
    if not float(size) > 0:
        raise InputError(f"train.input_scale={kind!r}: the first rows are all zero, no scale fits them")
    return wanted / float(size)
