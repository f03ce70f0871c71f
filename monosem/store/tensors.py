"""Tensors to bytes and back: safetensors only, so that reading a file executes nothing."""

import hashlib

import torch
from safetensors.torch import load, save

import monosem.mkl  # noqa: F401
from monosem.errors import IntegrityError


def pack_tensors(tensors: dict[str, torch.Tensor]) -> bytes:
    return save({name: t.detach().contiguous().cpu() for name, t in tensors.items()})


def unpack_tensors(data: bytes, what: str) -> dict[str, torch.Tensor]:
    """The tensors in `data`; `what` names them in the error if the bytes are not safetensors."""
    try:
        return load(data)
    except Exception as error:  # the Rust side raises its own exception types
        raise IntegrityError(f"{what}: not a readable safetensors file: {error}") from error


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the tensors in name order: name, dtype, shape, then the raw bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
