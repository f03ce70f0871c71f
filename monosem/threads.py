"""How many CPU threads torch uses, set for a block of code and put back after it.

Counts come from the job file, never from the machine or from Ray: some sums depend on them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

import monosem.mkl  # noqa: F401


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
