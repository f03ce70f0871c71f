"""The feature pass done densely, feature by feature, in float64 where it counts: what the real one is held against."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from monosem.features import schema
from monosem.features.plan import Plan
from monosem.features.state import State

ROUNDING = 1e-6
"""Of a number that the pass sums in another order, relative."""


@dataclass
class Dense:
    """f [N, F] activations, x [N, D] rows, y [N, O] rows where it writes, tokens [N], of one subject over a pass."""

    state: State
    subject: int
    f: np.ndarray
    x: np.ndarray
    y: np.ndarray
    tokens: np.ndarray

    @property
    def plan(self) -> Plan:
        return self.state.plan


@torch.no_grad()
def dense(state: State, subject: int) -> Dense:
    plan, s = state.plan, state.plan.subjects[subject]
    tokens = state.tokens(np.arange(plan.n_contexts))
    model = state.host(s.host).model
    points = list(dict.fromkeys([s.hook_point, s.write_point]))
    parts = [model.capture(t, points) for t in tokens.split(16)]
    x, y = (torch.cat([part[p].flatten(0, 1) for part in parts]) for p in (s.hook_point, s.write_point))
    f = torch.cat([state.sae(subject).encode(p) for p in x.split(4096)])
    return Dense(state, subject, f.numpy(), x.numpy(), y.numpy(), tokens.flatten().numpy())


@torch.no_grad()
def ablated_losses(d: Dense, feature: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Change of the loss on every token of a context [T], and of its logits [T, V], by a forward pass with an edit."""
    s, T = d.plan.subjects[d.subject], d.plan.context_length
    model = d.state.host(s.host).model
    tokens = d.state.tokens(np.array([context]))
    act = torch.from_numpy(d.f[context * T : (context + 1) * T, feature])
    moved = act[None, :, None] * d.state.sae(d.subject).W_dec[feature]
    clean = model(tokens, {})[0].double()
    logits = model(tokens, {s.write_point: lambda x: x - moved})[0].double()
    following = tokens[0, 1:]

    def loss(y):
        return torch.nn.functional.cross_entropy(y[:-1], following, reduction="none")

    change = np.concatenate([[0.0], (loss(logits) - loss(clean)).numpy()])
    return change, (logits - clean).numpy()


def check_feature(d: Dense, i: int, row: dict, close: float = 1e-5) -> None:
    """A row of FEATURES against the dense activations."""
    f, n = d.f[:, i].astype(np.float64), len(d.f)
    on = f > 0
    assert row["feature"] == i and row["n_active"] == on.sum() and row["density"] == on.sum() / n
    assert row["dead"] == (not on.any())
    assert row["max_activation"] == pytest.approx(f.max(), rel=ROUNDING)
    assert abs(row["mean_activation"] - (f[on].mean() if on.any() else 0)) < close * (1 + f.max())
    W = d.state.sae(d.subject).W_dec[i].double().numpy()
    variance = np.square(d.y - d.y.mean(0, dtype=np.float64)).sum() / n
    assert abs(row["importance"] - np.square(f).mean() * (W @ W) / variance) < close
    names, domain = d.state.domains
    assert row["domain_counts"] == [int(((domain == k) & on).sum()) for k in range(len(names))]
    _check_neurons(d, f, W, row, close)
    _check_logits(d, W, row, close)
    if on.sum() <= d.plan.config.sample and on.any():
        edges = np.linspace(0, row["act_hist_hi"], schema.BUCKETS + 1)
        assert row["act_hist_hi"] == pytest.approx(f.max(), rel=ROUNDING) and sum(row["act_hist_counts"]) == on.sum()
        found = np.cumsum(row["act_hist_counts"])
        below = [(f[on] < e).sum() for e in edges[1:-1]]
        assert np.abs(found[:-1] - below).max() <= 1  # a value on an edge, by rounding


def _check_neurons(d: Dense, f: np.ndarray, W: np.ndarray, row: dict, close: float) -> None:
    order = np.argsort(-np.abs(W), kind="stable")[:3]
    assert row["neuron_indices"] == order.tolist()
    np.testing.assert_allclose(row["neuron_weights"], W[order], atol=close)
    np.testing.assert_allclose(row["neuron_cosines"], W[order] / np.linalg.norm(W), atol=close)
    np.testing.assert_allclose(row["neuron_l1_shares"], np.abs(W[order]) / np.abs(W).sum(), atol=close)
    if not (f[: d.plan.related_tokens] > 0).any():
        assert row["correlated_neuron_r"] is None
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        n = d.plan.related_tokens
        r = np.nan_to_num(np.corrcoef(np.column_stack([f[:n], d.x[:n].astype(np.float64)]).T)[0, 1:], nan=-1)
    np.testing.assert_allclose(row["correlated_neuron_r"], np.sort(r)[::-1][:3], atol=close)
    np.testing.assert_allclose(row["correlated_neuron_r"], r[row["correlated_neuron_indices"]], atol=close)


