"""The tables of one slice of a dictionary's features, from the entries of all tokens.

Shape letters: F features of the slice, D width of the rows, N tokens of the pass.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.features import loops
from monosem.features.ablate import Effects
from monosem.features.entries import Entries
from monosem.features.examples import Choice, Examples, choose, cut_windows, single_tokens
from monosem.features.logits import LogitEffects
from monosem.features.tables import Ragged, Values
from monosem.sae.kernels.cpu import shared_out
from monosem.sae.model import Sae

ULTRALOW = 1e-6
"""Density below which an active feature is in the ultralow-density cluster. Bricken et al. 2023."""
NEURONS = 3
"""Coordinates listed. As published."""


@dataclass(frozen=True)
class Rows:
    """Of the rows at a hook point: how many, sums of coordinates and of their squares, float64 [D]."""

    n: int
    total: np.ndarray
    square: np.ndarray

    @property
    def variance(self) -> float:
        """Mean squared distance from the mean row."""
        return float((self.square.sum() - (self.total**2).sum() / self.n) / self.n)


@dataclass(frozen=True)
class Sums:
    """Of each feature: sums of activations and of their squares, the largest, tokens by domain [F, domains]."""

    total: np.ndarray
    square: np.ndarray
    most: np.ndarray
    domains: np.ndarray


def sum_entries(entries: Entries, domain_N: np.ndarray, domains: int) -> Sums:
    F = entries.features
    out = Sums(np.zeros(F), np.zeros(F), np.zeros(F, np.float32), np.zeros((F, domains), np.int64))
    arrays = (out.total, out.square, out.most, out.domains)
    shared_out(loops.sums, F, entries.start, entries.place, entries.value, domain_N, *arrays)
    return out


@dataclass(frozen=True)
class Picked:
    """Examples of a slice of features, and what was found on the way."""

    entries: Entries
    examples: Examples
    hist: np.ndarray
    hist_hi: np.ndarray


def pick(entries: Entries, first_feature: int, choice: Choice, context_length: int) -> Picked:
    picks, hist, high = choose(entries, first_feature, choice)
    return Picked(entries, cut_windows(entries, picks, choice, context_length), hist, high)


def window_tokens(examples: Examples, tokens_NT: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Token ids of the windows, int32 [m, w]; beyond a window's width the context's last.

    tokens_NT   of the token index; contexts: which of its rows each context of the pass is
    """
    T = tokens_NT.shape[1]
    column = np.minimum(examples.first[:, None] % T + np.arange(examples.acts.shape[1])[None, :], T - 1)
    return tokens_NT[contexts[examples.first // T][:, None], column].astype(np.int32)


def example_columns(
    examples: Examples, first_feature: int, tokens: np.ndarray, contexts: np.ndarray, T: int, domain_N: np.ndarray,
    effects: Effects | None, only_top: bool,
) -> dict[str, Values]:  # fmt: skip
    """Columns of EXAMPLES.

    contexts   contexts of the token index, by number in the pass; domain_N: domain of each place
    effects    None: no ablations; only_top: none but those of the group `top`
    """
    e, width = examples, examples.width
    none = np.ones(len(width), bool) if effects is None else (e.group > 0) & only_top
    k = np.full(len(width), 0 if effects is None else effects.up.shape[1])
    effects = effects or Effects.empty(*e.acts.shape)
    return {
        "feature": e.feature + np.int32(first_feature),
        "group": e.group,
        "rank": e.rank,
        "context": contexts[e.place // T].astype(np.int32),
        "position": (e.place % T).astype(np.int32),
        "centre": (e.place - e.first).astype(np.int8),
        "domain": domain_N[e.place],
        "tokens": Ragged.cut(tokens, width),
        "activations": Ragged.cut(e.acts, width),
        "loss_effects": Ragged.cut(effects.loss, width, none),
        "up_tokens": Ragged.cut(effects.up, k, none),
        "up_values": Ragged.cut(effects.up_values, k, none),
        "down_tokens": Ragged.cut(effects.down, k, none),
        "down_values": Ragged.cut(effects.down_values, k, none),
        "repeated": e.repeated,
    }


@dataclass(frozen=True)
class Correlated:
    """Over the tokens of correlations, float64: cross_FD sums of activation times coordinate, stats [2, F] sums of
    activations and of their squares, and sums of the rows."""

    cross_FD: np.ndarray
    stats: np.ndarray
    rows: Rows


@dataclass(frozen=True)
class Surroundings:
    """What the features of a slice are described by, beside their entries.

    rows          at the hook point that is read
    written       at the hook point that the decoder writes to, for autoencoders the same
    correlated    what correlations with its coordinates are made of; None: no neurons there
    logits        None: no direct path to the logits
    neurons       whether the decoder writes to neurons
    """

    rows: Rows
    written: Rows
    correlated: Correlated | None
    logits: LogitEffects | None
    neurons: bool


def feature_columns(
    sae: Sae, lo: int, picked: Picked, sums: Sums, around: Surroundings, tokens: np.ndarray, top: int, vocab: list[str]
) -> dict[str, Values]:
    """Columns of FEATURES, of features [lo, lo + F). `tokens`: ids of the examples' windows."""
    F, n = picked.entries.features, around.rows.n
    d = sae.W_dec[lo : lo + F]
    norm = d.double().norm(dim=1).numpy()
    active = np.diff(picked.entries.start)
    density, label = active / n, single_tokens(picked.examples, tokens, F, top)
    ultralow = (active > 0) & (density < ULTRALOW)
    power = sums.square * norm**2 / n
    found = {
        "feature": np.arange(lo, lo + F, dtype=np.int32),
        "density": density,
        "n_active": active,
        "max_activation": sums.most,
        "mean_activation": (sums.total / np.maximum(active, 1)).astype(np.float32),
        "dead": active == 0,
        "ultralow": ultralow if n >= 1 / ULTRALOW else None,
        "label": [vocab[t] if t >= 0 else None for t in label],
        "label_token": [int(t) if t >= 0 else None for t in label],
        "importance": power / around.written.variance if around.written.variance > 0 else np.zeros(F),
        "decoder_norm": norm.astype(np.float32),
        "encoder_bias": sae.b_enc[lo : lo + F].numpy(),
        "encoder_cosine": _encoder_cosine(sae, lo, lo + F),
        "act_hist_counts": picked.hist,
        "act_hist_lo": np.zeros(F, np.float32),
        "act_hist_hi": picked.hist_hi,
        "n_examples": np.bincount(picked.examples.feature, minlength=F).astype(np.int32),
        "domain_counts": sums.domains,
    }
    return found | _logit_columns(around.logits) | _neuron_columns(d, norm, around)


def _encoder_cosine(sae: Sae, lo: int, hi: int) -> np.ndarray | None:
    if sae.config.transcoder:
        return None
    e, d = sae.W_enc[:, lo:hi].T.double(), sae.W_dec[lo:hi].double()
    return torch.nn.functional.cosine_similarity(e, d, dim=1).float().numpy()


def _logit_columns(found: LogitEffects | None) -> dict[str, Values]:
    names = ("hist_counts", "hist_lo", "hist_hi", "tokens", "values", "tokens", "values")
    ends = ("logit_", "logit_", "logit_", "top_logit_", "top_logit_", "bottom_logit_", "bottom_logit_")
    keys = [end + name for end, name in zip(ends, names, strict=True)]
    if found is None:
        return dict.fromkeys(keys)
    values = (found.counts, found.lo, found.hi, found.top, found.top_values, found.bottom, found.bottom_values)
    return dict(zip(keys, values, strict=True))


def _neuron_columns(d_FD: Tensor, norm: np.ndarray, around: Surroundings) -> dict[str, Values]:
    keys = ("indices", "weights", "cosines", "l1_shares")
    found: dict[str, Values] = dict.fromkeys([f"neuron_{key}" for key in keys])
    found |= dict.fromkeys(["correlated_neuron_indices", "correlated_neuron_r", "correlated_neuron_cosines"])
    d = d_FD.numpy()
    cosine = d / np.maximum(norm, 1e-30)[:, None]
    if around.neurons:
        at = _largest(np.abs(d), NEURONS)
        weight = np.take_along_axis(d, at, axis=1)
        share = np.abs(weight) / np.maximum(np.abs(d).sum(axis=1, keepdims=True), 1e-30)
        cosines = np.take_along_axis(cosine, at, axis=1)
        values = (at.astype(np.int32), weight, cosines.astype(np.float32), share.astype(np.float32))
        found |= {f"neuron_{key}": value for key, value in zip(keys, values, strict=True)}
    if around.correlated is not None:
        r = pearson(around.correlated)
        at = _largest(r, NEURONS)
        dead = around.correlated.stats[0] == 0
        count = np.where(dead, 0, at.shape[1])
        found["correlated_neuron_indices"] = Ragged.cut(at, count, dead)
        chosen = np.take_along_axis(r, at, axis=1).astype(np.float32)
        found["correlated_neuron_r"] = Ragged.cut(chosen, count, dead)
        if around.neurons and around.written is around.rows:  # the same neurons
            cosines = np.take_along_axis(cosine, at, axis=1).astype(np.float32)
            found["correlated_neuron_cosines"] = Ragged.cut(cosines, count, dead)
    return found


def pearson(c: Correlated) -> np.ndarray:
    """Correlation of each feature with each coordinate, float64 [F, D]; -1 where either is constant."""
    n, (total, square) = c.rows.n, c.stats
    product = (square - total**2 / n)[:, None] * (c.rows.square - c.rows.total**2 / n)[None, :]
    covariance = c.cross_FD - total[:, None] * c.rows.total[None, :] / n
    return np.where(product > 0, covariance / np.sqrt(np.where(product > 0, product, 1.0)), -1.0)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest of each row, largest first, of equal ones the first. int32 [n, k]."""
    k = min(k, values.shape[1])
    ends = tuple(np.zeros((len(values), k), kind) for kind in (np.int32, values.dtype) * 2)
    shared_out(loops.extremes, len(values), np.ascontiguousarray(values), k, *ends)
    return ends[0]
