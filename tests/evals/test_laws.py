"""Laws through points that lie on one, fronts against brute force, and what is proposed next."""

import numpy as np
import pytest

from monosem.evals.laws import PowerLaw, compute_of, fit_power_law, next_run, pareto_front


@pytest.mark.parametrize("a, b", [(3.0, -0.25), (0.5, 0.5), (7.0, 0.0)])
def test_points_on_a_law_give_it_back(a, b):
    compute = np.logspace(10, 15, 6)
    law = fit_power_law(compute, a * compute**b)
    assert law.a == pytest.approx(a, rel=1e-9) and law.b == pytest.approx(b, abs=1e-12)
    assert law.error < 1e-9 and law.n == 6 and law.at(1e12) == pytest.approx(a * 1e12**b)


def test_the_standard_error_is_that_of_a_straight_line():
    """Of 400 noisy fits, the exponents spread as their standard errors say."""
    rng, compute = np.random.default_rng(0), np.logspace(9, 12, 8)
    laws = [fit_power_law(compute, compute**-0.2 * np.exp(0.05 * rng.standard_normal(8))) for _ in range(400)]
    spread = np.std([law.b for law in laws])
    assert spread == pytest.approx(np.mean([law.error for law in laws]), rel=0.12)


def test_no_law_through_one_compute():
    assert fit_power_law([1e9, 1e9], [0.1, 0.2]) is None and fit_power_law([1e9], [0.1]) is None
    assert fit_power_law([1e9, 2e9], [0.4, 0.3]).error is None
    assert fit_power_law([1e9, 2e9, 3e9], [0.4, 0.3, 0.0]).n == 2  # the logarithm of zero is no point


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_brute_force(seed):
    points = [tuple(p) for p in np.random.default_rng(seed).integers(0, 6, (12, 2)).tolist()]
    front = pareto_front(points)

    def beaten(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    assert {points[i] for i in front} == {p for p in points if not beaten(p)}
    assert [points[i] for i in front] == sorted({points[i] for i in front})


def row(factor, k, l0, fvu):
    return {"run": f"{factor}x-k_{k}", "expansion_factor": factor, "asked": ("k", k), "l0": l0, "fvu": fvu,
            "d_in": 10, "d_sae": 10 * factor, "rows": 100}  # fmt: skip


def test_compute_is_ten_products():
    assert compute_of(row(4, 1, 1, 1)) == 10 * 100 * 10 * 40


def test_a_larger_dictionary_is_next_while_size_pays():
    rows = [row(1, 8, 8.0, 0.4), row(2, 8, 8.0, 0.3), row(8, 32, 32.0, 0.1)]
    law = fit_power_law([compute_of(r) for r in rows[:2]], [0.4, 0.3])
    overrides, why = next_run(rows, law, ("k", 8))
    assert overrides == {"expansion_factor": 4, "k": 8} and "25%, to about 0.225" in why


def test_the_widest_gap_is_next_when_it_does_not():
    rows = [row(2, 4, 4.0, 0.5), row(2, 9, 9.0, 0.4), row(2, 100, 100.0, 0.2), row(2, 50, 101.0, 0.9)]
    overrides, why = next_run(rows, PowerLaw(1.0, -0.001, None, 2), ("k", 4))
    assert overrides == {"expansion_factor": 2, "k": 30} and "between L0 9.0 (2x-k_9) and 100.0 (2x-k_100)" in why


def test_nothing_is_next_when_nothing_would_tell():
    rows = [row(2, 4, 4.0, 0.5), row(2, 5, 5.0, 0.4)]
    assert next_run(rows, None, ("k", 4))[0] == {}


def test_what_is_there_already_is_not_next():
    """Off the front, as runs are that did badly."""
    rows = [row(8, 16, 16.0, 0.30), row(8, 32, 32.0, 0.31), row(8, 64, 64.0, 0.20)]
    assert next_run(rows, None, ("k", 16))[0] == {}
    law = PowerLaw(1.0, -0.5, None, 2)
    assert next_run([row(800_000, 16, 16.0, 0.3)], law, ("k", 16))[0] == {}  # no job may ask for twice as many


@pytest.mark.parametrize("fvu", [(0.3, 0.2), (0.2, 0.3), (0.9, 1e-6)])
def test_no_law_of_computes_that_lie_close(fvu):
    assert fit_power_law([1e17, 1.01e17], fvu) is None and fit_power_law([1e17, 1.01e17, 1.02e17], [*fvu, 0.1]) is None


def test_no_law_that_is_too_steep_for_a_float():
    assert fit_power_law([1e17, 2e17], [0.9, 1e-6]) is None and fit_power_law([1e17, 2e17], [1e-6, 0.9]) is None
    assert np.isfinite(fit_power_law([1e17, 2e17], [0.3, 0.2]).at(3e17))


def test_no_number_between_those_that_are_there():
    rows = [row(2, 1, 1.0, 0.5), row(2, 2, 12.0, 0.2)]
    assert next_run(rows, None, ("k", 1))[0] == {}
