"""The sparse step's kernels, one face for every device: `plain.py` says what each does."""

from types import ModuleType

import torch

from monosem.sae.kernels.entries import EVERYWHERE, Decoded, Entries, Room

__all__ = ["EVERYWHERE", "Decoded", "Entries", "Room", "kernels_for"]


def kernels_for(device: torch.device) -> ModuleType:
    """The module of kernels for a device: numba's on CPU, Triton's on CUDA, torch's own elsewhere."""
    if device.type == "cpu":
        from monosem.sae.kernels import cpu as kernels
    elif device.type == "cuda":
        from monosem.sae.kernels import gpu as kernels
    else:
        from monosem.sae.kernels import plain as kernels
    return kernels