@torch.no_grad()
def _check_logits(d: Dense, W: np.ndarray, row: dict, close: float) -> None:
    """Against the formula of the paper written out for the bundled kind of host."""
    s = d.plan.subjects[d.subject]
    model = d.state.host(s.host).model
    T = d.plan.context_length
    residual = torch.cat([model.capture(t, ["resid_post"])["resid_post"].flatten(0, 1)
                          for t in d.state.tokens(np.arange(min(64, d.plan.n_contexts))).split(8)]).double()  # fmt: skip
    assert len(residual) % T == 0
    scale = (1 / (residual.var(dim=1, unbiased=False) + model.norm_final.eps).sqrt()).mean()
    r = torch.from_numpy(W) @ model.mlp_out.weight.double().T
    pi = torch.eye(len(r), dtype=torch.float64) - 1 / len(r)
    v = (pi @ r) * model.norm_final.weight.double() * scale @ model.unembed.weight.double().T
    v = (v - v.median()).numpy()
    np.testing.assert_allclose(row["top_logit_values"], np.sort(v)[::-1][:10], atol=close)
    np.testing.assert_allclose(row["top_logit_values"], v[row["top_logit_tokens"]], atol=close)
    np.testing.assert_allclose(row["bottom_logit_values"], np.sort(v)[:10], atol=close)
    np.testing.assert_allclose(row["bottom_logit_values"], v[row["bottom_logit_tokens"]], atol=close)
    assert sum(row["logit_hist_counts"]) == len(v)
    assert abs(row["logit_hist_lo"] - v.min()) < close and abs(row["logit_hist_hi"] - v.max()) < close


def check_examples(d: Dense, i: int, rows: list[dict], close: float = 1e-5, effects: bool = True) -> None:
    """The rows of EXAMPLES of one feature: the true maxima, groups as published, windows and ablations as they are."""
    f, T, c = d.f[:, i], d.plan.context_length, d.plan.config
    by_group: dict[int, list[dict]] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row)
    active = np.flatnonzero(f > 0)
    order = active[np.lexsort((active, -f[active]))]
    numbers = {int(context): n for n, context in enumerate(d.state.contexts)}
    place = {id(row): numbers[row["context"]] * T + row["position"] for row in rows}
    top = [place[id(row)] for row in by_group.get(0, [])]
    assert top == order[: c.top].tolist()
    groups = [0] if len(active) < c.top else list(range(13))
    assert sorted(by_group) == (groups if len(active) else [])
    if len(active) <= c.sample and len(groups) > 1:
        for k in range(schema.INTERVALS):
            centre = np.float32((10 - k) / 11 * float(f.max()))
            nearest = np.sort(np.abs(f[active] - centre))[: c.interval]
            got = np.sort([abs(f[place[id(row)]] - centre) for row in by_group[k + 1]])
            np.testing.assert_allclose(got, nearest, atol=1e-6)
        assert sorted(f[place[id(row)]] for row in by_group[12]) == sorted(f[active])[: c.bottom]
    seen: set[int] = set()
    changes: dict[int, tuple] = {}
    for row in rows:
        p = place[id(row)]
        assert row["repeated"] == (p in seen)
        seen.add(p)
        _check_window(d, i, row, p, close)
        if effects:
            context = p // T
            changes[context] = changes.get(context) or ablated_losses(d, i, context)
            _check_effects(d, row, p, *changes[context], close)


def _check_window(d: Dense, i: int, row: dict, p: int, close: float) -> None:
    T, c = d.plan.context_length, d.plan.config
    lo, hi = max(p - c.beside, p // T * T), min(p + c.beside + 1, (p // T + 1) * T)
    assert row["centre"] == p - lo and row["tokens"] == d.tokens[lo:hi].tolist()
    np.testing.assert_allclose(row["activations"], d.f[lo:hi, i], atol=close)
    assert row["domain"] == d.state.domains[1][p]


def _check_effects(d: Dense, row: dict, p: int, loss: np.ndarray, logits: np.ndarray, close: float) -> None:
    T = d.plan.context_length
    first = (p - row["centre"]) % T
    np.testing.assert_allclose(row["loss_effects"], loss[first : first + len(row["tokens"])], atol=close)
    change = logits[p % T]
    np.testing.assert_allclose(row["up_values"], np.sort(change)[::-1][:5], atol=close)
    np.testing.assert_allclose(row["up_values"], change[row["up_tokens"]], atol=close)
    np.testing.assert_allclose(row["down_values"], np.sort(change)[:5], atol=close)
    np.testing.assert_allclose(row["down_values"], change[row["down_tokens"]], atol=close)
