"""Which ablations examples ask for: every activation that shows in a window, each place of a feature once.

Shape letters: m examples, w tokens of a window, n activations that show, j jobs: the different ones of them.
"""

from dataclasses import dataclass

import numpy as np

from monosem.features.examples import Examples
from monosem.sae.kernels.cpu import shared_out
from monosem.sae.kernels.numba_loops import ranged

TOGETHER = 4096
"""Examples that a thread takes at a time."""


@dataclass(frozen=True)
class Shown:
    """Activations that show in windows, by example and place. [n] each.

    column   of the token that it shows on, the next; w: on none, the example's token is the last of window or context
    own      whether it is the example's own token
    """

    example: np.ndarray
    column: np.ndarray
    place: np.ndarray
    act: np.ndarray
    own: np.ndarray


def shown_activations(examples: Examples, context_length: int) -> Shown:
    m = len(examples.place)
    given = (examples.place, examples.first, examples.width, examples.before, examples.acts, context_length)
    start = np.zeros(m + 1, np.int64)
    kinds = (np.int64, np.int64, np.int64, np.float32, np.bool_)
    shared_out(_show, m, *given, start, *(np.empty(0, kind) for kind in kinds), together=TOGETHER)
    np.cumsum(start, out=start)
    found = [np.empty(start[-1], kind) for kind in kinds]
    shared_out(_show, m, *given, start, *found, together=TOGETHER)
    return Shown(*found)


def jobs_of(feature: np.ndarray, place: np.ndarray, features: int, T: int) -> np.ndarray:
    """The ablation that each pair of feature and place asks for: numbers of the different ones, by their contexts.

    feature   ascending. int64 [n]
    """
    start, number = np.searchsorted(feature, np.arange(features + 1)), np.empty(len(place), np.int64)
    count = np.zeros(features, np.int64)
    shared_out(_distinct, features, start, place, number, count)
    number += (np.cumsum(count) - count)[feature]
    context = np.empty(count.sum(), np.int64)
    context[number] = place // T
    order = np.empty(len(context), np.int64)
    _counting_order(context, int(context.max(initial=-1)) + 1, order)
    return order[number]


@ranged
def _show(place, first, width, before, acts, length, start, example, column, place_out, act_out, own, lo, hi):
    """Of examples lo to hi, how many activations show, to start[i + 1]; or if there is room the activations, from
    start[i] on."""
    w, room = acts.shape[1], len(example) > 0
    for i in range(lo, hi):
        n, at_start = 0, first[i] % length == 0
        for c in range(w + 1):
            if c > width[i]:
                break
            act = before[i] if c == 0 else acts[i, c - 1]
            shows = c < width[i] and act > 0 and not (at_start and c == 0)
            is_own = first[i] + c - 1 == place[i]
            if not (shows or is_own):
                continue
            if room:
                e = start[i] + n
                example[e], column[e] = i, c if shows else w
                place_out[e], act_out[e], own[e] = first[i] + c - 1, act, is_own
            n += 1
        if not room:
            start[i + 1] = n


@ranged
def _distinct(start, place, number, count, lo, hi):
    """Of each feature's places, pairs start[f] to start[f + 1], the different ones in order, counted from 0.

    number   int64 [n] out: of each pair; count int64 [F] out: how many there are
    """
    for f in range(lo, hi):
        places = place[start[f] : start[f + 1]]
        n, order = -1, np.argsort(places)
        for i in range(len(order)):
            n += i == 0 or places[order[i]] != places[order[i - 1]]
            number[start[f] + order[i]] = n
        count[f] = n + 1


@ranged
def _counting_order(key, keys, out):
    """Where each of `key`, whole numbers below `keys`, comes in their order; of equal ones the first comes first."""
    at = np.zeros(keys + 1, np.int64)
    for i in range(len(key)):
        at[key[i] + 1] += 1
    for k in range(1, keys + 1):
        at[k] += at[k - 1]
    for i in range(len(key)):
        out[i] = at[key[i]]
        at[key[i]] += 1
