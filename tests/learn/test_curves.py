"""Fifty steps of every variant, schedules and AuxK included, against golden curves of a plain float64 trainer."""

import json

import pytest
import torch

from monosem.learn.learner import Learner
from monosem.threads import torch_threads
from tests.learn.curves import CASES, GOLDEN, batches, configs, plain_curve, targets

golden = json.loads(GOLDEN.read_text())


def our_curve(case: str, slots: int = 1, device: str = "cpu") -> tuple[list[float], Learner]:
    sae, train = configs(case)
    learner = Learner(sae, train, device, slots=slots)
    losses = []
    with torch_threads(1):
        for x in batches():
            rows = [x, targets(x, case)] if sae.transcoder else [x]
            losses.append(float(learner.step(*(t.to(device) for t in rows))["loss"]))
    return losses, learner


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_follow_the_golden_curve(case):
    losses, _ = our_curve(case)
    assert losses[::7] == pytest.approx(golden[case], rel=1e-4)
    assert losses[-1] < losses[0] or case == "jumprelu-tanh"  # whose coefficient rises over the whole run


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_follows_the_golden_curve_with_the_same_bits_each_time(case, slots):
    (losses, first), (again, second) = (our_curve(case, slots, "cuda") for _ in range(2))
    assert losses[::7] == pytest.approx(golden[case], rel=1e-4)
    assert losses == again
    one, two = first.state(), second.state()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("case", CASES)
def test_the_golden_curve_is_the_plain_trainers(case):
    assert plain_curve(case)[::7] == pytest.approx(golden[case], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_slots_change_no_more_than_rounding(case):
    one, _ = our_curve(case)
    four, _ = our_curve(case, 4)
    assert one == pytest.approx(four, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_state_goes_on_where_it_was_left(case):
    """Saved after 20 steps and loaded into a fresh learner: the same bits after 50."""
    sae, train = configs(case)
    first, again = Learner(sae, train, scale=0.7), None
    with torch_threads(1):
        for step, x in enumerate(batches()):
            if step == 20:
                again = Learner(sae, train)
                again.load_state({name: t.clone() for name, t in first.state().items()}, 20)
            for learner in filter(None, (first, again)):
                learner.step(x, targets(x, case) if sae.transcoder else None)
    one, two = first.state(), again.state()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    used, other = first.dictionary().tensors(), again.dictionary().tensors()
    assert all(torch.equal(used[name], other[name]) for name in used)
