"""MKL chooses its kernels here, on one thread, before torch's threads ask for them together. Import for the effect.

torch computes exp, log, sqrt, tanh and others on CPUs with MKL's vector maths, whose first call looks for the kernel
that suits the machine. When the first call comes from two threads at once, one of them may be given a kernel of low
accuracy for its share of the numbers, 1e-4 off, and only that once (pytorch issue 188792; MKL 2024.2, which torch
2.13 holds): a fresh process then has other bits than the next one. One number through each function beforehand is
enough. A test holds that no module of ours uses torch without this.
"""

import torch

VECTOR_MATHS = (
    *("acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log", "log10"),
    *("log1p", "log2", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
)


def choose_kernels() -> None:
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in VECTOR_MATHS:
            getattr(torch, name)(number)


choose_kernels()
