"""Sampled rows out of a forward pass's activations: picked, checked and put where they go in one pass over them."""

import numpy as np

from monosem.sae.kernels.numba_loops import ranged


@ranged
def gather(x, source_n, out, at_n, lo, hi):
    """out[at_n] = x[source_n] for numbers lo to hi, rows of float32 [.., width].

    A row with a NaN or an infinity is NaN throughout.
    """
    for i in range(lo, hi):
        row, to = x[source_n[i]], out[at_n[i]]
        check = np.float32(0)
        for o in range(len(row)):
            to[o] = row[o]
            check += row[o] * np.float32(0)  # NaN for a NaN and for an infinity
        if check != 0:
            to[:] = np.nan
