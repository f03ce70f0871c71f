"""Loss recovered: how much of what the hook point is worth survives the dictionary's reconstruction.

    loss recovered = (zero-ablated - spliced) / (zero-ablated - clean)         Bricken et al. 2023

in nats of next-token loss on held-out text. 1 is a perfect reconstruction, 0 is no better than zeros. A transcoder
reads its hook point in an untouched pass, and what it makes of it is spliced in, or ablated, at its target.

    KL = sum over the vocabulary of p_clean log(p_clean / p_edited), in nats, mean over all positions (as in SAELens)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.evals.sparsity import row_chunks
from monosem.host.model import HostModel, next_token_loss
from monosem.sae.model import Sae
from monosem.text.selection import NONE_SKIPPED, Skipped

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recovered:
    """Mean next-token losses, in nats, and divergences of the next token's distribution from the untouched host's.

    mean_ablated   every row replaced by the mean row of the same text
    """

    clean: float
    spliced: float
    zero_ablated: float
    mean_ablated: float = float("nan")
    kl: float = float("nan")
    kl_zero_ablated: float = float("nan")

    @property
    def loss_recovered(self) -> float:
        """NaN where taking the hook point away changes nothing."""
        worth = self.zero_ablated - self.clean
        return (self.zero_ablated - self.spliced) / worth if worth else float("nan")


@torch.no_grad()
def finite_contexts(model: HostModel, batches: Sequence[Tensor]) -> list[Tensor]:
    """The contexts of token batches [B, T] for which the untouched host gives numbers, as masked rows are left out."""
    kept = [tokens[torch.isfinite(model(tokens, {})).flatten(1).all(dim=1)] for tokens in batches]
    return [tokens for tokens in kept if len(tokens)]


@torch.no_grad()
def edited_loss(
    model: HostModel, batches: Sequence[Tensor], hook_point: str, edit_of: Callable[[Tensor], Edit]
) -> float:
    """Mean loss over token batches [B, T] under an edit at the hook point, made for each batch. NaN without batches."""
    total, contexts = 0.0, 0
    for tokens in batches:
        total += float(next_token_loss(model(tokens, {hook_point: edit_of(tokens)}), tokens)) * len(tokens)
        contexts += len(tokens)
    return total / contexts if contexts else float("nan")


class RecoveredMeter:
    """Measures many dictionaries on the same text; clean and ablated figures are computed once.

    Contexts for which the host itself gives no numbers are left out; `contexts` is how many there are without them.
    At skipped positions no edit changes anything.
    """

    def __init__(
        self, model: HostModel, batches: Sequence[Tensor], hook_point: str, target: str | None = None,
        skipped: Skipped = NONE_SKIPPED,
    ):  # fmt: skip
        self.model, self.hook_point, self.target, self.skipped = model, hook_point, target, skipped
        self.batches = finite_contexts(model, batches)
        self.contexts = sum(map(len, self.batches))
        self.spliced_point = target or hook_point
        mean_W = self._mean_row()
        self.clean = self._loss(lambda x: x)
        self.mean_ablated = self._loss(lambda x: mean_W.expand_as(x).to(x.dtype))
        self.zero_ablated, self.kl_zero_ablated = self._edited(lambda tokens: torch.zeros_like)

    def _loss(self, edit: Edit) -> float:
        return edited_loss(self.model, self.batches, self.spliced_point, lambda tokens: self._kept(tokens, edit))

    def _kept(self, tokens: Tensor, edit: Edit) -> Edit:
        """The edit at the positions that are not skipped."""
        if not self.skipped:
            return edit
        kept = torch.from_numpy(self.skipped.kept(tokens.cpu().numpy())).to(tokens.device)[..., None]
        return lambda x: torch.where(kept.to(x.device), edit(x), x)

    def measure(self, sae: Sae) -> Recovered:
        spliced, kl = self._edited(lambda tokens: self._splice(sae, tokens))
        return Recovered(self.clean, spliced, self.zero_ablated, self.mean_ablated, kl, self.kl_zero_ablated)

    @torch.no_grad()
    def _edited(self, edit_of: Callable[[Tensor], Edit]) -> tuple[float, float]:
        """Mean loss, and mean divergence from the untouched host, under an edit made for each batch of tokens."""
        loss = kl = 0.0
        contexts = 0
        for tokens in self.batches:
            logits = self.model(tokens, {self.spliced_point: self._kept(tokens, edit_of(tokens))})
            loss += float(next_token_loss(logits, tokens)) * len(tokens)
            kl += float(divergence(self.model(tokens, {}), logits).mean()) * len(tokens)
            contexts += len(tokens)
        return (loss / contexts, kl / contexts) if contexts else (float("nan"), float("nan"))

    def _splice(self, sae: Sae, tokens: Tensor) -> Edit:
        """An edit that puts in what the dictionary makes of the hook point in an untouched pass."""
        if self.target is None:
            return lambda x: self._output(sae, x, x)
        x = self.model.capture(tokens, [self.hook_point])[self.hook_point]
        return lambda y: self._output(sae, x, y)

    @torch.no_grad()
    def _mean_row(self) -> Tensor:
        """The mean of the rows in whose place dictionaries are spliced in. float64 [W], sums in float64."""
        total, rows = torch.zeros((), dtype=torch.float64), 0
        for tokens in self.batches:
            x = self.model.capture(tokens, [self.spliced_point])[self.spliced_point].flatten(0, 1)
            if self.skipped:
                x = x[torch.from_numpy(self.skipped.kept(tokens.cpu().numpy())).flatten().to(x.device)]
            total, rows = x.double().sum(dim=0) + total.to(x.device), rows + len(x)
        return total / rows

    def _output(self, sae: Sae, x: Tensor, like: Tensor) -> Tensor:
        """The dictionary's output for x [..., d_in], in the shape and dtype of `like` [..., d_out]."""
        rows = x.to(sae.W_enc.dtype).flatten(0, -2)
        return torch.cat([sae(piece) for piece in row_chunks(rows, sae.config.d_sae)]).view_as(like).to(like.dtype)


def divergence(clean_BTV: Tensor, edited_BTV: Tensor) -> Tensor:
    """KL(clean || edited) of the next token's distribution at every position, nats [B, T]."""
    log_p, log_q = (logits.float().log_softmax(dim=-1) for logits in (clean_BTV, edited_BTV))
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
