"""Hosts at rest: this package's own in three files, bundled or in a store; Hugging Face models by directory or hub.

config.json          sizes, digest of the weights, and the model card's figures
model.safetensors    the weights
tokenizer.json       the tokenizer (Hugging Face `tokenizers` format)
"""

import difflib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from monosem.config.job import HostConfig
from monosem.errors import InputError, IntegrityError
from monosem.host.model import HostModel, UnknownHookPoint
from monosem.host.transformer import OneLayerTransformer, TransformerConfig
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store, open_store
from monosem.store.tensors import pack_tensors, tensors_digest, unpack_tensors

BUNDLED = Path(__file__).parent / "bundled"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
KIND = "one-layer-transformer"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Host:
    """A loaded host model. `digest` is over weights and tokenizer: it names what was read, not where.

    end_token    ends a text; begin_token begins a context if `corpus.bos` asks for it (None: it has none)
    """

    reference: str
    model: HostModel
    tokenizer: Tokenizer
    digest: str
    card: dict
    end_token: str = END_OF_TEXT
    begin_token: str | None = None


def bundled_names() -> list[str]:
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "config.json").exists()) if BUNDLED.is_dir() else []


def save_host(store: Store, prefix: str, model: OneLayerTransformer, tokenizer: Tokenizer, card: dict) -> str:
    """Write a host, its config last. Returns the digest."""
    weights = model.state_dict()
    words = tokenizer.to_str().encode()
    digest = _digest(weights, words)
    store.put(f"{prefix}/model.safetensors", pack_tensors(weights))
    store.put(f"{prefix}/tokenizer.json", words)
    config = {"kind": KIND, "sizes": asdict(model.config), "digest": digest, "card": card}
    store.put(f"{prefix}/config.json", pack_json(config))
    return digest


def load_host(config: HostConfig | str, weights: bool = True) -> Host:
    """The host of a job, or the one of that name. Unknown names are an InputError.

    weights  False: a Hugging Face model without its weights, enough for names, widths and the tokenizer
    """
    if isinstance(config, str):
        config = HostConfig(model=config)
    config = replace(config, model=_expanded(config.model))
    reference = config.model
    if reference.startswith("hf:") or _is_hugging_face(reference):
        return _hugging_face(config, weights)
    for field, default in (("revision", None), ("precision", "fp32"), ("device_map", "single")):
        if getattr(config, field) != default:
            raise InputError(f"host.{field}={getattr(config, field)}: only for Hugging Face hosts, not {reference!r}")
    if reference in bundled_names():
        store = open_store(str(BUNDLED / reference))
    elif "/" in reference or Path(reference).is_dir():
        store = open_store(reference)
    else:
        raise InputError(_unknown(reference))
    try:
        described = unpack_json(store.get(FILES[0]), f"{reference}/{FILES[0]}")
        if described.get("kind") != KIND:
            raise InputError(
                f"host.model={reference!r}: its config.json is not of a host in a store; "
                "a Hugging Face model is read from a local directory, or named hf:org/name"
            )
        weights_data, words = (store.get(name) for name in FILES[1:])
    except FileNotFoundError as error:
        raise InputError(f"host.model={reference!r}: no host there, {error.filename or error} is missing") from error
    return _assemble(reference, described, weights_data, words)


def resolve_hook_points(model: HostModel, hook_points: list[str], field: str = "host.hook_point") -> tuple[str, ...]:
    """Canonical names, in order; an unknown one, or two names of one point, is an InputError that names `field`."""
    found: dict[str, None] = {}
    places: dict[object, str] = {}
    for name in hook_points:
        try:
            canonical = model.resolve(name)
        except UnknownHookPoint as error:
            raise InputError(f"{field}={name!r}: {error}") from None
        place = model.place(canonical)
        if place in places:
            raise InputError(f"{field}={name!r}: the same point as {places[place]!r}")
        found[canonical], places[place] = None, name
    return tuple(found)


def _expanded(reference: str) -> str:
    """A local directory as its path: `~` and `file://` written out, as stores take them."""
    path = reference.removeprefix("file://")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _is_hugging_face(reference: str) -> bool:
    """A local directory whose config.json is not one of ours."""
    path = Path(reference) / "config.json"
    if "://" in reference or not path.is_file():
        return False
    return unpack_json(path.read_bytes(), str(path)).get("kind") != KIND


def _hugging_face(config: HostConfig, weights: bool) -> Host:
    from monosem.host.huggingface import load

    device_map = None if config.device_map == "single" else config.device_map
    found = load(config.model, config.revision, config.precision, device_map, weights)
    return Host(
        config.model, found.model, found.tokenizer, found.digest, found.card, found.end_token, found.begin_token
    )


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
