"""What all formats need: numbers out of a stranger's configuration, and parameters checked against it."""

from dataclasses import replace

import torch
from torch import Tensor

from monosem.errors import InputError, IntegrityError
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae


def whole(cfg: dict, key: str, what: str, default: int | None = None) -> int:
    """A number of at least 1."""
    value = cfg.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise IntegrityError(f"{what}: {key}={value!r} is not a positive number")
    return value


def truth(cfg: dict, key: str, what: str, default: bool) -> bool:
    value = cfg.get(key, default)
    if not isinstance(value, bool):
        raise IntegrityError(f"{what}: {key}={value!r} is neither true nor false")
    return value


def config_of(what: str, **values: object) -> SaeConfig:
    try:
        return SaeConfig(**values)
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{what}: {error}") from None


def sae_of(config: SaeConfig, tensors: dict[str, Tensor], uri: str, said_by: str) -> Sae:
    """An SAE of the tensors in float32, or IntegrityError where one is missing or has another shape."""
    for name, shape in config.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise IntegrityError(f"{uri}: {name} has shape {found}, {said_by} says {shape}")
        if not tensors[name].dtype.is_floating_point:
            raise IntegrityError(f"{uri}: {name} is of {tensors[name].dtype}, not of floating point")
    return Sae.of(config, {name: tensors[name].to(torch.float32).contiguous() for name in config.shapes})


def with_b_dec(sae: Sae, subtract: bool) -> Sae:
    """The same function with b_dec subtracted from the input, or not, as another tool has it."""
    if sae.config.subtract_b_dec == subtract:
        return sae
    if sae.config.transcoder:
        raise InputError("a transcoder's input is not centred on b_dec")
    # (x - b) W + e = x W + (e - b W); a magnitude path has x W in it as well, times exp(r)
    shift = (sae.b_dec.double() @ sae.W_enc.double()) * (1 if subtract else -1)
    tensors = {name: t.clone() for name, t in sae.tensors().items()}
    tensors["b_enc"] += shift
    if "b_mag" in tensors:
        tensors["b_mag"] += shift * tensors["r_mag"].double().exp()
    return Sae.of(replace(sae.config, subtract_b_dec=subtract), tensors)
