"""The token index of a corpus: built once, kept in the store, named by what it was made from.

    <store>/corpora/<key>/train.safetensors, heldout.safetensors, index.json (last)

Its digest is over the tokens themselves; it goes into the fingerprint of every sweep that reads it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from monosem.config.job import CorpusConfig
from monosem.errors import InputError
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store
from monosem.store.tensors import pack_tensors, tensors_digest, unpack_tensors
from monosem.text import builtin, files
from monosem.text.tokens import TokenIndex, pack

Report = Callable[[int], None]


@dataclass(frozen=True)
class Corpus:
    """Packed text, split by document. `key` names it in the store."""

    key: str
    digest: str
    train: TokenIndex
    heldout: TokenIndex
    quarantined: dict[str, int]


def corpus_key(config: CorpusConfig, tokenizer: Tokenizer) -> str:
    """Names the corpus by everything it is made from, without reading the text."""
    made_from = {
        "tokenizer": sha256(tokenizer.to_str().encode()),
        "context_length": config.context_length,
        "max_tokens": config.max_tokens,
        "heldout_fraction": config.heldout_fraction,
    }
    if config.source == "builtin":
        made_from |= {"builtin": builtin_identity(), "seed": config.seed}
    else:
        made_from |= {
            "files": files.identity(config.source),
            "columns": [config.text_column, config.domain_column],
        }
    return sha256(pack_json(made_from))[:24]


def builtin_identity() -> list[str]:
    import importlib.metadata

    versions = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return [sys.version, *(f"{name}={versions.get(name)}" for name in builtin.PACKAGES)]


def prepare(store: Store, config: CorpusConfig, tokenizer: Tokenizer, report: Report = lambda n: None) -> Corpus:
    """The corpus from the store, or built now and kept there."""
    key = corpus_key(config, tokenizer)
    if not store.exists(f"corpora/{key}/index.json"):
        _build(store, key, config, tokenizer, report)
    return load(store, key)


def load(store: Store, key: str) -> Corpus:
    """The corpus named `key`; a missing one is FileNotFoundError."""
    record = unpack_json(store.get(f"corpora/{key}/index.json"), f"corpora/{key}/index.json")
    train, heldout = (
        _from_tensors(unpack_tensors(store.get(f"corpora/{key}/{side}.safetensors"), side), record["domains"][side])
        for side in ("train", "heldout")
    )
    return Corpus(key, record["digest"], train, heldout, record["quarantined"])


def _build(store: Store, key: str, config: CorpusConfig, tokenizer: Tokenizer, report: Report) -> None:
    quarantine = files.Quarantine()
    if config.source == "builtin":
        source = builtin.documents(config.seed)
    else:
        source = files.documents(config.source, config.text_column, config.domain_column, quarantine)
    train, heldout = pack(source, tokenizer, config.context_length, config.max_tokens, config.heldout_fraction, report)
    for side, index in (("training", train), ("held-out", heldout)):
        if len(index.tokens_NT) == 0:
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(quarantine.reasons.items()))
            raise InputError(
                f"corpus.source={config.source!r}: too little text: no {side} context of "
                f"{config.context_length} tokens" + (f" (passed over: {reasons})" if reasons else "")
            )
    sides = {"train": _to_tensors(train), "heldout": _to_tensors(heldout)}
    for side, tensors in sides.items():
        store.put(f"corpora/{key}/{side}.safetensors", pack_tensors(tensors))
    record = {
        "digest": sha256((tensors_digest(sides["train"]) + tensors_digest(sides["heldout"])).encode()),
        "source": config.source,
        "contexts": {"train": len(train.tokens_NT), "heldout": len(heldout.tokens_NT)},
        "context_length": config.context_length,
        "domains": {"train": list(train.domains), "heldout": list(heldout.domains)},
        "quarantined": dict(quarantine.reasons),
        "quarantine_examples": quarantine.examples,
    }
    store.put(f"corpora/{key}/index.json", pack_json(record))


def _to_tensors(index: TokenIndex) -> dict[str, torch.Tensor]:
    return {
        "tokens": torch.from_numpy(index.tokens_NT),
        "doc_starts": torch.from_numpy(index.doc_starts),
        "doc_domains": torch.from_numpy(index.doc_domains),
    }


def _from_tensors(tensors: dict[str, torch.Tensor], domains: list[str]) -> TokenIndex:
    arrays = {name: t.numpy() for name, t in tensors.items()}
    return TokenIndex(arrays["tokens"], arrays["doc_starts"], arrays["doc_domains"], tuple(domains))


def context_tokens(index: TokenIndex, contexts: np.ndarray) -> torch.Tensor:
    """Token ids of `contexts`, int64 [len(contexts), context_length]."""
    return torch.from_numpy(index.tokens_NT[contexts].astype(np.int64))
