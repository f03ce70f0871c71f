"""A dictionary at rest, in SAELens' layout.

    cfg.json                  flat SAELens configuration, with `metadata`
    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec
    sparsity.safetensors      {"sparsity": log10 of each feature's density}
    monosem.json              lineage, metrics and the digest of each file; written last

Only safetensors and JSON: opening a stranger's dictionary executes nothing. Imports torch, but
neither ray, pyarrow nor wandb.
"""

import torch
from torch import Tensor

from monosem.errors import InputError, IntegrityError
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store, open_store
from monosem.store.tensors import pack_tensors, tensors_digest, unpack_tensors

SAE_LENS_VERSION = "6.37.6"
"""Whose layout this is. Without a version SAELens takes a file for one of before 6.0."""

LOG10_NEVER = -10.0
"""Stands for log10 of a density of zero."""


def saelens_config(config: SaeConfig, metadata: dict) -> dict:
    return {
        "architecture": "standard",
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAE_LENS_VERSION, **metadata},
    }


def dictionary_files(sae: Sae, density_F: Tensor, metadata: dict) -> dict[str, bytes]:
    """The three files of a dictionary by name. `density_F`: share of rows on which each feature is active."""
    log_density = torch.where(density_F > 0, density_F.clamp_min(1e-30).log10(), torch.tensor(LOG10_NEVER))
    return {
        "cfg.json": pack_json(saelens_config(sae.config, metadata)),
        "sae_weights.safetensors": pack_tensors(sae.tensors()),
        "sparsity.safetensors": pack_tensors({"sparsity": log_density.float()}),
    }


def write_dictionary(store: Store, prefix: str, sae: Sae, density_F: Tensor, metadata: dict, record: dict) -> dict:
    """Write a finished dictionary; its manifest, `record` with digests added, comes last. Returns the manifest.

    If a manifest is there already with the same digest this changes nothing; with another it is an error.
    """
    files = dictionary_files(sae, density_F, metadata)
    for name, data in files.items():
        store.put(f"{prefix}/{name}", data)
    manifest = record | {
        "digest": tensors_digest(sae.tensors()),
        "files": {name: sha256(data) for name, data in files.items()},
    }
    if not store.create(f"{prefix}/monosem.json", pack_json(manifest)):
        there = unpack_json(store.get(f"{prefix}/monosem.json"), f"{prefix}/monosem.json")
        if there.get("digest") != manifest["digest"]:
            raise IntegrityError(f"{store.url}: {prefix} holds another finished dictionary; nothing was overwritten")
        return there
    return manifest


def load(uri: str, device: str = "cpu") -> Sae:
    """The dictionary at `uri`: a directory or fsspec URL in SAELens layout, standard architecture.

    Files written by monosem are checked against the digests in monosem.json.
    """
    store = open_store(uri)
    try:
        cfg_data, weights_data = store.get("cfg.json"), store.get("sae_weights.safetensors")
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no dictionary there ({error.filename or error} is missing)") from None
    _check_digests(store, uri, {"cfg.json": cfg_data, "sae_weights.safetensors": weights_data})
    cfg = unpack_json(cfg_data, f"{uri}/cfg.json")
    config = _sae_config(cfg, uri)
    tensors = unpack_tensors(weights_data, f"{uri}/sae_weights.safetensors")
    for name, shape in config.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise IntegrityError(f"{uri}: {name} has shape {found}, cfg.json says {shape}")
    if not cfg.get("apply_b_dec_to_input", True):  # the same function with the tied bias written out
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    return Sae.of(config, {name: tensors[name].to(device) for name in config.shapes})


def _sae_config(cfg: dict, uri: str) -> SaeConfig:
    if cfg.get("architecture") != "standard":
        raise InputError(f"{uri}: architecture {cfg.get('architecture')!r} is not supported yet, only 'standard'")
    if cfg.get("normalize_activations", "none") != "none":
        raise InputError(
            f"{uri}: normalize_activations={cfg['normalize_activations']!r} is not supported yet, only 'none'"
        )
    d_in, d_sae = cfg.get("d_in"), cfg.get("d_sae")
    if not (isinstance(d_in, int) and isinstance(d_sae, int) and d_in > 0 and d_sae > 0):
        raise IntegrityError(f"{uri}: cfg.json: d_in={d_in!r}, d_sae={d_sae!r} are not positive numbers")
    return SaeConfig(d_in=d_in, d_sae=d_sae)


def _check_digests(store: Store, uri: str, files: dict[str, bytes]) -> None:
    try:
        manifest = unpack_json(store.get("monosem.json"), f"{uri}/monosem.json")
    except FileNotFoundError:
        return  # written by another tool
    for name, data in files.items():
        if manifest.get("files", {}).get(name) != sha256(data):
            raise IntegrityError(f"{uri}: {name} does not match its digest in monosem.json")
