"""The job of the tests on clusters: two hook points, special tokens left out."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def job(tiny_host, text_file, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(
        f"""
name: tiny
host: {{model: {tiny_host}, hook_point: [mlp.post, resid_mid]}}
corpus: {{source: {text_file}, context_length: 32, heldout_fraction: 0.1}}
stream: {{rows_per_context: 16, shuffle_rows: 1024, contexts_per_item: 4, skip_positions: 1, skip_special: true}}
sae: {{expansion_factor: [1, 4], l1_coefficient: 0.001}}
train: {{steps: 300, batch_size: 64, lr: 0.003, resample_steps: [60, 120], resample_window: 10,
         resample_rows: 256, init_rows: 256, checkpoint_every: 20, log_every: 5}}
learner: {{threads: 1}}
evaluate: {{contexts: 8, rows: 256}}
track: {{wandb: disabled}}
features: {{enabled: false}}
"""
    )
    return path
