"""Tiny Hugging Face models with random weights and a real tokenizer, written as a directory.

`make_host(directory, family, precision)` is for any test that needs such a host.
"""

import json
from pathlib import Path

import torch

from monosem.text.tokens import END_OF_TEXT, train_tokenizer

VOCABULARY, WIDTH, HEADS, MLP, LAYERS, CONTEXT = 300, 32, 4, 48, 3, 64
TEXTS = [f"the small river {i} follows a quiet engine and every bridge reaches another harbour" for i in range(40)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_COMMON = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
_SIZES = dict(
    _COMMON,
    hidden_size=WIDTH,
    intermediate_size=MLP,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    max_position_embeddings=CONTEXT,
)
_GROUPED = dict(_SIZES, num_key_value_heads=2, head_dim=WIDTH // HEADS)
_GEMMA = dict(_GROUPED, head_dim=12, query_pre_attn_scalar=12, sliding_window=8)
FAMILIES: dict[str, tuple[str, dict]] = {
    "gpt2": ("gpt2", dict(_COMMON, n_embd=WIDTH, n_inner=MLP, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT)),
    "gpt_neox": ("gpt_neox", dict(_SIZES, use_parallel_residual=True)),
    "gpt_neox_serial": ("gpt_neox", dict(_SIZES, use_parallel_residual=False)),
    "llama": ("llama", _GROUPED),
    "mistral": ("mistral", dict(_GROUPED, sliding_window=8)),
    "gemma": ("gemma", dict(_GROUPED, head_dim=12)),
    "gemma2": ("gemma2", _GEMMA),
    "gemma3_text": ("gemma3_text", _GEMMA),
    "qwen2": ("qwen2", dict(_SIZES, num_key_value_heads=2)),
    "qwen3": ("qwen3", _GROUPED),
    "phi3": ("phi3", dict(_SIZES, num_key_value_heads=2)),
}
"""By family: transformers' model type, and the sizes of a tiny one."""


def make_host(directory: Path, family: str, precision: str = "fp32", seed: int = 0) -> Path:
    """Write a random model of `family` with its tokenizer to `directory` (made if need be), and return it."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    for p in model.parameters():  # transformers starts norms and biases at 0 and 1, where mistakes would not show
        p.data.add_(torch.randn_like(p) * 0.1)
    model.to(DTYPES[precision]).save_pretrained(directory)
    add_tokenizer(directory)
    return Path(directory)


def add_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer whose token 0 ends and begins texts."""
    train_tokenizer(TEXTS, VOCABULARY).save(str(Path(directory) / "tokenizer.json"))
    names = {"eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
    (Path(directory) / "tokenizer_config.json").write_text(json.dumps(names))
