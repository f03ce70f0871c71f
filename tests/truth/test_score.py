"""Marks that are known beforehand: of a perfect dictionary, and of one with known faults."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae
from monosem.truth.generator import Truth, TruthConfig
from monosem.truth.score import match, score

TRUTH = Truth(TruthConfig(features=20, d_in=64, active=4.0))
ROWS = (4096, 12288)


def perfect(order: list[int], gain: float = 1.0, extra: int = 0) -> Sae:
    """Features `order` of the truth by its pseudo-inverse, then `extra` elements that never fire."""
    directions = torch.from_numpy(TRUTH.directions)
    inverse = torch.linalg.pinv(directions.double()).float()  # [64, 20]
    F = len(order) + extra
    W_enc, W_dec, b_enc = torch.zeros(64, F), torch.zeros(F, 64), torch.full((F,), -1e-3)
    W_enc[:, : len(order)] = inverse[:, order] * gain
    W_dec[: len(order)] = directions[order]
    return Sae(SaeConfig(d_in=64, d_sae=F), W_enc, b_enc, W_dec, torch.from_numpy(TRUTH.bias))


def test_a_perfect_dictionary_has_full_marks_in_any_order():
    marks = score(perfect(list(np.random.default_rng(0).permutation(20)), extra=5), TRUTH, *ROWS)
    assert marks.features == 20 and marks.recovered == 1.0
    assert min(marks.mcc, marks.precision, marks.recall) > 0.9999
    assert abs(marks.shrinkage - 1) < 2e-3 and marks.fvu < 1e-4
    assert marks.dead == 5 / 25 and abs(marks.l0 - 4) < 0.1


def test_shrinkage_is_seen():
    assert abs(score(perfect(list(range(20)), gain=0.5), TRUTH, *ROWS).shrinkage - 0.5) < 2e-3


def test_features_that_are_missing_count():
    marks = score(perfect(list(range(5, 20)), extra=5), TRUTH, *ROWS)
    assert marks.recovered == 0.75 and 0.7 < marks.mcc < 0.8 and abs(marks.recall - 0.75) < 1e-3


def test_false_alarms_lower_precision_and_silence_recall():
    eager, shy = perfect(list(range(20))), perfect(list(range(20)))
    eager.b_enc += 0.05 + 10 * (torch.arange(20) == 3)
    shy.b_enc -= 0.8
    loud, quiet = score(eager, TRUTH, *ROWS), score(shy, TRUTH, *ROWS)
    assert loud.recall > 0.999 and loud.precision < 0.5
    assert quiet.precision > 0.999 and abs(quiet.recall - math.exp(-(0.801 - 0.5) / 0.5)) < 0.02


def test_rare_features_are_not_asked_for():
    truth = Truth(TruthConfig(features=400, d_in=64, active=1.0, zipf=1.5))
    config = SaeConfig(d_in=64, d_sae=8)
    sae = Sae(config, torch.zeros(64, 8), torch.zeros(8), torch.eye(8, 64), torch.zeros(64))
    assert score(sae, truth, 0, 2048).features == int((truth.probability >= 1e-3).sum()) < 400


@pytest.mark.parametrize("n", [2, 4, 6])
def test_the_matching_is_the_best_there_is(n):
    cosine = np.random.default_rng(n).standard_normal((n, n + 1))
    rows, columns = match(cosine)
    best = max(sum(cosine[i, p[i]] for i in range(n)) for p in permutations(range(n + 1), n))
    assert sorted(rows) == list(range(n)) and abs(cosine[rows, columns].sum() - best) < 1e-12
