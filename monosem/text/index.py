"""The token index of a corpus: built once, kept in the store, named by what it was made from.

    <store>/corpora/<key>/train.safetensors, heldout.safetensors, quarantine.jsonl, index.json (last)

Its digest is over tokens, document starts and domains; it goes into the fingerprint of every sweep that reads it.
The names of documents are left out of it: the same text from another directory is the same corpus.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from monosem.config.job import CorpusConfig
from monosem.errors import InputError, IntegrityError
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import LocalStore, Store
from monosem.store.tensors import pack_tensors, tensors_digest, unpack_tensors
from monosem.text.quarantine import Quarantine, printable
from monosem.text.sources import Source, open_source
from monosem.text.tokens import END_OF_TEXT, TokenIndex, pack

Report = Callable[[int], None]

FORMAT = 2
"""Of the stored index and of the rules by which text is read; part of every corpus's name."""
SIDES = ("train", "heldout")
DTYPES = {
    "tokens": (torch.uint16, torch.int32),
    "doc_starts": (torch.int64,),
    "doc_domains": (torch.int32,),
    "doc_keys_bytes": (torch.uint8,),
    "doc_keys_offsets": (torch.int64,),
}
IN_DIGEST = ("tokens", "doc_starts", "doc_domains")


@dataclass(frozen=True)
class Corpus:
    """Packed text, split by document. `key` names it in the store; `revision` is the commit of a Hub dataset."""

    key: str
    digest: str
    train: TokenIndex
    heldout: TokenIndex
    quarantined: dict[str, int]
    revision: str | None = None


def corpus_key(
    config: CorpusConfig, tokenizer: Tokenizer, source: Source, end_token: str, begin_token: str | None
) -> str:
    """Names the corpus by everything it is made from, without reading the text."""
    made_from = {
        "format": FORMAT,
        "tokenizer": sha256(tokenizer.to_str().encode()),
        "context_length": config.context_length,
        "max_tokens": config.max_tokens,
        "heldout_fraction": config.heldout_fraction,
    } | source.identity
    if end_token != END_OF_TEXT:
        made_from["end_token"] = end_token
    if begin_token is not None:
        made_from["begin_token"] = begin_token
    return sha256(pack_json(made_from))[:24]


def prepare(
    store: Store,
    config: CorpusConfig,
    tokenizer: Tokenizer,
    report: Report = lambda n: None,
    end_token: str = END_OF_TEXT,
    begin_token: str | None = None,
) -> Corpus:
    """The corpus from the store, or built now and kept there; either way read back and checked in full.

    `begin_token` is the host's; contexts start with it only where `corpus.bos` asks for that. InputError if it
    does and there is none.
    """
    if config.bos and begin_token is None:
        raise InputError("corpus.bos=true: the host's tokenizer has no begin-of-text token; use corpus.bos=false")
    begin = begin_token if config.bos else None
    source = open_source(config)
    key = corpus_key(config, tokenizer, source, end_token, begin)
    if not store.exists(f"corpora/{key}/index.json"):
        _build(store, key, config, tokenizer, source, report, end_token, begin)
    return load(store, key, verify=True)


def load(store: Store, key: str, verify: bool = False) -> Corpus:
    """The corpus named `key`; a missing one is FileNotFoundError, a damaged one IntegrityError.

    On a local store the tensors are mapped, so that all processes of a machine share one copy. Of a mapped file
    only shapes and types are checked unless `verify`; bytes that came over a network are always compared with
    the digest.
    """
    path = f"corpora/{key}/index.json"
    record = unpack_json(store.get(path), path)
    if record.get("format") != FORMAT:
        raise IntegrityError(f"{path}: format {record.get('format')}, this version reads {FORMAT}")
    sides = {side: _read(store, f"corpora/{key}/{side}.safetensors", record, side, verify) for side in SIDES}
    train, heldout = (_from_tensors(sides[side], record, side) for side in SIDES)
    return Corpus(key, record["digest"], train, heldout, record["quarantined"], record["revision"])


