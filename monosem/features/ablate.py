"""What the host loses without a feature: ablation effects on the tokens around examples.

    x_j <- x_j - f_i(x_j) d_i   on every token j of the context, the rest of x as it is; then the pass goes on
    loss effect on token j + 1: the loss on it (nats) with the feature ablated, less the loss without

Bricken et al. 2023, "feature ablations" (the formula is printed with d_j; d_i is meant). Where everything after the
hook point works token by token, only tokens on which the feature is active are computed, each once (`ByToken`);
elsewhere each context is run again with the feature ablated throughout (`ByContext`). Both give the same numbers but
for rounding.

Shape letters: m examples, w tokens of a window, j jobs, W width, D d_model, V vocabulary, T context length.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.features import loops
from monosem.features.entries import Entries
from monosem.features.examples import Examples
from monosem.host.direct import Continuation
from monosem.host.model import HostModel
from monosem.sae.kernels.cpu import shared_out

CHANGES = 5
"""Tokens listed whose logits change most, either way. As published."""
LOGITS_AT_ONCE = 1 << 22
"""Logits of ablated rows held at a time."""
Tokens = Callable[[np.ndarray], Tensor]
"""Token ids int64 [n, T] of contexts of the pass, by their numbers in it."""


@dataclass(frozen=True)
class Effects:
    """loss [m, w] float32; up, down int32 [m, k] with their values float32 [m, k]: by the example's own token."""

    loss: np.ndarray
    up: np.ndarray
    up_values: np.ndarray
    down: np.ndarray
    down_values: np.ndarray

    @classmethod
    def empty(cls, m: int, w: int) -> "Effects":
        ids, values = np.zeros((m, CHANGES), np.int32), np.zeros((m, CHANGES), np.float32)
        return cls(np.zeros((m, w), np.float32), ids, values, ids.copy(), values.copy())


