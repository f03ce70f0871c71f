"""Three readers of different speeds on one live stream over two epochs; prints what each saw, as JSON.

The host's rows say what they are: at resid_pre a row is (token id, position), and every token of the corpus occurs once.
"""

import json
import sys
import time

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.fleet.cluster import connected, set_environment
from monosem.host.stored import END_OF_TEXT, save_host
from monosem.host.transformer import OneLayerTransformer, TransformerConfig
from monosem.stages.prepare import prepare_stream
from monosem.store.store import LocalStore, open_store

LENGTH, WORDS, PER_DOCUMENT = 16, 3000, 37


def write_host(directory: str) -> None:
    """A transformer whose residual stream begins as (token id, position), and a tokenizer of whole words."""
    vocab = {END_OF_TEXT: 0} | {f"w{n}": n + 1 for n in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = OneLayerTransformer(TransformerConfig(len(vocab), LENGTH, d_model=2, d_mlp=4, n_heads=1))
    with torch.no_grad():
        model.embed.weight[:, 0], model.embed.weight[:, 1] = torch.arange(len(vocab)).float(), 0
        model.position.weight[:, 0], model.position.weight[:, 1] = 0, torch.arange(LENGTH).float()
    save_host(LocalStore(directory), "host", model, tokenizer, {})


def write_job(directory: str, detach: float) -> str:
    with open(f"{directory}/texts.jsonl", "w") as file:
        for first in range(0, WORDS, PER_DOCUMENT):
            words = " ".join(f"w{n}" for n in range(first, min(WORDS, first + PER_DOCUMENT)))
            file.write(json.dumps({"text": words}) + "\n")
    with open(f"{directory}/job.yaml", "w") as file:
        file.write(
            f"""
seed: 11
store: {directory}/store
host: {{model: {directory}/host, hook_point: resid_pre}}
corpus: {{source: {directory}/texts.jsonl, context_length: {LENGTH}, heldout_fraction: 0.05}}
stream: {{rows_per_context: 8, shuffle_rows: 288, contexts_per_item: 4, skip_special: true, ahead_rows: 128,
          detach_after_s: {detach}}}
train: {{steps: 1, batch_size: 16, init_rows: 16}}
"""
        )
    return f"{directory}/job.yaml"


def main(directory: str, detach: float) -> dict:
    write_host(directory)
    job = load_job(SweepJob, write_job(directory, detach), [])
    spec = prepare_stream(job, open_store(job.store))
    rows = 2 * spec.order.contexts_per_epoch * spec.order.rows_per_context
    set_environment(None)
    with connected(None, 100_000_000):
        return read_all(spec, rows) | {"rows": rows, "order": spec.order.__dict__, "key": spec.corpus_key}


def read_all(spec, rows: int) -> dict:
    import ray

    from monosem.fleet.source import RaySource
    from monosem.fleet.workers import BufferShard, ModelWorker
    from monosem.stream.reader import RowReader

    @ray.remote
    class Reader:
        def __init__(self, name, shards):
            self.source = RaySource(spec.order, name, spec.hook_points, shards, spec.hook_points)

        def read(self, batch: int, pause: float, start: int) -> list:
            self.source.join(start // spec.order.segment_rows)
            reader = RowReader(self.source, spec.order, "resid_pre")
            seen = []
            for lo in range(start, rows, batch):
                seen.append(reader.rows(lo, min(rows, lo + batch)).numpy())
                time.sleep(pause)
            self.source.leave()
            return np.concatenate(seen).astype(int).tolist()

    workers = {n: ModelWorker.options(num_cpus=0.1).remote(spec) for n in range(2)}
    shards = {k: BufferShard.options(num_cpus=0.1, max_concurrency=1000).remote(spec, k, 2) for k in range(2)}
    ray.get([shard.set_workers.remote(workers) for shard in shards.values()])
    readers = [Reader.options(num_cpus=0.1).remote(name, shards) for name in ("fast", "middle", "slow", "late")]
    calls = [r.read.remote(*how) for r, how in zip(readers, ((48, 0.0, 0), (16, 0.004, 0), (24, 0.03, 0)), strict=False)]
    time.sleep(2)
    calls.append(readers[3].read.remote(48, 0.0, 0))  # joins a stream that has moved on
    ray.kill(workers.pop(0))
    ray.get([shard.set_workers.remote(workers) for shard in shards.values()])
    names = ("fast", "middle", "slow", "late")
    seen = dict(zip(names, ray.get(calls), strict=True))
    news = [line for shard in shards.values() for line in ray.get(shard.tell_news.remote())]
    return {"seen": seen, "news": news}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], float(sys.argv[2]))))
