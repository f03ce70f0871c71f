"""The paper's host model: a one-layer decoder-only transformer with a ReLU MLP.

Sizes are those of Bricken et al. (2023), appendix "Transformer Training and Preprocessing":
d_model 128, MLP 512. What the paper leaves open is chosen here: 4 heads, learned positions,
pre-LayerNorm, an untied unembedding.

Shape letters: B contexts, T tokens, D d_model, H d_mlp, V vocabulary.

Hook points, in the order in which they are computed:

    resid_pre -> attn.z -> attn.out -> resid_mid -> mlp.pre -> mlp.post -> mlp.out -> resid_post
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monosem.host.model import Edits, UnknownHookPoint, captured
from monosem.host.points import POINTS, TRANSFORMER_LENS

HOOK_POINTS = POINTS


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the one-layer transformer."""

    vocab_size: int
    context_length: int
    d_model: int = 128
    d_mlp: int = 512
    n_heads: int = 4


class OneLayerTransformer(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(c.vocab_size, c.d_model)
        self.position = nn.Embedding(c.context_length, c.d_model)
        self.norm_attn = nn.LayerNorm(c.d_model)
        self.qkv = nn.Linear(c.d_model, 3 * c.d_model)
        self.attn_out = nn.Linear(c.d_model, c.d_model)
        self.norm_mlp = nn.LayerNorm(c.d_model)
        self.mlp_in = nn.Linear(c.d_model, c.d_mlp)
        self.mlp_out = nn.Linear(c.d_mlp, c.d_model)
        self.norm_final = nn.LayerNorm(c.d_model)
        self.unembed = nn.Linear(c.d_model, c.vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor, edits: Edits | None = None) -> Tensor:
        """Logits [B, T, V]. Each of `edits` is called with the tensor at its hook point; what it returns goes on."""
        return self.unembed(self.norm_final(self._residual(tokens_BT, edits or {})))

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def resolve(self, hook_point: str) -> str:
        """The short name: `mlp.post`, `blocks.0.mlp.post` and `blocks.0.mlp.hook_post` are one point."""
        name = hook_point.removeprefix("blocks.0.")
        name = {theirs: ours for ours, theirs in TRANSFORMER_LENS.items()}.get(name, name)
        if name in HOOK_POINTS:
            return name
        near = difflib.get_close_matches(name, HOOK_POINTS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownHookPoint(f"must be one of {', '.join(HOOK_POINTS)}{hint}")

    def place(self, hook_point: str) -> str:
        return hook_point

    def alias(self, hook_point: str) -> str:
        return f"blocks.0.{TRANSFORMER_LENS[hook_point]}"

    def capture(self, tokens_BT: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations [B, T, width] at each of `hook_points`; nothing after the last is computed."""
        return captured(self, tokens_BT, hook_points, in_place=False)

    def width(self, hook_point: str) -> int:
        """Size of the last dimension at `hook_point`."""
        return self.config.d_mlp if hook_point in ("mlp.pre", "mlp.post") else self.config.d_model

    def _residual(self, tokens_BT: Tensor, edits: Edits) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            return edits[name](x) if name in edits else x

        places = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = at("resid_pre", self.embed(tokens_BT) + self.position(places))
        z_BTD = at("attn.z", self._attend(self.norm_attn(x_BTD)))
        x_BTD = at("resid_mid", x_BTD + at("attn.out", self.attn_out(z_BTD)))
        pre_BTH = at("mlp.pre", self.mlp_in(self.norm_mlp(x_BTD)))
        post_BTH = at("mlp.post", F.relu(pre_BTH))
        return at("resid_post", x_BTD + at("mlp.out", self.mlp_out(post_BTH)))

    def _attend(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        heads = self.qkv(x_BTD).view(B, T, 3, self.config.n_heads, D // self.config.n_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return z.transpose(1, 2).reshape(B, T, D)
