"""`monosem pretrain`: the whole job, from text to hosts in the store."""

import time
from itertools import islice
from string import ascii_lowercase

import torch

from monosem.config.job import PretrainJob
from monosem.config.load import to_plain
from monosem.errors import InputError
from monosem.host.pretrain import evaluate, precision_on, pretrain
from monosem.host.stored import save_host
from monosem.host.transformer import TransformerConfig
from monosem.memory import keep_freed_memory
from monosem.store.checkpoints import CheckpointLog
from monosem.store.plain import pack_json, sha256, unpack_json
from monosem.store.store import Store, open_store
from monosem.text.index import Corpus, prepare
from monosem.text.quarantine import Quarantine
from monosem.text.sources import open_source
from monosem.text.tokens import Tokenizer, train_tokenizer
from monosem.track.progress import PhaseProgress


def run_pretrain(job: PretrainJob) -> list[str]:
    """Train one host per seed; hosts already in the store are kept. Returns their prefixes."""
    _check(job)
    keep_freed_memory()
    store = open_store(job.store)
    torch.set_num_threads(job.pretrain.threads)
    tokenizer = _tokenizer(store, job)
    with PhaseProgress("tokenise", job.corpus.max_tokens, "tokens") as progress:
        corpus = prepare(store, job.corpus, tokenizer, progress.update)
    return [_one_host(store, job, tokenizer, corpus, number, seed) for number, seed in enumerate(job.seeds)]


def _check(job: PretrainJob) -> None:
    """InputError for what no host can be made of, before a name is claimed."""
    if job.model.d_model % job.model.n_heads:
        raise InputError(f"model.n_heads={job.model.n_heads}: must divide model.d_model={job.model.d_model}")
    if len(job.seeds) > len(ascii_lowercase):
        raise InputError(f"seeds: {len(job.seeds)} of them, at most {len(ascii_lowercase)}: hosts are named -a to -z")


def _one_host(store: Store, job: PretrainJob, tokenizer: Tokenizer, corpus: Corpus, number: int, seed: int) -> str:
    name = f"{job.name}-{ascii_lowercase[number]}"
    prefix = f"hosts/{name}"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = precision_on(device, job.pretrain.precision)
    checkpoints = CheckpointLog(store, f"{prefix}/checkpoints")
    _claim(store, prefix, job, corpus, seed, precision)
    if store.exists(f"{prefix}/config.json"):
        checkpoints.clear()  # a kill may have left some
        return prefix
    sizes = TransformerConfig(
        vocab_size=job.model.vocab_size,
        context_length=job.corpus.context_length,
        d_model=job.model.d_model,
        d_mlp=job.model.d_mlp,
        n_heads=job.model.n_heads,
    )
    per_step = min(job.pretrain.batch_contexts, len(corpus.train.tokens_NT)) * job.corpus.context_length
    with PhaseProgress(name, job.pretrain.steps * per_step, "tokens") as progress:

        def report(step: int, loss: float) -> None:
            progress.update(step * per_step, f"loss {loss:.3f}")

        model = pretrain(sizes, corpus.train.tokens_NT, seed, job.pretrain, checkpoints, report, device)
    card = {
        "heldout_loss_nats_per_token": round(evaluate(model, corpus.heldout.tokens_NT, job.pretrain.eval_contexts), 4),
        "heldout_contexts": min(job.pretrain.eval_contexts, len(corpus.heldout.tokens_NT)),
        "tokens_seen": job.pretrain.steps * per_step,
        "tokens_distinct": int(corpus.train.tokens_NT.size),
        "corpus": job.corpus.source,
        "corpus_digest": corpus.digest,
        "seed": seed,
        "precision": precision,
        "device": device,
        "made": time.strftime("%Y-%m-%d"),
    }
    save_host(store, prefix, model, tokenizer, card)
    checkpoints.clear()
    return prefix


def _claim(store: Store, prefix: str, job: PretrainJob, corpus: Corpus, seed: int, precision: str) -> None:
    """InputError if a host of other settings was begun under this name: its checkpoints would be gone on with."""
    # What how and where it is done, and how much text was allowed, do not tell apart; the text itself does.
    settings = {k: v for k, v in to_plain(job.pretrain).items() if k not in ("threads", "checkpoint_every")}
    settings["precision"] = precision  # auto is another one on another device
    made_from = {"corpus": corpus.digest, "seed": seed, "model": to_plain(job.model), "pretrain": settings}
    path = f"{prefix}/made_from.json"
    if store.create(path, pack_json(made_from)):
        return
    there = unpack_json(store.get(path), path)
    changed = [key for key in made_from if there.get(key) != made_from[key]]
    if changed:
        raise InputError(
            f"{store.url}/{prefix}: was begun with another {' and '.join(changed)}; choose another name, or delete it"
        )


def _tokenizer(store: Store, job: PretrainJob) -> Tokenizer:
    """The job's tokenizer, trained once and kept in the store under what it was made from."""
    c = job.corpus
    source = open_source(c)
    made_from = [source.identity, c.seed, job.model.vocab_size, job.pretrain.tokenizer_documents]
    path = f"tokenizers/{sha256(repr(made_from).encode())[:24]}.json"
    if not store.exists(path):
        texts = (d.text for d in islice(source.documents(Quarantine()), job.pretrain.tokenizer_documents))
        store.put(path, train_tokenizer(texts, job.model.vocab_size).to_str().encode())
    return Tokenizer.from_str(store.get(path).decode())
