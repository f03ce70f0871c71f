"""A dictionary at rest, in SAELens' layout.

    cfg.json                  flat SAELens configuration, with `metadata`
    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec
    sparsity.safetensors      {"sparsity": log10 of each feature's density}
    monosem.json              lineage, metrics and the digest of each file; written last

What monosem writes here says so in cfg.json's metadata ("monosem": version): without its monosem.json it is half a
dictionary, of a writer that was killed, or of a copy that left it out.

Only safetensors and JSON: opening a stranger's dictionary executes nothing. Imports torch, but
neither ray, pyarrow nor wandb.
"""

import torch
from torch import Tensor

from monosem import __version__
from monosem.errors import IntegrityError
from monosem.sae.model import Sae
from monosem.store.formats import read_any, saelens
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store, open_store
from monosem.store.tensors import pack_tensors, tensors_digest

LOG10_NEVER = -10.0
"""Stands for log10 of a density of zero."""
MARK = "monosem"
"""In cfg.json's metadata: there is a monosem.json, or the dictionary is not whole."""


def dictionary_files(sae: Sae, density_F: Tensor, metadata: dict) -> dict[str, bytes]:
    """The three files of a dictionary by name. `density_F`: share of rows on which each feature is active."""
    log_density = torch.where(density_F > 0, density_F.clamp_min(1e-30).log10(), torch.tensor(LOG10_NEVER))
    return {
        **saelens.write(sae, {MARK: __version__} | metadata),
        "sparsity.safetensors": pack_tensors({"sparsity": log_density.float()}),
    }


def write_dictionary(store: Store, prefix: str, sae: Sae, density_F: Tensor, metadata: dict, record: dict) -> dict:
    """Write a finished dictionary; its manifest, `record` with digests added, comes last. Returns the manifest.

    If a manifest is there already with the same digest this changes nothing; with another it is an error.
    """
    files = dictionary_files(sae, density_F, metadata)
    manifest = record | {
        "digest": tensors_digest(sae.tensors()),
        "files": {name: sha256(data) for name, data in files.items()},
    }
    there = _finished(store, prefix, manifest["digest"])
    if there is None:
        for name, data in files.items():
            store.put(f"{prefix}/{name}", data)
        if not store.create(f"{prefix}/monosem.json", pack_json(manifest)):
            there = _finished(store, prefix, manifest["digest"])
    return there or manifest


def _finished(store: Store, prefix: str, digest: str) -> dict | None:
    """The manifest that is there already; IntegrityError if it is another dictionary's."""
    path = f"{prefix}/monosem.json"
    if not store.exists(path):
        return None
    there = unpack_json(store.get(path), path)
    if there.get("digest") != digest:
        raise IntegrityError(f"{store.url}: {prefix} holds another finished dictionary; nothing was overwritten")
    return there


def load(uri: str, device: str = "cpu") -> Sae:
    """The dictionary at `uri`, in float32: a directory, a fsspec URL, or hf:org/name[/path].

    Reads what SAELens, dictionary_learning and sparsify write; reading executes nothing. Files written by monosem
    are checked against the digests in monosem.json, and are refused without it.
    """
    url = f"hf://{uri.removeprefix('hf:')}" if uri.startswith("hf:") and not uri.startswith("hf://") else uri
    store = open_store(url)
    sae, files = read_any(store.get, uri)
    _check_digests(store, uri, files)
    return sae.to(device)


def _check_digests(store: Store, uri: str, files: dict[str, bytes]) -> None:
    try:
        manifest = unpack_json(store.get("monosem.json"), f"{uri}/monosem.json")
    except FileNotFoundError:
        if "cfg.json" in files and _is_marked(unpack_json(files["cfg.json"], f"{uri}/cfg.json")):
            raise IntegrityError(
                f"{uri}: monosem.json is missing, which monosem writes last: the dictionary was not finished, or not "
                "copied whole"
            ) from None
        return  # written by another tool
    for name, data in files.items():
        if manifest.get("files", {}).get(name) != sha256(data):
            raise IntegrityError(f"{uri}: {name} does not match its digest in monosem.json")


def _is_marked(cfg: dict) -> bool:
    metadata = cfg.get("metadata")
    return isinstance(metadata, dict) and MARK in metadata
