"""Runs in the peers' environment (`make peers`): opens dictionaries with the tools themselves, and makes some of theirs.

    .venv-peers/bin/python tests/peers/in_their_words.py read CASES.json
    .venv-peers/bin/python tests/peers/in_their_words.py write DIRECTORY

read    CASES is a list of {kind, directory, numbers}; numbers holds x, f and x_hat as monosem computed them. Prints a line
        for each case; exits 1 if a difference is above 1e-5 of the row's largest entry.
write   one directory per class of each tool, with weights at random, and numbers.safetensors beside them
"""

# ruff: noqa: E402
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# dictionary_learning imports nnsight for its activation buffer, which brings a CUDA build of torch; its classes need none.
sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)

from dictionary_learning import dictionary as dl
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE
from sae_lens.saes import (
    batchtopk_sae,
    gated_sae,
    jumprelu_sae,
    matryoshka_batchtopk_sae,
    standard_sae,
    topk_sae,
    transcoder,
)
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

D, F, K, OUT = 8, 30, 4, 5


def saelens(directory: str):
    sae = SAE.load_from_disk(directory)
    if hasattr(sae.cfg, "d_out"):
        return sae.encode, lambda f, x: sae(x)  # a skip needs x
    return sae.encode, lambda f, x: sae.decode(f)


def dictionary_learning(directory: str):
    sae, _ = load_dictionary(directory, "cpu")
    return sae.encode, lambda f, x: sae.decode(f)


def sparsify(directory: str):
    return coder(SparseCoder.load_from_disk(directory))


def coder(sae: SparseCoder):
    def encode(x):
        found = sae.encode(x)
        return torch.zeros(len(x), sae.num_latents).scatter_(1, found.top_indices, found.top_acts)

    return encode, lambda f, x: sae(x).sae_out


READERS = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}


def read(cases: list[dict]) -> int:
    failed = 0
    for case in cases:
        encode, decode = READERS[case["kind"]](case["directory"])
        expected = load_file(case["numbers"])
        x = expected["x"]
        f = encode(x)
        size = 1 + x.abs().amax(dim=1, keepdim=True)
        worst = max(
            float(((f - expected["f"]) / size).abs().max()),
            float(((decode(f, x) - expected["x_hat"]) / size).abs().max()),
        )
        failed += not worst <= 1e-5
        sys.stdout.write(f"{case['kind']:20} {Path(case['directory']).name:24} largest difference {worst:.1e}\n")
    return 1 if failed else 0


def at_random(module: torch.nn.Module) -> torch.nn.Module:
    """All parameters at random; what must be positive is."""
    with torch.no_grad():
        for name, t in module.named_parameters():
            t.copy_(torch.rand(t.shape) * 0.4 if name in ("threshold", "log_threshold") else 0.4 * torch.randn(t.shape))
    return module


def their_saelens():
    common = {"d_in": D, "d_sae": F}
    for name, config, make in [
        ("standard", standard_sae.StandardSAEConfig(**common), standard_sae.StandardSAE),
        ("untied", standard_sae.StandardSAEConfig(**common, apply_b_dec_to_input=False), standard_sae.StandardSAE),
        ("topk", topk_sae.TopKSAEConfig(**common, k=K), topk_sae.TopKSAE),
        ("topk-rescaled", topk_sae.TopKSAEConfig(**common, k=K, rescale_acts_by_decoder_norm=True), topk_sae.TopKSAE),
        ("jumprelu", jumprelu_sae.JumpReLUSAEConfig(**common), jumprelu_sae.JumpReLUSAE),
        ("gated", gated_sae.GatedSAEConfig(**common), gated_sae.GatedSAE),
        ("transcoder", transcoder.TranscoderConfig(**common, d_out=OUT, apply_b_dec_to_input=False), transcoder.Transcoder),
        ("skip_transcoder", transcoder.SkipTranscoderConfig(**common, d_out=OUT, apply_b_dec_to_input=False),
         transcoder.SkipTranscoder),
        ("jumprelu_transcoder", transcoder.JumpReLUTranscoderConfig(**common, d_out=OUT, apply_b_dec_to_input=False),
         transcoder.JumpReLUTranscoder),
        ("jumprelu_skip_transcoder", transcoder.JumpReLUSkipTranscoderConfig(**common, d_out=OUT, apply_b_dec_to_input=False),
         transcoder.JumpReLUSkipTranscoder),
    ]:  # fmt: skip
        sae = at_random(make(config))
        yield f"saelens-{name}", sae.save_model, saelens


