"""One training step of monosem, of a plain torch trainer, and of other tools where they are installed.

Each is a function of a batch [rows, d_in]. L0 is about `active` and stays there: learning rates are next to nothing.
Peers come at their settings for speed: with and without bfloat16 autocast, SAELens' ReLU and TopK, dictionary_learning's
TopK and ReLU, sparsify's own model with its own constraint on the decoder.
"""

import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from monosem.config.job import TrainConfig
from monosem.learn.learner import Learner
from monosem.learn.mesh import Mesh
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae

LR = 1e-9
Step = Callable[[Tensor], object]


def settled_learner(
    x: Tensor, features: int, active: int, variant: str = "relu", slots: int = 1, mesh: Mesh | None = None,
    **train: object,
) -> Learner:  # fmt: skip
    """A learner whose dictionary is active in about `active` features of each row, as a trained one is."""
    sae = SaeConfig(d_in=x.shape[1], d_sae=features, variant=variant, k=active, aux_coefficient=0.0, bandwidth=0.05)
    learner = Learner(sae, TrainConfig(batch_size=len(x), lr=LR, **train), slots=slots, mesh=mesh)
    some = x[:256]
    product = some @ (learner.sae.W_enc if mesh is None else init_sae(sae).W_enc)
    bound = float(product.flatten().topk(active * len(some), sorted=False).values.min())
    if variant == "jumprelu":
        learner.sae.threshold.fill_(bound)
    elif variant in ("relu", "gated"):
        learner.sae.b_enc.fill_(-bound)
    return learner


def ours(x: Tensor, features: int, active: int) -> dict[str, Step]:
    found = {}
    for variant in ("relu", "topk"):
        for precision in ("bf16", "fp32"):
            found[f"monosem {variant} {precision}"] = settled_learner(
                x, features, active, variant, precision=precision
            ).step
    found["monosem relu fp32, dense"] = settled_learner(x, features, active, sparse_share=0.0).step
    return found


def autocast(on: bool) -> AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def plain_torch(x: Tensor, features: int, bf16: bool) -> Step:
    """The 2023 recipe by autograd and torch's fused Adam."""
    learner = settled_learner(x, features, 20)
    t = {name: v.clone().requires_grad_(True) for name, v in learner.sae.tensors().items()}
    adam = torch.optim.Adam(t.values(), lr=LR, fused=True)

    def step(x: Tensor) -> None:
        with autocast(bf16):
            f = torch.relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
            x_hat = f @ t["W_dec"] + t["b_dec"]
        loss = (x_hat.float() - x).square().mean() + 1e-3 * f.float().sum(dim=1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            t["W_dec"] /= t["W_dec"].norm(dim=1, keepdim=True)

    return step


def saelens(x: Tensor, features: int, active: int, kind: str, bf16: bool) -> Step:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes import standard_sae, topk_sae
    from sae_lens.training.sae_trainer import SAETrainer

    if kind == "relu":
        sae = standard_sae.StandardTrainingSAE(
            standard_sae.StandardTrainingSAEConfig(d_in=x.shape[1], d_sae=features, l1_coefficient=1.0)
        )
    else:
        sae = topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=features, k=active))
    settings = SAETrainerConfig(
        total_training_samples=10**6 * len(x), train_batch_size_samples=len(x), lr=LR, lr_end=LR, autocast=bf16
    )
    trainer = SAETrainer(settings, sae, iter(()))
    return lambda x: trainer._train_step(sae, x)


def dictionary_learning(x: Tensor, features: int, active: int, kind: str, bf16: bool) -> Step:
    # Its activation buffer imports nnsight, which brings a CUDA build of torch; its trainers need none of it.
    sys.modules.setdefault("nnsight", types.SimpleNamespace(LanguageModel=object))
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {"steps": 10**6, "activation_dim": x.shape[1], "dict_size": features, "lr": LR, "layer": 0,
              "lm_name": "none", "warmup_steps": 1, "device": "cpu"}  # fmt: skip
    trainer = TopKTrainer(k=active, **common) if kind == "topk" else StandardTrainerAprilUpdate(**common)

    def step(x: Tensor) -> None:
        with autocast(bf16):
            trainer.update(1, x)

    return step


def sparsify(x: Tensor, features: int, active: int, bf16: bool) -> Step:
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    sae = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=features, k=active))
    adam = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)

    def step(x: Tensor) -> None:
        with autocast(bf16):
            loss = sae(x).fvu
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        sae.set_decoder_norm_to_unit_norm()

    return step


def theirs(x: Tensor, features: int, active: int) -> tuple[dict[str, Step], list[str]]:
    """Steps of others, and which tools are not installed here."""
    found, missing = {}, []
    for bf16 in (False, True):
        how = "bf16" if bf16 else "fp32"
        found[f"plain torch relu {how}"] = plain_torch(x, features, bf16)
        for name, make in (
            ("SAELens relu", lambda b: saelens(x, features, active, "relu", b)),
            ("SAELens topk", lambda b: saelens(x, features, active, "topk", b)),
            ("dictionary_learning relu", lambda b: dictionary_learning(x, features, active, "relu", b)),
            ("dictionary_learning topk", lambda b: dictionary_learning(x, features, active, "topk", b)),
            ("sparsify topk", lambda b: sparsify(x, features, active, b)),
        ):
            try:
                found[f"{name} {how}"] = make(bf16)
            except ImportError as error:
                missing.append(f"{name}: {error}")
    return found, missing
