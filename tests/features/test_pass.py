"""The whole feature pass on a tiny sweep against a dense recomputation of every number; resuming; neurons; relations."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from monosem.config.job import FeaturesConfig
from monosem.features import schema
from monosem.features.state import State
from monosem.stages.features import plan_pass, run_features
from monosem.store.plain import unpack_json
from monosem.store.store import open_store
from tests.conftest import run_cli
from tests.features.brute import check_examples, check_feature, dense

SMALL = ["features.slice_tokens=256", "features.slice_features=64", "features.tokens=1_500", "features.sample=100",
         "features.texts=4", "features.text_tokens=20"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tiny_host, text_file, tmp_path_factory):
    """A store with a finished sweep and its features."""
    path = tmp_path_factory.mktemp("features")
    job = path / "job.yaml"
    job.write_text(
        f"""
name: tiny
store: {path / "store"}
host: {{model: {tiny_host}, hook_point: mlp.post}}
corpus: {{source: {text_file}, context_length: 32, heldout_fraction: 0.1}}
stream: {{rows_per_context: 16, shuffle_rows: 1024, contexts_per_item: 4}}
sae: {{variant: [relu, topk], expansion_factor: [1, 4], l1_coefficient: 0.001, k: 6}}
train: {{steps: 60, batch_size: 64, lr: 0.003, init_rows: 256, checkpoint_every: 60}}
learner: {{threads: 1}}
evaluate: {{contexts: 8, rows: 256}}
track: {{wandb: disabled}}
"""
    )
    assert run_cli("sweep", job, "--inline", *SMALL) == 0
    return path / "store"


def config(**changes) -> FeaturesConfig:
    small = dict(item.removeprefix("features.").split("=") for item in SMALL)
    return FeaturesConfig(**{name: int(value) for name, value in small.items()} | changes)


def state_of(store_path, **changes) -> State:
    store = open_store(str(store_path))
    return State(plan_pass(store, "tiny", config(**changes), 1), store)


def read(directory, table: str) -> list[dict]:
    return [row for file in sorted(directory.glob(f"{table}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def places(state: State, store_path):
    return [(i, store_path / state.plan.directory(i)) for i in range(len(state.plan.subjects))]


def test_every_number_equals_a_dense_recomputation(swept):
    state = state_of(swept)
    assert [s.name for s in state.plan.subjects] == ["1x-relu", "1x-topk", "4x-relu", "4x-topk", "neurons"]
    for i, directory in places(state, swept):
        d, rows, examples = dense(state, i), read(directory, "features"), read(directory, "examples")
        assert [row["feature"] for row in rows] == list(range(d.f.shape[1]))
        by_feature: dict[int, list[dict]] = {}
        for row in examples:
            by_feature.setdefault(row["feature"], []).append(row)
        for row in rows:
            k = row["feature"]
            check_feature(d, k, row)
            assert row["n_examples"] == len(by_feature.get(k, []))
            if k % 5 == 0:
                check_examples(d, k, by_feature.get(k, []))
