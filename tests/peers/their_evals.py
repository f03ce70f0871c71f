"""Runs in the peers' environment: SAELens' `run_evals` on a dictionary of monosem's, over a TransformerLens copy of its host.

    .venv-peers/bin/python tests/peers/their_evals.py DICTIONARY HOST TOKENS.safetensors

HOST is a host directory of monosem's (config.json, model.safetensors); TOKENS holds `tokens`, int64 [contexts, T]. Prints
the metrics as one JSON document on the last line.
"""

import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig


def their_host(directory: str) -> HookedTransformer:
    """The one-layer transformer with the same weights, as TransformerLens computes it."""
    sizes = json.loads(Path(directory, "config.json").read_text())["sizes"]
    w = {name: t.float() for name, t in load_file(Path(directory, "model.safetensors")).items()}
    d, heads = sizes["d_model"], sizes["n_heads"]
    config = HookedTransformerConfig(
        n_layers=1, d_model=d, n_ctx=sizes["context_length"], d_head=d // heads, n_heads=heads, d_mlp=sizes["d_mlp"],
        d_vocab=sizes["vocab_size"], act_fn="relu", normalization_type="LN", device="cpu", default_prepend_bos=False,
    )  # fmt: skip
    model = HookedTransformer(config)
    q, k, v = w["qkv.weight"].view(3, heads, d // heads, d)
    bq, bk, bv = w["qkv.bias"].view(3, heads, d // heads)
    block = "blocks.0"
    state = model.state_dict()
    state |= {
        "embed.W_E": w["embed.weight"],
        "pos_embed.W_pos": w["position.weight"],
        f"{block}.ln1.w": w["norm_attn.weight"],
        f"{block}.ln1.b": w["norm_attn.bias"],
        f"{block}.attn.W_Q": q.transpose(1, 2),
        f"{block}.attn.W_K": k.transpose(1, 2),
        f"{block}.attn.W_V": v.transpose(1, 2),
        f"{block}.attn.b_Q": bq,
        f"{block}.attn.b_K": bk,
        f"{block}.attn.b_V": bv,
        f"{block}.attn.W_O": w["attn_out.weight"].T.reshape(heads, d // heads, d),
        f"{block}.attn.b_O": w["attn_out.bias"],
        f"{block}.ln2.w": w["norm_mlp.weight"],
        f"{block}.ln2.b": w["norm_mlp.bias"],
        f"{block}.mlp.W_in": w["mlp_in.weight"].T,
        f"{block}.mlp.b_in": w["mlp_in.bias"],
        f"{block}.mlp.W_out": w["mlp_out.weight"].T,
        f"{block}.mlp.b_out": w["mlp_out.bias"],
        "ln_final.w": w["norm_final.weight"],
        "ln_final.b": w["norm_final.bias"],
        "unembed.W_U": w["unembed.weight"].T,
        "unembed.b_U": torch.zeros(sizes["vocab_size"]),
    }
    model.load_state_dict(state)
    return model.eval()


class Text:
    """Given tokens in the place of SAELens' store of activations: all contexts are one batch."""

    def __init__(self, tokens: torch.Tensor):
        self.tokens, self.store_batch_size_prompts, self.context_size = tokens, len(tokens), tokens.shape[1]

    def reset_input_dataset(self) -> None:
        """Every batch is the same."""

    def get_batch_tokens(self, n: int) -> torch.Tensor:
        return self.tokens[:n]


def main(dictionary: str, host: str, tokens_file: str) -> None:
    sae = SAE.load_from_disk(dictionary)
    tokens = load_file(tokens_file)["tokens"]
    config = get_eval_everything_config(len(tokens), 1, 1)
    config.compute_featurewise_weight_based_metrics = False
    metrics, features = run_evals(
        sae, Text(tokens), their_host(host), ActivationScaler(), config, exclude_special_tokens=False
    )
    sys.stdout.write("\n" + json.dumps({"metrics": metrics, "density": features["feature_density"]}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
