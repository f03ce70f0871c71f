"""Evaluate a dictionary on held-out text: one record of figures and the feature densities."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from monosem.config.job import EvalConfig
from monosem.evals.recovered import RecoveredMeter
from monosem.evals.sparsity import density_histogram, measure_sparsity
from monosem.host.model import HostModel
from monosem.sae.model import Sae
from monosem.text.index import context_tokens
from monosem.text.tokens import TokenIndex

LOGITS_AT_ONCE = 1 << 26
"""Logits held at a time: with a large vocabulary, fewer contexts go through the host together."""


def batch_contexts(context_length: int, vocab_size: int) -> int:
    """Contexts of one batch of an evaluation: 16, or as many as LOGITS_AT_ONCE allows."""
    return max(1, min(16, LOGITS_AT_ONCE // (context_length * vocab_size)))


@dataclass(frozen=True)
class Evaluation:
    metrics: dict
    density_F: Tensor


class Evaluator:
    """Holds the held-out text and rows of one host and hook point; measures any number of dictionaries.

    target   the hook point that transcoders reconstruct; None for autoencoders
    """

    def __init__(
        self, model: HostModel, heldout: TokenIndex, hook_point: str, config: EvalConfig, target: str | None = None
    ):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.hook_point, self.config = model.to(self.device), hook_point, config
        self.heldout = heldout
        self.target = target
        self.meter = RecoveredMeter(model, self._batches(config.contexts), hook_point, target)

    def measure(self, sae: Sae) -> Evaluation:
        """Figures of a dictionary: l0, fvu, loss recovered, dead and ultralow fractions, density histogram."""
        sae = sae.to(self.device)
        sparsity = measure_sparsity(sae, self._rows())
        recovered = self.meter.measure(sae)
        metrics = {
            "l0": sparsity.l0,
            "fvu": sparsity.fvu,
            "loss_recovered": recovered.loss_recovered,
            "loss_clean": recovered.clean,
            "loss_spliced": recovered.spliced,
            "loss_zero_ablated": recovered.zero_ablated,
            "dead_fraction": sparsity.dead_fraction,
            "ultralow_fraction": sparsity.ultralow_fraction,
            "heldout_rows": sparsity.rows,
            "neurons_l0": self.neurons_l0,
            "density_histogram": density_histogram(sparsity.density_F),
        }
        return Evaluation(metrics, sparsity.density_F)

    @cached_property
    def neurons_l0(self) -> float:
        """Mean number of non-zero coordinates of a row at the hook point: the baseline to compare L0 with."""
        active, rows = 0, 0
        for x, _ in self._rows():
            active += int(torch.count_nonzero(x))
            rows += len(x)
        return active / rows

    def _rows(self):
        """Held-out activations and what is to be reconstructed: all tokens of as many contexts as `rows` asks for."""
        points = [self.hook_point] if self.target is None else [self.hook_point, self.target]
        contexts = -(-self.config.rows // self.heldout.tokens_NT.shape[1])
        left = self.config.rows
        for batch in self._batches(contexts):
            captured = self.model.capture(batch, points)
            found = [captured[name].flatten(0, 1)[:left].float() for name in points]
            finite = torch.stack([torch.isfinite(rows).all(dim=1) for rows in found]).all(dim=0)
            left -= len(finite)
            yield found[0][finite], found[-1][finite]

    def _batches(self, n_contexts: int) -> list[Tensor]:
        n = min(n_contexts, len(self.heldout.tokens_NT))
        ids = np.arange(n)
        size = batch_contexts(self.heldout.tokens_NT.shape[1], self.model.vocab_size)
        return [context_tokens(self.heldout, ids[i : i + size]).to(self.device) for i in range(0, n, size)]
