"""Runs in the peers' environment for `tests/bench/truth.py`: one dictionary by SAELens' own trainer, saved for inference.

The argument is a JSON object; rows come from the same generator as ours, batch by batch.
"""

import json
import sys

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae
from sae_lens.training.sae_trainer import SAETrainer

from monosem.sae.init import geometric_median
from monosem.truth.generator import Truth, TruthConfig

CLASSES = {
    "standard": (standard_sae.StandardTrainingSAEConfig, standard_sae.StandardTrainingSAE, "l1_warm_up_steps"),
    "gated": (gated_sae.GatedTrainingSAEConfig, gated_sae.GatedTrainingSAE, "l1_warm_up_steps"),
    "jumprelu": (jumprelu_sae.JumpReLUTrainingSAEConfig, jumprelu_sae.JumpReLUTrainingSAE, "l0_warm_up_steps"),
    "topk": (topk_sae.TopKTrainingSAEConfig, topk_sae.TopKTrainingSAE, None),
    "batchtopk": (batchtopk_sae.BatchTopKTrainingSAEConfig, batchtopk_sae.BatchTopKTrainingSAE, None),
    "matryoshka_batchtopk": (
        matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig,
        matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE,
        None,
    ),
}


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    config, kind, warm_up = CLASSES[job["architecture"]]
    values = job["values"] | ({warm_up: int(job["warm_up"] * job["steps"])} if warm_up else {})
    sae = kind(config(**values))
    truth, batch, steps = Truth(TruthConfig(seed=job["seed"])), job["batch"], job["steps"]
    sae.b_dec.data = geometric_median(torch.from_numpy(truth.rows(0, job["init_rows"]))).to(sae.b_dec)
    settings = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=job["lr"],
        lr_end=job["lr"] / 10,  # what their runner sets
        lr_decay_steps=steps // 5,
        dead_feature_window=100,
    )
    rows = (torch.from_numpy(truth.rows(step * batch, (step + 1) * batch)) for step in range(steps))
    SAETrainer(settings, sae, rows).fit().save_inference_model(job["directory"])


if __name__ == "__main__":
    main()
