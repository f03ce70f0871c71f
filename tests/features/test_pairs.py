"""Which ablations examples ask for, by going over every token of every window."""

import numpy as np
import pytest

from monosem.features.examples import Examples
from monosem.features.pairs import jobs_of, shown_activations

BESIDE = 4


def some_examples(m: int, T: int) -> Examples:
    """Windows anywhere in contexts of T tokens, with activations on some of their tokens and on the example's own."""
    rng, w = np.random.default_rng(T), 2 * BESIDE + 1
    place = rng.integers(0, 50 * T, m)
    start = place // T * T
    first, end = np.maximum(place - BESIDE, start), np.minimum(place + BESIDE + 1, start + T)
    acts = np.where(rng.random((m, w)) < 0.4, rng.random((m, w)), 0).astype(np.float32)
    acts[np.arange(w)[None, :] >= (end - first)[:, None]] = 0
    acts[np.arange(m), place - first] = 0.7
    before = np.where((first > start) & (rng.random(m) < 0.5), 0.3, 0).astype(np.float32)
    feature, other = np.sort(rng.integers(0, 7, m)).astype(np.int32), np.zeros(m, np.int8)
    return Examples(feature, other, other, place, first, end - first, before, acts, other.astype(bool))


def by_hand(e: Examples, T: int) -> list[tuple]:
    """An activation on token j shows on j + 1 if that is in the window; the example's own counts wherever it shows."""
    w, found = e.acts.shape[1], []
    for i in range(len(e.place)):
        for j in range(e.first[i] - 1, e.first[i] + e.width[i]):
            act = e.before[i] if j < e.first[i] else e.acts[i, j - e.first[i]]
            next_in_window = j + 1 - e.first[i] if j + 1 < e.first[i] + e.width[i] else w
            shows = act > 0 and next_in_window < w and not (j < e.first[i] and e.first[i] % T == 0)
            if shows or j == e.place[i]:
                found.append((i, next_in_window if shows else w, j, act, j == e.place[i]))
    return found


@pytest.mark.parametrize("T", [1, 3, 16])
@pytest.mark.parametrize("m", [0, 1, 400])
def test_every_activation_that_shows_and_every_examples_own(T, m):
    e = some_examples(m, T)
    got = shown_activations(e, T)
    assert list(zip(got.example, got.column, got.place, got.act, got.own, strict=True)) == by_hand(e, T)


def test_each_place_of_a_feature_is_one_job_and_jobs_go_by_contexts():
    T, e = 16, some_examples(400, 16)
    shown = shown_activations(e, T)
    feature = e.feature[shown.example].astype(np.int64)
    job = jobs_of(feature, shown.place, 7, T)
    asked: dict[tuple, set] = {}
    for f, p, j in zip(feature, shown.place, job, strict=True):
        asked.setdefault((f, p), set()).add(j)
    assert all(len(jobs) == 1 for jobs in asked.values())
    assert sorted(job_of := [jobs.pop() for jobs in asked.values()]) == list(range(len(asked))) and len(job_of) < len(job)
    contexts = np.empty(len(asked), np.int64)
    contexts[job] = shown.place // T
    assert (np.diff(contexts) >= 0).all()
