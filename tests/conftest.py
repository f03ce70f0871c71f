"""Shared pieces: a tiny host with a tokenizer, and a tiny job that trains two dictionaries in a second."""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which other things than our kernels do too

from monosem.cli.main import main
from monosem.host.stored import save_host
from monosem.host.transformer import OneLayerTransformer, TransformerConfig
from monosem.store.store import LocalStore
from monosem.text.tokens import train_tokenizer
from tests.services.rgw import rgw, s3_url  # noqa: F401  (fixtures)

WORDS = "the small river follows a quiet engine and every bridge reaches another harbour slowly".split()


def make_texts(n: int, salt: int = 0) -> list[str]:
    """`n` different little texts."""
    return [
        " ".join(WORDS[(i * 7 + k * k + salt) % len(WORDS)] + str((i + k) % 10) for k in range(60)) + "."
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def tiny_host(tmp_path_factory) -> str:
    """A host directory: a one-layer transformer with random weights, 24 wide, 40 neurons, context 32."""
    path = tmp_path_factory.mktemp("host")
    tokenizer = train_tokenizer(make_texts(50), 300)
    torch.manual_seed(7)
    sizes = TransformerConfig(vocab_size=300, context_length=32, d_model=24, d_mlp=40, n_heads=2)
    save_host(LocalStore(str(path)), "tiny", OneLayerTransformer(sizes), tokenizer, {})
    return str(path / "tiny")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    import json

    path.write_text("".join(json.dumps({"text": t, "domain": "toy"}) + "\n" for t in make_texts(400)))
    return str(path)


@pytest.fixture
def tiny_job(tiny_host, text_file, tmp_path) -> Path:
    """A job file: two dictionaries, 60 steps, two resamplings, checkpoints every 10 steps."""
    path = tmp_path / "job.yaml"
    path.write_text(
        f"""
name: tiny
store: {tmp_path / "store"}
host: {{model: {tiny_host}, hook_point: mlp.post}}
corpus: {{source: {text_file}, context_length: 32, heldout_fraction: 0.1}}
stream: {{rows_per_context: 16, shuffle_rows: 1024, contexts_per_item: 4}}
sae: {{expansion_factor: [1, 4], l1_coefficient: 0.001}}
train: {{steps: 60, batch_size: 64, lr: 0.003, resample_steps: [20, 40], resample_window: 10,
         resample_rows: 256, init_rows: 256, checkpoint_every: 10, log_every: 5}}
learner: {{threads: 1}}
evaluate: {{contexts: 8, rows: 256}}
track: {{wandb: disabled}}
features: {{enabled: false}}
"""
    )
    return path


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it."""


@contextmanager
def dying_after(step: int, run: str | None = None) -> Iterator[None]:
    """The process "dies" inside: when `run` (any of them if None) has made `step` steps."""
    from monosem.learn.run import Run

    original = Run.train_step

    def train_step(self, batch):
        original(self, batch)
        if self.step == step and run in (None, self.name):
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "train_step", train_step)
        yield


def run_cli(*args: object) -> int:
    return main([str(a) for a in args])


def digests(store: object) -> dict[str, str]:
    from monosem.stages.listing import all_rows
    from monosem.store.store import open_store

    return {row["run"]: row["digest"] for row in all_rows(open_store(str(store)))}