def their_saelens_in_training():
    """Checkpoints of training, and what SAELens makes of them for use."""
    batch, nested = batchtopk_sae, matryoshka_batchtopk_sae
    for name, make, config in [
        ("batchtopk", batch.BatchTopKTrainingSAE, batch.BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=K)),
        ("batchtopk-raw", batch.BatchTopKTrainingSAE,
         batch.BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=K, rescale_acts_by_decoder_norm=False)),
        ("matryoshka_batchtopk", nested.MatryoshkaBatchTopKTrainingSAE,
         nested.MatryoshkaBatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=K, matryoshka_widths=[10, F])),
    ]:  # fmt: skip
        sae = at_random(make(config))
        sae.topk_threshold.fill_(0.2)

        def save(directory, sae=sae):
            sae.save_model(directory)
            sae.save_inference_model(f"{directory}.inference")

        yield f"saelens-{name}", save, lambda directory: saelens(f"{directory}.inference")


def their_dictionary_learning():
    for name, make in [
        ("AutoEncoder", lambda: dl.AutoEncoder(D, F)),
        ("AutoEncoderNew", lambda: dl.AutoEncoderNew(D, F)),
        ("GatedAutoEncoder", lambda: dl.GatedAutoEncoder(D, F)),
        ("JumpReluAutoEncoder", lambda: dl.JumpReluAutoEncoder(D, F)),
        ("AutoEncoderTopK", lambda: AutoEncoderTopK(D, F, K)),
        ("BatchTopKSAE", lambda: BatchTopKSAE(D, F, K)),
        ("MatryoshkaBatchTopKSAE", lambda: MatryoshkaBatchTopKSAE(D, F, K, [10, 20])),
    ]:
        sae = at_random(make())
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            sae.threshold.fill_(0.3)
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "k": K}

        def save(directory, sae=sae, trainer=trainer):
            Path(directory).mkdir()
            torch.save(sae.state_dict(), f"{directory}/ae.pt")
            Path(directory, "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))

        yield f"dictionary_learning-{name}", save, dictionary_learning


def their_sparsify():
    for name, config in [
        ("sae", SparseCoderConfig(num_latents=F, k=K)),
        ("expansion", SparseCoderConfig(expansion_factor=4, k=K)),
        ("transcoder", SparseCoderConfig(num_latents=F, k=K, transcode=True)),
        ("skip", SparseCoderConfig(num_latents=F, k=K, transcode=True, skip_connection=True)),
    ]:
        sae = at_random(SparseCoder(D, config))
        yield f"sparsify-{name}", sae.save_to_disk, sparsify


def write(directory: Path) -> int:
    torch.manual_seed(5)
    x = torch.cat([torch.randn(50, D), torch.zeros(2, D), 1e4 * torch.randn(4, D), -torch.rand(4, D)])
    for maker in (their_saelens, their_saelens_in_training, their_dictionary_learning, their_sparsify):
        for name, save, reader in maker():
            save(str(directory / name))
            encode, decode = reader(str(directory / name))
            f = encode(x)
            save_file({"x": x, "f": f.contiguous(), "x_hat": decode(f, x).contiguous()}, directory / f"{name}.numbers")
            sys.stdout.write(f"{name}\n")
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        verb, argument = sys.argv[1:]
        sys.exit(read(json.loads(Path(argument).read_text())) if verb == "read" else write(Path(argument)))
