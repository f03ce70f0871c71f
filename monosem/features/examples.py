"""Which activations of a feature are shown: the published 13 groups, by a random sample that no order can change.

Bricken et al. 2023: per feature the tokens with the largest activations, and a random sample of its activating tokens;
the intervals and the bottom group are chosen from the sample, the histogram is of it. Sampling is by the smallest of
counter-based random words, so parts may come in any slices. Shape letters: F features of the slice, m examples.
"""

from dataclasses import dataclass

import numpy as np

from monosem.features import loops, schema
from monosem.features.entries import Entries
from monosem.sae.kernels.cpu import shared_out


@dataclass(frozen=True)
class Choice:
    """How many examples: of `top`, of each interval, of `bottom`; the sample's size; tokens on each side."""

    top: int = 20
    interval: int = 5
    bottom: int = 20
    sample: int = 1000
    beside: int = 4
    seed: int = 0

    @property
    def places(self) -> int:
        """Of a feature at most."""
        return self.top + schema.INTERVALS * self.interval + self.bottom

    @property
    def group_of(self) -> np.ndarray:
        """Group of each place. int8 [places]."""
        sizes = [self.top, *[self.interval] * schema.INTERVALS, self.bottom]
        return np.repeat(np.arange(len(sizes), dtype=np.int8), sizes)

    @property
    def rank_of(self) -> np.ndarray:
        sizes = [self.top, *[self.interval] * schema.INTERVALS, self.bottom]
        return np.concatenate([np.arange(size, dtype=np.int8) for size in sizes])


@dataclass(frozen=True)
class Examples:
    """m examples, by feature, group and rank.

    feature, group, rank   [m] int32 in the slice, int8, int8
    place, first, width    [m] int64: the example's token, the window's first token, tokens in the window
    before                 [m] float32: activation on the token before the window; 0 if there is none
    acts                   [m, 2 beside + 1] float32; zero beyond the width
    repeated               [m] bool: an example of an earlier group already
    """

    feature: np.ndarray
    group: np.ndarray
    rank: np.ndarray
    place: np.ndarray
    first: np.ndarray
    width: np.ndarray
    before: np.ndarray
    acts: np.ndarray
    repeated: np.ndarray


def choose(entries: Entries, first_feature: int, choice: Choice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(picks int64 [F, places], histogram int32 [F, BUCKETS], its upper end float32 [F])."""
    F = entries.features
    picks = np.full((F, choice.places), -1, np.int64)
    hist, high = np.zeros((F, schema.BUCKETS), np.int32), np.zeros(F, np.float32)
    shared_out(
        loops.choose, F, entries.start, entries.place, entries.value, first_feature, choice.seed, choice.sample,
        choice.top, choice.interval, choice.bottom, schema.INTERVALS, picks, hist, high,
    )  # fmt: skip
    return picks, hist, high


def cut_windows(entries: Entries, picks: np.ndarray, choice: Choice, context_length: int) -> Examples:
    """The windows around picked entries."""
    feature, at = np.nonzero(picks >= 0)
    chosen, beside = picks[feature, at], choice.beside
    first, acts = np.empty(len(chosen), np.int64), np.zeros((len(chosen), 2 * beside + 2), np.float32)
    shared_out(
        loops.windows, len(chosen), entries.start, entries.place, entries.value, chosen, feature, context_length,
        beside, first, acts, together=4096,
    )  # fmt: skip
    place = entries.place[chosen]
    end = np.minimum(place + beside + 1, (place // context_length + 1) * context_length)
    return Examples(
        feature.astype(np.int32),
        choice.group_of[at],
        choice.rank_of[at],
        place,
        first,
        (end - first).astype(np.int64),
        acts[:, 0],
        acts[:, 1:],
        _repeated(picks)[feature, at],
    )


def _repeated(picks: np.ndarray) -> np.ndarray:
    """Whether the same entry stands further left in its row. bool, shape of picks."""
    order = np.argsort(picks, axis=1, kind="stable")
    ordered = np.take_along_axis(picks, order, axis=1)
    again = np.zeros(picks.shape, bool)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    out = np.zeros(picks.shape, bool)
    np.put_along_axis(out, order, again, axis=1)
    return out


def single_tokens(examples: Examples, tokens: np.ndarray, features: int, top: int) -> np.ndarray:
    """The token that is the strongest of each of a feature's `top` examples; -1 if there is no one such, or fewer.

    tokens   of the windows, [m, 2 beside + 1]. Bricken et al. 2023: single-token features. int64 [features]
    """
    is_top = examples.group == 0
    strongest = tokens[np.arange(len(tokens)), examples.acts.argmax(axis=1)][is_top].astype(np.int64)
    feature = examples.feature[is_top]
    count = np.bincount(feature, minlength=features)
    low, high = np.full(features, np.iinfo(np.int64).max), np.full(features, -1)
    np.minimum.at(low, feature, strongest)
    np.maximum.at(high, feature, strongest)
    return np.where((count == top) & (low == high), high, -1)
