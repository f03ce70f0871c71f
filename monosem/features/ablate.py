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
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from monosem.features.entries import Entries
from monosem.features.examples import Examples
from monosem.features.onward import CHANGES, Ablations, Ends, Linear, Through, ends_of, features_at_once, loss, onward
from monosem.features.pairs import jobs_of, shown_activations
from monosem.host.direct import Continuation
from monosem.host.model import HostModel

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


class ByToken:
    """Ablation where the rest of the pass works on each token alone."""

    def __init__(self, host: Host, way: Continuation):
        self.host, self.way = host, way

    @torch.no_grad()
    def effects(self, examples: Examples, entries: Entries | None, decoder_FW: Tensor) -> Effects:
        """Of examples whose features are rows of `decoder_FW`; `entries` are not needed here."""
        m, w = examples.acts.shape
        out = Effects.empty(m, w)
        shown = shown_activations(examples, self.host.context_length)
        feature, place = examples.feature[shown.example].astype(np.int64), shown.place
        of = jobs_of(feature, place, len(decoder_FW), self.host.context_length)
        job = np.empty(of.max(initial=-1) + 1, np.int64)
        job[of] = np.arange(len(of))
        asked = np.zeros(len(job), bool)
        asked[of[shown.own]] = True
        rise, ends = self._all(place[job], Ablations(place[job], feature[job], shown.act[job], asked), decoder_FW)
        on = shown.column < w
        out.loss[shown.example[on], shown.column[on]] = rise[of[on]]
        at = (np.cumsum(asked) - 1)[of[shown.own]]
        for target, values in zip((out.up, out.up_values, out.down, out.down_values), ends, strict=True):
            target[shown.example[shown.own]] = values[at]
        return out

    def _all(self, place: np.ndarray, jobs: Ablations, decoder_FW: Tensor) -> tuple[np.ndarray, Ends]:
        """Of ablations at places of the pass, contexts ascending: some features, and some contexts, at a time."""
        rise, ends = np.zeros(len(place), np.float32), jobs.no_ends()
        end_of = np.cumsum(jobs.asked) - 1
        step = features_at_once(self.way) or len(decoder_FW)
        for lo in range(0, len(decoder_FW), step):
            onwards = onward(self.way, decoder_FW[lo : lo + step])
            of_these = np.flatnonzero((jobs.feature >= lo) & (jobs.feature < lo + step))
            for tokens_BT, row, chosen in self._batches(place, of_these):
                todo = Ablations(row, jobs.feature[chosen] - lo, jobs.act[chosen], jobs.asked[chosen])
                rise[chosen], found = self._batch(tokens_BT, onwards, todo)
                for target, values in zip(ends, found, strict=True):
                    target[end_of[chosen[todo.asked]]] = values
        return rise, ends

    def _batches(self, place: np.ndarray, jobs: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
        """Contexts together, tokens [B, T]; rows of them that jobs are at; the jobs."""
        T, size = self.host.context_length, self.host.batch()
        context = place[jobs] // T
        wanted = np.unique(context)
        for lo in range(0, len(wanted), size):
            ids = wanted[lo : lo + size]
            first, last = np.searchsorted(context, [ids[0], ids[-1] + 1])
            row = np.searchsorted(ids, context[first:last]) * T + place[jobs[first:last]] % T
            yield self.host.tokens(ids), row, jobs[first:last]

    def _batch(self, tokens_BT: Tensor, onwards: Through | Linear, todo: Ablations) -> tuple[np.ndarray, Ends]:
        """todo.row: of the contexts laid out one after another. Only rows that something is ablated at are kept."""
        points = list(dict.fromkeys([self.host.hook_point, self.way.beside]))
        found = self.host.model.capture(tokens_BT, points)
        used, row = np.unique(todo.row, return_inverse=True)
        at_used = torch.from_numpy(used)
        x, beside = (found[name].flatten(0, 1)[at_used] for name in (self.host.hook_point, self.way.beside))
        following = torch.nn.functional.pad(tokens_BT[:, 1:], (0, 1)).flatten()[at_used]
        return onwards.run(x, beside, following, replace(todo, row=row))


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
                    ends = ends_of(ablated[i], np.array([p]), clean[i], np.array([p]))
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


def _token_losses(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """Loss on each token, [B, T]; 0 on the first, which nothing predicts."""
    B, T, V = logits_BTV.shape
    found = loss(logits_BTV[:, :-1].reshape(-1, V), tokens_BT[:, 1:].reshape(-1)).view(B, T - 1)
    return torch.nn.functional.pad(found, (1, 0))