def _build(
    store: Store,
    key: str,
    config: CorpusConfig,
    tokenizer: Tokenizer,
    source: Source,
    report: Report,
    end_token: str,
    begin_token: str | None,
) -> None:
    quarantine = Quarantine()
    limits = (config.context_length, config.max_tokens, config.heldout_fraction)
    train, heldout = pack(source.documents(quarantine), tokenizer, *limits, report, end_token, begin_token)
    if source.changed():
        raise InputError(f"corpus.source={config.source!r}: changed while it was read; run again when it is at rest")
    for side, index in (("training", train), ("held-out", heldout)):
        if len(index.tokens_NT) == 0:
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(quarantine.reasons.items()))
            total = len(train.doc_starts) + len(heldout.doc_starts)
            raise InputError(
                f"corpus.source={config.source!r}: too little text: no {side} context of {config.context_length} "
                f"tokens in {len(index.doc_starts):,} of {total:,} documents (the split keeps each document whole: "
                "more documents are needed, or longer ones)" + (f" (passed over: {reasons})" if reasons else "")
            )
    sides = {"train": _to_tensors(train), "heldout": _to_tensors(heldout)}
    for side, tensors in sides.items():
        store.put(f"corpora/{key}/{side}.safetensors", pack_tensors(tensors))
    if quarantine.listed:
        store.put(f"corpora/{key}/quarantine.jsonl", quarantine.listing())
    record = {
        "format": FORMAT,
        "digest": sha256("".join(_text_digest(sides[side]) for side in SIDES).encode()),
        "tensors": {side: tensors_digest(tensors) for side, tensors in sides.items()},
        "source": printable(config.source),
        "revision": source.revision,
        "contexts": {"train": len(train.tokens_NT), "heldout": len(heldout.tokens_NT)},
        "documents": {"train": len(train.doc_starts), "heldout": len(heldout.doc_starts)},
        "context_length": config.context_length,
        "end_token": end_token,
        "begin_token": begin_token,
        "domains": {"train": list(train.domains), "heldout": list(heldout.domains)},
        "quarantined": dict(quarantine.reasons),
        "quarantine_listed": quarantine.listed,
        "quarantine_examples": quarantine.examples,
    }
    store.put(f"corpora/{key}/index.json", pack_json(record))


def _text_digest(tensors: dict[str, torch.Tensor]) -> str:
    return tensors_digest({name: tensors[name] for name in IN_DIGEST})


def _read(store: Store, path: str, record: dict, side: str, verify: bool) -> dict[str, torch.Tensor]:
    local = isinstance(store, LocalStore)
    tensors = _map(str(store.root / path), path) if local else unpack_tensors(store.get(path), path)
    _check_shapes(tensors, record, side, path)
    if (verify or not local) and tensors_digest(tensors) != record["tensors"][side]:
        raise IntegrityError(f"{path}: does not match its digest")
    return tensors


def _map(file: str, path: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:  # its tensors are views of the mapped file
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a readable safetensors file: {error}") from error


def _check_shapes(tensors: dict[str, torch.Tensor], record: dict, side: str, path: str) -> None:
    documents = record["documents"][side]
    shapes = {
        "tokens": (record["contexts"][side], record["context_length"]),
        "doc_starts": (documents,),
        "doc_domains": (documents,),
        "doc_keys_offsets": (documents + 1,),
    }
    wrong = tensors.keys() != DTYPES.keys()
    wrong = wrong or any(tensors[name].dtype not in DTYPES[name] for name in DTYPES)
    wrong = wrong or any(tuple(tensors[name].shape) != shape for name, shape in shapes.items())
    if wrong or tuple(tensors["doc_keys_bytes"].shape) != (int(tensors["doc_keys_offsets"][-1]),):
        raise IntegrityError(f"{path}: its tensors are not those that index.json describes")


def _to_tensors(index: TokenIndex) -> dict[str, torch.Tensor]:
    return {
        "tokens": torch.from_numpy(index.tokens_NT),
        "doc_starts": torch.from_numpy(index.doc_starts),
        "doc_domains": torch.from_numpy(index.doc_domains),
        "doc_keys_bytes": torch.from_numpy(index.doc_keys_bytes),
        "doc_keys_offsets": torch.from_numpy(index.doc_keys_offsets),
    }


def _from_tensors(tensors: dict[str, torch.Tensor], record: dict, side: str) -> TokenIndex:
    arrays = {name: t.numpy() for name, t in tensors.items()}
    return TokenIndex(
        tokens_NT=arrays["tokens"],
        doc_starts=arrays["doc_starts"],
        doc_domains=arrays["doc_domains"],
        domains=tuple(record["domains"][side]),
        doc_keys_bytes=arrays["doc_keys_bytes"],
        doc_keys_offsets=arrays["doc_keys_offsets"],
        text_from=0 if record["begin_token"] is None else 1,
    )


def context_tokens(index: TokenIndex, contexts: np.ndarray) -> torch.Tensor:
    """Token ids of `contexts`, int64 [len(contexts), context_length]."""
    return torch.from_numpy(index.tokens_NT[contexts].astype(np.int64))
