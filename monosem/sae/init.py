"""Starting points: Kaiming-uniform weights from counter-based random words, and the geometric median."""

from dataclasses import replace

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
    return init_part(config, 0, config.d_sae, b_dec)


def init_part(config: SaeConfig, first: int, end: int, b_dec: Tensor | None = None) -> Sae:
    """Features [first, end) of what `init_sae` gives, and no more memory than they take."""
    D, F, out = config.d_in, config.d_sae, config.width_out
    W_dec = _uniform(config.seed, DECODER, (F, out), F**-0.5, slice(first, end), slice(None))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    if config.decoder == "free":
        W_dec *= config.init_norm
    transposed = config.init == "transposed"
    W_enc = (
        W_dec.T.contiguous()
        if transposed
        else _uniform(config.seed, ENCODER, (D, F), D**-0.5, slice(None), slice(first, end))
    )
    part = replace(config, d_sae=end - first)
    start = {"threshold": config.threshold_init, "r_mag": 0.0, "b_mag": 0.0, "W_skip": 0.0, "b_enc": 0.0, "b_dec": 0.0}
    tensors = {name: torch.full(shape, start[name]) for name, shape in part.shapes.items() if name in start}
    if b_dec is not None:
        tensors["b_dec"] = b_dec.clone().float()
    return Sae.of(part, tensors | {"W_enc": W_enc, "W_dec": W_dec})


def _uniform(seed: int, which: int, shape: tuple[int, int], bound: float, rows: slice, columns: slice) -> Tensor:
    """Some rows and columns of a random matrix, which is drawn BLOCK numbers after BLOCK numbers, row by row."""
    high, wide = shape
    first, last, _ = rows.indices(high)
    lo, hi, _ = columns.indices(wide)
    out = np.empty((last - first, hi - lo), dtype=np.float32)
    for block in range(first * wide // BLOCK, -(-last * wide // BLOCK)):
        begin, stop = max(first * wide, block * BLOCK), min(last * wide, (block + 1) * BLOCK)
        n = min(high * wide, (block + 1) * BLOCK) - block * BLOCK
        words = uniforms(seed, INIT, 2 * block + which, n)[begin - block * BLOCK : stop - block * BLOCK]
        _place(out, (2 * words - 1) * bound, begin - first * wide, wide, lo, hi)
    return torch.from_numpy(out)


def _place(out: np.ndarray, numbers: np.ndarray, begin: int, wide: int, lo: int, hi: int) -> None:
    """Columns lo to hi of `numbers`, which lie in a matrix of `wide` columns from place `begin` on, into `out`."""
    if (lo, hi) == (0, wide):
        out.reshape(-1)[begin : begin + len(numbers)] = numbers
        return
    place = np.arange(begin, begin + len(numbers))
    row, column = place // wide, place % wide
    inside = (column >= lo) & (column < hi)
    out[row[inside], column[inside] - lo] = numbers[inside]


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
