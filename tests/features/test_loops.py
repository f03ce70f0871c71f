"""Laws of the loops over entries, on random entries: against numpy, and independent of slicing and threads."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from monosem.features import loops
from monosem.features.entries import Entries, by_place, cross_products, joined, stacked
from monosem.features.examples import Choice, choose, cut_windows
from monosem.features.logits import centred
from monosem.features.tiles import active_entries
from monosem.sae.config import SaeConfig
from monosem.sae.init import init_sae
from monosem.threads import torch_threads

N, F, T = 320, 23, 32


def dense_f(seed=0, n=N, features=F, share=0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    f = np.where(rng.random((n, features)) < share, rng.random((n, features)), 0).astype(np.float32)
    f[:, 3] = 0  # a dead one
    f[5:, 4] = 0  # a rare one
    f[:, 6] = np.where(f[:, 6] > 0, 0.5, 0)  # all equal: ties
    return f


def entries_of(f: np.ndarray) -> Entries:
    feature, place = np.nonzero(f.T)
    start = np.concatenate([[0], np.cumsum((f > 0).sum(axis=0))])
    return Entries(start, place.astype(np.int64), f.T[feature, place])


@pytest.mark.parametrize("variant, more", [("relu", {}), ("topk", {"k": 5}), ("jumprelu", {}), ("gated", {})])
@pytest.mark.parametrize("share", [1e-6, 1 / 16])  # the first leaves no room, so that rows come in smaller parts
def test_entries_are_what_encode_gives(monkeypatch, variant, more, share):
    monkeypatch.setattr("monosem.features.tiles.SHARE", share)
    torch.manual_seed(0)
    sae = init_sae(SaeConfig(d_in=16, d_sae=64, variant=variant, **more), torch.rand(16))
    for name, t in sae.extra.items():
        sae.extra[name] = torch.rand_like(t) * 0.3
    x = torch.randn(3000, 16)
    x[7] = 0
    f = sae.encode(x).numpy()
    found, want = active_entries(sae, x), entries_of(f)
    close = np.abs(f[np.where(f > 0)]) > 1e-5  # what is next to the bound may round to either side
    if close.all():
        assert np.array_equal(found.start, want.start) and np.array_equal(found.place, want.place)
        np.testing.assert_allclose(found.value, want.value, atol=1e-5)
    else:
        assert abs(len(found.place) - len(want.place)) <= (~close).sum()
    assert 0.02 < len(found.place) / f.size < 0.9


def test_slices_join_to_the_whole():
    f = dense_f()
    whole = entries_of(f)
    cuts = [0, 100, 101, 320]
    parts = [entries_of(f[a:b]) for a, b in pairwise(cuts)]
    again = joined(parts, cuts[:-1])
    for name in ("start", "place", "value"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    halves = stacked([whole.slice(0, 9), whole.slice(9, F)])
    assert np.array_equal(halves.start, whole.start) and np.array_equal(halves.value, whole.value)
    first = whole.before(101)
    assert np.array_equal(first.start, entries_of(f[:101]).start) and np.array_equal(first.place, entries_of(f[:101]).place)
    row_start, feature, value = by_place(whole, N)
    row, column = np.nonzero(f)
    assert np.array_equal(feature, column) and np.array_equal(value, f[row, column])
    assert np.array_equal(np.diff(row_start), (f > 0).sum(axis=1))


@pytest.mark.parametrize("share", [0.02, 0.5])  # by entries, and by a matrix product
def test_cross_products(share):
    f, x = dense_f(share=share), np.random.default_rng(1).normal(size=(N, 7)).astype(np.float32)
    np.testing.assert_allclose(cross_products(entries_of(f), x), f.T.astype(np.float64) @ x, atol=1e-9)


def test_examples_do_not_depend_on_threads_or_slices():
    f, choice = dense_f(n=3200, share=0.6), Choice(top=7, interval=2, bottom=3, sample=40, beside=2, seed=5)
    whole = entries_of(f)
    picks, hist, high = choose(whole, 0, choice)
    with torch_threads(3):
        assert all(np.array_equal(a, b) for a, b in zip(choose(whole, 0, choice), (picks, hist, high), strict=True))
    part = whole.slice(9, F)
    later, *_ = choose(part, 9, choice)
    assert np.array_equal(np.where(later >= 0, later + whole.start[9], -1), picks[9:])
    assert (hist.sum(axis=1) == np.minimum(choice.sample, (f > 0).sum(axis=0))).all() and (picks[3] == -1).all()
    assert (picks[4, :7] >= 0).sum() == (f[:, 4] > 0).sum() and (picks[4, 7:] == -1).all()
    assert picks[6, :7].tolist() == list(range(whole.start[6], whole.start[6] + 7))  # of equal ones the earliest


def test_the_sample_is_uniform():
    """Each of 400 activations is in a sample of 40 for a tenth of the features; places and features are independent."""
    n, features = 400, 3000
    counts, previous, same = np.zeros(n), None, 0
    for feature in range(features):
        taken = loops.sampled(7, feature, np.arange(n), 0, n, 40)
        assert len(taken) == 40 and (np.diff(taken) > 0).all()
        counts[taken] += 1
        same += 0 if previous is None else len(np.intersect1d(previous, taken))
        previous = taken
    expected = features * 40 / n
    assert np.square(counts - expected).sum() / (expected * (1 - 40 / n)) == pytest.approx(n, abs=5 * (2 * n) ** 0.5)
    assert same / (features - 1) == pytest.approx(4, abs=0.2)
    assert not np.array_equal(loops.sampled(8, 0, np.arange(n), 0, n, 40), loops.sampled(7, 0, np.arange(n), 0, n, 40))


def test_windows_stop_at_contexts_and_mark_repeats():
    f = dense_f(share=0.7)
    whole, choice = entries_of(f), Choice(top=20, interval=3, bottom=5, sample=1000, beside=4)
    picks, *_ = choose(whole, 0, choice)
    e = cut_windows(whole, picks, choice, T)
    seen = set()
    for i in range(len(e.place)):
        lo = max(e.place[i] - 4, e.place[i] // T * T)
        hi = min(e.place[i] + 5, (e.place[i] // T + 1) * T)
        assert (e.first[i], e.width[i]) == (lo, hi - lo)
        assert np.array_equal(e.acts[i, : hi - lo], f[lo:hi, e.feature[i]]) and not e.acts[i, hi - lo :].any()
        assert e.before[i] == (f[lo - 1, e.feature[i]] if lo % T else 0)
        assert e.repeated[i] == ((e.feature[i], e.place[i]) in seen)
        seen.add((e.feature[i], e.place[i]))
    assert e.repeated.any() and not e.repeated.all()


@pytest.mark.parametrize("width", [1, 4, 50, 127, 128, 129, 1000])
@pytest.mark.parametrize("spread", [2, 1e6])  # the first with many ties
def test_ends_of_rows(width, spread):
    rows = np.round(np.random.default_rng(2).normal(size=(9, width)) * spread).astype(np.float32)
    rows[4] = 1.0
    k = min(5, width)
    places = [np.zeros((9, k), np.int32) for _ in range(2)]
    values = [np.zeros((9, k), np.float32) for _ in range(2)]
    loops.extremes(rows, k, places[0], values[0], places[1], values[1], 0, 9)
    for sign, found, value in zip((-1, 1), places, values, strict=True):
        wanted = np.argsort(sign * rows, axis=1, kind="stable")[:, :k]
        assert np.array_equal(found, wanted)
        assert np.array_equal(value, np.take_along_axis(rows, wanted, axis=1))


def test_histogram():
    rows = np.random.default_rng(2).normal(size=(9, 50)).astype(np.float32)
    rows[4] = 1.0
    counts = np.zeros((9, 40), np.int32)
    loops.histogram(rows, rows.min(axis=1), rows.max(axis=1), counts, 0, 9)
    for row, found in zip(rows, counts, strict=True):
        assert found.sum() == 50
        if row.min() < row.max():
            assert np.abs(np.cumsum(found) - np.cumsum(np.histogram(row.astype(np.float64), 40)[0])).max() <= 1


def test_changes_are_the_extremes_of_the_difference():
    rng = np.random.default_rng(3)
    after, before = (rng.integers(-9, 9, size=(n, 50)).astype(np.float32) for n in (7, 4))  # many ties
    at, of = np.array([6, 0, 0, 3, 5]), np.array([0, 3, 1, 1, 2])
    places = [np.zeros((5, 5), np.int32) for _ in range(2)]
    values = [np.zeros((5, 5), np.float32) for _ in range(2)]
    loops.changes(after, at, before, of, 5, places[0], values[0], places[1], values[1], 0, 5)
    difference = after[at] - before[of]
    for sign, found, value in zip((-1, 1), places, values, strict=True):
        wanted = np.argsort(sign * difference, axis=1, kind="stable")[:, :5]
        assert np.array_equal(found, wanted)
        assert np.array_equal(value, np.take_along_axis(difference, wanted, axis=1))


def test_half_of_the_centred_effects_are_not_above_zero():
    v = centred(torch.randn(4, 301))
    assert ((v > 0).sum(dim=1) == 150).all() and ((v == 0).sum(dim=1) == 1).all()
