"""Hosts at rest: three files in a directory, bundled with the package or in a store.

config.json          sizes, digest of the weights, and the model card's figures
model.safetensors    the weights
tokenizer.json       the tokenizer (Hugging Face `tokenizers` format)
"""

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from monosem.errors import InputError, IntegrityError
from monosem.host.transformer import HOOK_POINTS, OneLayerTransformer, TransformerConfig
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store, open_store
from monosem.store.tensors import pack_tensors, tensors_digest, unpack_tensors

BUNDLED = Path(__file__).parent / "bundled"
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Host:
    """A loaded host model. `digest` is over weights and tokenizer: it names what was read, not where."""

    name: str
    model: OneLayerTransformer
    tokenizer: Tokenizer
    digest: str
    card: dict


def bundled_names() -> list[str]:
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "config.json").exists()) if BUNDLED.is_dir() else []


def save_host(store: Store, prefix: str, model: OneLayerTransformer, tokenizer: Tokenizer, card: dict) -> str:
    """Write a host, its config last. Returns the digest."""
    weights = model.state_dict()
    words = tokenizer.to_str().encode()
    digest = _digest(weights, words)
    store.put(f"{prefix}/model.safetensors", pack_tensors(weights))
    store.put(f"{prefix}/tokenizer.json", words)
    config = {"kind": "one-layer-transformer", "sizes": asdict(model.config), "digest": digest, "card": card}
    store.put(f"{prefix}/config.json", pack_json(config))
    return digest


def load_host(reference: str) -> Host:
    """A bundled host by name, or the host directory at a path or URI. Unknown names are an InputError."""
    if reference in bundled_names():
        store = open_store(str(BUNDLED / reference))
    elif "/" in reference or Path(reference).is_dir():
        store = open_store(reference)
    else:
        raise InputError(_unknown(reference))
    try:
        config_data, weights_data, words = (store.get(name) for name in FILES)
    except FileNotFoundError as error:
        raise InputError(f"host.model={reference!r}: no host there, {error.filename or error} is missing") from error
    return _assemble(reference, unpack_json(config_data, f"{reference}/config.json"), weights_data, words)


def check_hook_point(hook_point: str) -> None:
    if hook_point not in HOOK_POINTS:
        near = difflib.get_close_matches(hook_point, HOOK_POINTS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"host.hook_point={hook_point!r}: must be one of {', '.join(HOOK_POINTS)}{hint}")


def _assemble(reference: str, config: dict, weights_data: bytes, words: bytes) -> Host:
    weights = unpack_tensors(weights_data, f"{reference}/model.safetensors")
    digest = _digest(weights, words)
    if digest != config.get("digest"):
        raise IntegrityError(f"host {reference}: the files do not match the digest in config.json")
    model = OneLayerTransformer(TransformerConfig(**config["sizes"]))
    model.load_state_dict({name: t.to(torch.float32) for name, t in weights.items()})
    model.requires_grad_(False).eval()
    return Host(reference, model, Tokenizer.from_str(words.decode()), digest, config.get("card", {}))


def _digest(weights: dict[str, torch.Tensor], words: bytes) -> str:
    return sha256((tensors_digest(weights) + sha256(words)).encode())


def _unknown(reference: str) -> str:
    names = bundled_names()
    near = difflib.get_close_matches(reference, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"host.model={reference!r}: not a bundled host ({', '.join(names)}) and not a directory or URI{hint}"