@dataclass(frozen=True)
class Host:
    """Where features are ablated: the model, the hook point they write to, and the pass's contexts."""

    model: HostModel
    hook_point: str
    tokens: Tokens
    context_length: int

    def batch(self) -> int:
        """Contexts run together: their logits are held."""
        return max(1, min(16, (1 << 25) // (self.context_length * self.model.vocab_size)))


def active_pairs(examples: Examples, context_length: int) -> tuple[np.ndarray, ...]:
    """Places whose activation shows in a window: (example, column of the token it shows on, place, activation).

    Column w means: on none, the example's token is the last one of the window or the context.
    """
    w = examples.acts.shape[1]
    acts = np.concatenate([examples.before[:, None], examples.acts], axis=1)
    columns = np.arange(w + 1)[None, :]
    place = examples.first[:, None] + columns - 1
    shows = (columns < examples.width[:, None]) & (acts > 0) & (examples.first[:, None] % context_length + columns > 0)
    own = place == examples.place[:, None]
    example, column = np.nonzero(shows | own)
    column_or_none = np.where(shows[example, column], column, w)
    return example, column_or_none, place[example, column], acts[example, column]


class ByToken:
    """Ablation where the rest of the pass works on each token alone."""

    def __init__(self, host: Host, way: Continuation):
        self.host, self.way = host, way

    @torch.no_grad()
    def effects(self, examples: Examples, entries: Entries, decoder_FW: Tensor) -> Effects:
        """Of examples whose features are rows of `decoder_FW`; `entries` are not needed here."""
        m, w = examples.acts.shape
        out = Effects.empty(m, w)
        example, column, place, act = active_pairs(examples, self.host.context_length)
        feature = examples.feature[example].astype(np.int64)
        key = place * len(decoder_FW) + feature
        _, job, of = np.unique(key, return_index=True, return_inverse=True)
        own = place == examples.place[example]
        changes = np.zeros(len(job), bool)
        changes[of[own]] = True
        jobs = _Jobs(feature[job], place[job], act[job], changes)
        loss, ends = self._run(jobs, self.way.moves(decoder_FW))
        shown = column < w
        out.loss[example[shown], column[shown]] = loss[of[shown]]
        for target, values in zip((out.up, out.up_values, out.down, out.down_values), ends, strict=True):
            target[example[own]] = values[of[own]]
        return out

    def _run(self, jobs: "_Jobs", moves_FS: Tensor) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Loss effects [j], and the ends of the logits' changes, [j, k] each (zeros where not asked for).

        moves_FS   what an activation of 1 of each feature adds to the rows that `way.finish` takes
        """
        T, size = self.host.context_length, self.host.batch()
        loss = np.zeros(len(jobs.place), np.float32)
        ends = tuple(np.zeros((len(loss), CHANGES), kind) for kind in (np.int32, np.float32) * 2)
        context = jobs.place // T
        wanted = np.unique(context)
        for lo in range(0, len(wanted), size):
            ids = wanted[lo : lo + size]
            tokens = self.host.tokens(ids)
            first, last = np.searchsorted(context, [ids[0], ids[-1] + 1])
            row = np.searchsorted(ids, context[first:last]) * T + jobs.place[first:last] % T
            self._batch(tokens, row, jobs, range(first, last), moves_FS, loss, ends)
        return loss, ends

    def _batch(self, tokens_BT, row, jobs, numbers, moves_FS, loss, ends) -> None:
        """Jobs `numbers`, at rows `row` of a batch of contexts laid out one after another."""
        points = list(dict.fromkeys([self.host.hook_point, self.way.beside]))
        found = self.host.model.capture(tokens_BT, points)
        used, of_row = np.unique(row, return_inverse=True)
        at_used = torch.from_numpy(used)
        x, beside = (found[name].flatten(0, 1)[at_used] for name in (self.host.hook_point, self.way.beside))
        base = self.way.base(x, beside)
        clean = self.way.finish(base, beside)
        following = torch.nn.functional.pad(tokens_BT[:, 1:], (0, 1)).flatten()[at_used]
        clean_loss = _loss(clean, following)
        step = max(1, LOGITS_AT_ONCE // clean.shape[1])
        for a in range(0, len(row), step):
            here = torch.from_numpy(of_row[a : a + step])
            chosen = np.arange(numbers.start + a, numbers.start + a + len(here))
            act = torch.from_numpy(jobs.act[chosen])[:, None]
            move = moves_FS[torch.from_numpy(jobs.feature[chosen])]
            logits = self.way.finish(base[here] - act * move, beside[here])
            loss[chosen] = (_loss(logits, following[here]) - clean_loss[here]).numpy()
            asked = np.flatnonzero(jobs.changes[chosen])
            if len(asked):
                for target, values in zip(ends, _ends(logits, asked, clean, of_row[a + asked]), strict=True):
                    target[chosen[asked]] = values


@dataclass(frozen=True)
class _Jobs:
    """Ablations of one feature on one token, by place: feature, place, activation, and whether logits are listed."""

    feature: np.ndarray
    place: np.ndarray
    act: np.ndarray
    changes: np.ndarray


class ByContext:
    """Ablation by running whole contexts again, at any hook point of any host."""

    def __init__(self, host: Host):
        self.host = host

    @torch.no_grad()
    def effects(self, examples: Examples, entries: Entries, decoder_FW: Tensor) -> Effects:
        """Of examples whose features are rows of `decoder_FW` and of `entries`, whose places are the pass's."""
        T = self.host.context_length
        m, w = examples.acts.shape
        out = Effects.empty(m, w)
        key = (examples.place // T) * len(decoder_FW) + examples.feature
        pairs, of = np.unique(key, return_inverse=True)
        order = np.argsort(of, kind="stable")
        bounds = np.searchsorted(of[order], np.arange(len(pairs) + 1))
        for lo, contexts, features in self._batches(pairs, len(decoder_FW)):
            tokens = self.host.tokens(contexts)
            acts = np.stack([self._acts(entries, f, c) for f, c in zip(features, contexts, strict=True)])
            moved = torch.from_numpy(acts)[:, :, None] * decoder_FW[torch.from_numpy(features)][:, None, :]
            clean = self.host.model(tokens, {})
            ablated = self.host.model(tokens, {self.host.hook_point: lambda x, moved=moved: x - moved.to(x.dtype)})
            effect = _token_losses(ablated, tokens) - _token_losses(clean, tokens)
            for i in range(len(contexts)):
                for e in order[bounds[lo + i] : bounds[lo + i + 1]]:
                    first, n = int(examples.first[e] % T), int(examples.width[e])
                    out.loss[e, :n] = effect[i, first : first + n].numpy()
                    p = int(examples.place[e] % T)
                    ends = _ends(ablated[i], np.array([p]), clean[i], np.array([p]))
                    for target, values in zip((out.up, out.up_values, out.down, out.down_values), ends, strict=True):
                        target[e] = values[0]
        return out

    def _batches(self, pairs: np.ndarray, features: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        size = max(1, self.host.batch() // 2)
        for lo in range(0, len(pairs), size):
            contexts, chosen = np.divmod(pairs[lo : lo + size], features)
            yield lo, contexts, chosen

    def _acts(self, entries: Entries, feature: int, context: int) -> np.ndarray:
        """A feature's activations on a whole context, float32 [T]."""
        T, out = self.host.context_length, np.zeros(self.host.context_length, np.float32)
        first, last = entries.start[feature : feature + 2]
        place = entries.place[first:last]
        a, b = np.searchsorted(place, [context * T, (context + 1) * T])
        out[place[a:b] - context * T] = entries.value[first + a : first + b]
        return out


def _loss(logits_nV: Tensor, token_n: Tensor) -> Tensor:
    """-log p of each token, nats [n]."""
    return torch.nn.functional.cross_entropy(logits_nV.float(), token_n, reduction="none")


def _token_losses(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """Loss on each token, [B, T]; 0 on the first, which nothing predicts."""
    B, T, V = logits_BTV.shape
    loss = _loss(logits_BTV[:, :-1].reshape(-1, V), tokens_BT[:, 1:].reshape(-1)).view(B, T - 1)
    return torch.nn.functional.pad(loss, (1, 0))


def _ends(after_nV: Tensor, after: np.ndarray, before_mV: Tensor, before: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of rows `after` of one against rows `before` of the other: (up, their changes, down, their changes), each
    [rows, CHANGES]."""
    up, down = (np.zeros((len(after), CHANGES), np.int32) for _ in range(2))
    up_values, down_values = (np.zeros((len(after), CHANGES), np.float32) for _ in range(2))
    logits_n, logits_m = (t.float().contiguous().numpy() for t in (after_nV, before_mV))
    rows = (logits_n, after, logits_m, before)
    shared_out(loops.changes, len(after), *rows, CHANGES, up, up_values, down, down_values)
    return up, up_values, down, down_values
