"""Loss recovered: how much of what the hook point is worth survives the dictionary's reconstruction.

    loss recovered = (zero-ablated - spliced) / (zero-ablated - clean)         Bricken et al. 2023

in nats of next-token loss on held-out text. 1 is a perfect reconstruction, 0 is no better than zeros. A transcoder
reads its hook point in an untouched pass, and what it makes of it is spliced in, or ablated, at its target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.evals.sparsity import row_chunks
from monosem.host.model import HostModel, next_token_loss
from monosem.sae.model import Sae

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recovered:
    """Mean next-token losses, in nats."""

    clean: float
    spliced: float
    zero_ablated: float

    @property
    def loss_recovered(self) -> float:
        return (self.zero_ablated - self.spliced) / (self.zero_ablated - self.clean)


@torch.no_grad()
def edited_loss(model: HostModel, batches: Sequence[Tensor], hook_point: str, edit: Edit) -> float:
    """Mean loss over token batches [B, T] with `edit` applied at the hook point."""
    total, contexts = 0.0, 0
    for tokens in batches:
        total += float(next_token_loss(model(tokens, {hook_point: edit}), tokens)) * len(tokens)
        contexts += len(tokens)
    return total / contexts


class RecoveredMeter:
    """Measures many dictionaries on the same text; clean and zero-ablated loss are computed once."""

    def __init__(self, model: HostModel, batches: Sequence[Tensor], hook_point: str, target: str | None = None):
        self.model, self.batches, self.hook_point, self.target = model, batches, hook_point, target
        self.clean = edited_loss(model, batches, target or hook_point, lambda x: x)
        self.zero_ablated = edited_loss(model, batches, target or hook_point, torch.zeros_like)

    def measure(self, sae: Sae) -> Recovered:
        if self.target is None:
            spliced = edited_loss(self.model, self.batches, self.hook_point, lambda x: self._output(sae, x, x))
        else:
            spliced = sum(len(tokens) * self._transcoded(sae, tokens) for tokens in self.batches)
            spliced /= sum(map(len, self.batches))
        return Recovered(self.clean, spliced, self.zero_ablated)

    @torch.no_grad()
    def _transcoded(self, sae: Sae, tokens: Tensor) -> float:
        """Mean loss of a batch with the target replaced by what the dictionary makes of the hook point."""
        x = self.model.capture(tokens, [self.hook_point])[self.hook_point]
        return edited_loss(self.model, [tokens], self.target, lambda y: self._output(sae, x, y))

    def _output(self, sae: Sae, x: Tensor, like: Tensor) -> Tensor:
        """The dictionary's output for x [..., d_in], in the shape and dtype of `like` [..., d_out]."""
        rows = x.to(sae.W_enc.dtype).flatten(0, -2)
        return torch.cat([sae(piece) for piece in row_chunks(rows, sae.config.d_sae)]).view_as(like).to(like.dtype)
