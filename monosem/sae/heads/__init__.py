"""The head of each variant."""

from torch import Tensor

from monosem.sae.config import SaeConfig
from monosem.sae.heads.base import Back, Head, Now
from monosem.sae.heads.gated import Gated
from monosem.sae.heads.jumprelu import JumpRelu
from monosem.sae.heads.relu import Relu
from monosem.sae.heads.topk import BatchTopK, TopK
from monosem.sae.part import Part

__all__ = ["HEADS", "Back", "Head", "Now", "head_of"]

HEADS: dict[str, type[Head]] = {
    "relu": Relu,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "matryoshka": BatchTopK,
    "jumprelu": JumpRelu,
    "gated": Gated,
}


def head_of(config: SaeConfig, params: dict[str, Tensor], now: Now | None = None) -> Head:
    """The head of a config's variant for some slots, all features in one part."""
    head = HEADS[config.variant](config, params, now or Now())
    head.part = Part(config.d_sae)
    return head
