"""Gathering rows: the same as picking, checking and placing them one after the other."""

import numpy as np
import pytest
import torch

from monosem.stream.gather import gather
from monosem.stream.harvest import _sources


@pytest.mark.parametrize("width", [1, 3, 16, 515])
def test_rows_are_picked_masked_and_placed(width):
    random = np.random.default_rng(width)
    x = random.standard_normal((40, width)).astype(np.float32)
    x[3] = 3e38  # finite, though its sum is not
    x[4, 0], x[5, -1], x[6, width // 2] = np.nan, np.inf, -np.inf
    x[7] = 1e-42  # denormal
    x[8], x[9] = -0.0, np.finfo(np.float32).max
    source, at = random.permutation(40), random.permutation(60)[:40]
    out = np.full((60, width), 7, np.float32)
    wanted = out.copy()
    wanted[at] = np.where(np.isfinite(x).all(axis=1)[:, None], x, np.nan)[source]
    gather(x, source, out, at, 0, len(source))
    assert out.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("how", ["as it is", "bf16", "a view of something wider"])
def test_rows_of_any_host_are_found(how):
    x = torch.randn(5, 7, 4)
    x = {"as it is": x, "bf16": x.bfloat16(), "a view of something wider": torch.randn(5, 7, 8)[..., ::2]}[how]
    tokens = np.random.default_rng(0).integers(0, 7, (3, 5, 2))
    [rows], source_gn = _sources([x], tokens)
    for g in range(3):
        wanted = [x[c, t].float() for c in range(5) for t in tokens[g, c]]
        assert np.array_equal(rows[source_gn[g]], torch.stack(wanted).numpy())
