"""Evaluate a dictionary on held-out text: one record of figures and the feature densities."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from monosem.config.job import EvalConfig
from monosem.evals.recovered import RecoveredMeter
from monosem.evals.sparsity import DENSE, density_histogram, measure_sparsity
from monosem.host.model import HostModel
from monosem.memory import return_freed_memory
from monosem.rows.permute import EVALUATION, drawn
from monosem.sae.model import Sae
from monosem.text.domains import counted_domains
from monosem.text.index import context_tokens
from monosem.text.selection import NONE_SKIPPED, Skipped
from monosem.text.tokens import TokenIndex

LOGITS_AT_ONCE = 1 << 26
"""Logits held at a time: with a large vocabulary, fewer contexts go through the host together."""


def batch_contexts(context_length: int, vocab_size: int) -> int:
    """Contexts of one batch of an evaluation: 16, or as many as LOGITS_AT_ONCE allows."""
    return max(1, min(16, LOGITS_AT_ONCE // (context_length * vocab_size)))


def _finite(value: object) -> object:
    """A figure that is no number as None: JSON has none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Evaluation:
    metrics: dict
    density_F: Tensor


class Evaluator:
    """Holds the held-out text and rows of one host and hook point; measures any number of dictionaries.

    Contexts are a random sample of the held-out side, the same for every dictionary, whatever its seed: a corpus is
    often sorted.

    target    the hook point that transcoders reconstruct; None for autoencoders
    skipped   positions that dictionaries are not made for: they give no rows, and nothing is spliced in there
    """

    def __init__(
        self, model: HostModel, heldout: TokenIndex, hook_point: str, config: EvalConfig, target: str | None = None,
        skipped: Skipped = NONE_SKIPPED,
    ):  # fmt: skip
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.hook_point, self.config = model.to(self.device), hook_point, config
        self.heldout = heldout
        self.target, self.skipped = target, skipped
        self.meter = RecoveredMeter(model, self._batches(config.contexts), hook_point, target, skipped)

    def measure(self, sae: Sae) -> Evaluation:
        """Figures of a dictionary; `monosem evaluate` prints them, and each run's record holds them as `metrics`."""
        sae = sae.to(self.device)
        sparsity = measure_sparsity(sae, self._rows(), self.places[0])
        return_freed_memory()  # the meter's blocks are of other sizes
        recovered = self.meter.measure(sae)
        metrics = {
            "l0": sparsity.l0,
            "fvu": sparsity.fvu,
            "loss_recovered": recovered.loss_recovered,
            "loss_contexts": self.meter.contexts,
            "loss_clean": recovered.clean,
            "loss_spliced": recovered.spliced,
            "loss_zero_ablated": recovered.zero_ablated,
            "loss_mean_ablated": recovered.mean_ablated,
            "kl_divergence": recovered.kl,
            "kl_zero_ablated": recovered.kl_zero_ablated,
            "explained_variance": 1 - sparsity.fvu,
            "mse": sparsity.mse,
            "cosine": sparsity.cosine,
            "shrinkage": sparsity.shrinkage,
            "reconstruction_bias": sparsity.bias,
            "dead_fraction": sparsity.dead_fraction,
            "ultralow_fraction": sparsity.ultralow_fraction,
            "dense_fraction": sparsity.dense_fraction,
            "heldout_rows": sparsity.rows,
            "neurons_l0": self.neurons["l0"],
            "neurons": self.neurons,
            "density_histogram": density_histogram(sparsity.density_F),
            "domains": sparsity.domains,
        }
        metrics = {name: _finite(value) for name, value in metrics.items()}
        return Evaluation(metrics, sparsity.density_F)

    @cached_property
    def neurons(self) -> dict:
        """The baseline: coordinates of the rows as if they were features, active where they are not zero."""
        fired, rows = 0, 0
        for x, *_ in self._rows():
            fired, rows = fired + torch.count_nonzero(x, dim=0).double().cpu(), rows + len(x)
        density = fired / rows
        return {
            "l0": float(fired.sum()) / rows,
            "dead_fraction": float((density == 0).double().mean()),
            "dense_fraction": float((density > DENSE).double().mean()),
            "density_histogram": density_histogram(density),
        }

    @cached_property
    def places(self) -> tuple[list[str], Tensor, Tensor]:
        """Of all positions of the contexts of `_rows`: the domains' names, each one's domain, a place among them,
        int64, and whether it is looked at, bool: the first `rows` of those that are not skipped."""
        ids = self._chosen(self._contexts_of_rows())
        names, domain_NT = counted_domains(self.heldout, ids)
        kept = self.skipped.kept(self.heldout.tokens_NT[ids]).reshape(-1)
        kept &= np.cumsum(kept) <= self.config.rows
        return names, torch.from_numpy(domain_NT.reshape(-1).astype(np.int64)), torch.from_numpy(kept)

    def _contexts_of_rows(self) -> int:
        return -(-self.config.rows // max(1, self.heldout.tokens_NT.shape[1] - self.skipped.positions))

    def _rows(self):
        """Held-out activations, what is to be reconstructed, and domains: `rows` in all, less those that the host gives
        no numbers for."""
        points = [self.hook_point] if self.target is None else [self.hook_point, self.target]
        _, domain, kept = self.places
        seen = 0
        for batch in self._batches(self._contexts_of_rows()):
            at = slice(seen, seen + batch.numel())
            found = [x.flatten(0, 1)[kept[at].to(x.device)].float() for x in self._captured(batch, points)]
            finite = torch.stack([torch.isfinite(rows).all(dim=1) for rows in found]).all(dim=0)
            seen = at.stop
            if finite.any():
                yield found[0][finite], found[-1][finite], domain[at][kept[at]][finite.cpu()]

    def _captured(self, batch: Tensor, points: list[str]) -> list[Tensor]:
        captured = self.model.capture(batch, points)
        return [captured[name] for name in points]

    def _chosen(self, n_contexts: int) -> np.ndarray:
        """Which held-out contexts are looked at, ascending."""
        return np.sort(drawn(n_contexts, len(self.heldout.tokens_NT), 0, EVALUATION))

    def _batches(self, n_contexts: int) -> list[Tensor]:
        ids = self._chosen(n_contexts)
        size = batch_contexts(self.heldout.tokens_NT.shape[1], self.model.vocab_size)
        return [context_tokens(self.heldout, ids[i : i + size]).to(self.device) for i in range(0, len(ids), size)]
