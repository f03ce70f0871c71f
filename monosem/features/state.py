"""What the tasks of a feature pass share in one process: hosts, contexts, dictionaries, loaded when first needed."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from monosem.errors import IntegrityError
from monosem.features.ablate import ByContext, ByToken, Host
from monosem.features.entries import Entries, joined, stacked
from monosem.features.plan import NEURONS, Plan, Unit
from monosem.features.vocab import token_texts
from monosem.host.direct import DirectPath, continuation, direct_path
from monosem.host.model import HostModel
from monosem.host.stored import Host as StoredHost
from monosem.host.stored import load_host
from monosem.rows.permute import FEATURES, drawn
from monosem.sae.config import SaeConfig
from monosem.sae.model import Sae
from monosem.store.dictionary import load
from monosem.store.store import Store, open_store
from monosem.store.tensors import unpack_tensors
from monosem.text.domains import counted_domains
from monosem.text.index import TokenIndex
from monosem.text.index import load as load_corpus

SCALE_CONTEXTS = 64
"""Contexts of the pass over which the final norm's scale is averaged, at most."""


def neurons_sae(width: int) -> Sae:
    """Neurons as features: x where it is above zero."""
    eye = torch.eye(width)
    return Sae(SaeConfig(d_in=width, d_sae=width), eye, torch.zeros(width), eye, torch.zeros(width))


def chosen_contexts(seed: int, available: int, n: int, per_slice: int) -> np.ndarray:
    """Which n of the available contexts a pass reads: a function of seed and numbers alone. int64 [n].

    Slices of `per_slice` are ascending in themselves, so that reading them is cheap, and at random in which contexts
    they have: correlations are over the first slices, and a corpus is often sorted.
    """
    found = drawn(n, available, seed, FEATURES)
    slices = [np.sort(found[lo : lo + per_slice]) for lo in range(0, len(found), per_slice)]
    return np.concatenate([np.zeros(0, np.int64), *slices])


class State:
    """Of one plan. `store` is the one the plan names."""

    def __init__(self, plan: Plan, store: Store | None = None):
        self.plan = plan
        self.store = store or open_store(plan.store)
        self._saes: dict[int, Sae] = {}
        self._hosts: dict[int, StoredHost] = {}
        self._scales: dict[tuple[int, str], float] = {}

    def host(self, number: int) -> StoredHost:
        if number not in self._hosts:
            found = load_host(self.plan.hosts[number])
            if found.digest != self.plan.host_digests[number]:
                raise IntegrityError(f"host {found.reference}: not the one that the pass was planned with")
            self._hosts[number] = found
        return self._hosts[number]

    @cached_property
    def index(self) -> TokenIndex:
        corpus = load_corpus(self.store, self.plan.corpus_key)
        return corpus.train if self.plan.config.side == "train" else corpus.heldout

    @cached_property
    def contexts(self) -> np.ndarray:
        """Contexts of the token index, by their number in the pass."""
        plan, available = self.plan, len(self.index.tokens_NT)
        return chosen_contexts(plan.config.seed, available, plan.n_contexts, plan.contexts_per_slice)

    def tokens(self, numbers: np.ndarray) -> Tensor:
        """Token ids of contexts of the pass, int64 [n, T]."""
        return torch.from_numpy(self.index.tokens_NT[self.contexts[numbers]].astype(np.int64))

    def kept(self, numbers: np.ndarray) -> np.ndarray:
        """Which positions of contexts of the pass may give rows. bool [n, T]."""
        return self.plan.skipped.kept(self.index.tokens_NT[self.contexts[numbers]])

    def sae(self, subject: int) -> Sae:
        """A subject's dictionary, the encoder laid out so that a feature's is in one piece: tiles take it so."""
        if subject not in self._saes:
            s = self.plan.subjects[subject]
            sae = neurons_sae(s.d_in) if s.kind == NEURONS else load(s.uri)
            sae.W_enc = sae.W_enc.T.contiguous().T
            self._saes[subject] = sae
        return self._saes[subject]

    @cached_property
    def domains(self) -> tuple[list[str], np.ndarray]:
        """Names of the domains that are counted, and that of every place of the pass, int16 [N]."""
        names, domain_NT = counted_domains(self.index, self.contexts)
        return names, domain_NT.reshape(-1)

    @cached_property
    def vocab(self) -> list[str]:
        host = self.host(0)
        return token_texts(host.tokenizer, host.model.vocab_size)

    def direct(self, unit: Unit) -> tuple[DirectPath, float] | None:
        """The direct path of a unit's features to the logits, and the mean inverse scale of the final norm."""
        s = self.plan.subjects[unit.subject]
        model = self.host(s.host).model
        path = direct_path(model, s.write_point)
        if path is None:
            return None
        if (s.host, path.last) not in self._scales:
            self._scales[s.host, path.last] = self._inverse_scale(model, path)
        return path, self._scales[s.host, path.last]

    def _inverse_scale(self, model: HostModel, path: DirectPath) -> float:
        """Its mean over rows without NaN and infinity, of contexts from all over the pass."""
        numbers = np.unique(np.linspace(0, self.plan.n_contexts - 1, SCALE_CONTEXTS).astype(np.int64))
        found = []
        for ids in np.array_split(numbers, -(-len(numbers) // 8)):
            residual = model.capture(self.tokens(ids), [path.last])[path.last].flatten(0, 1)
            kept = torch.from_numpy(self.kept(ids)).flatten() & torch.isfinite(residual).all(dim=1)
            found.append(path.inverse_scale(residual[kept]))
        return float(torch.cat(found).mean())

    def ablation(self, unit: Unit) -> ByToken | ByContext | None:
        """How a unit's features are ablated; None if they are not."""
        s, asked = self.plan.subjects[unit.subject], self.plan.config.ablations
        if asked == "none":
            return None
        model = self.host(s.host).model
        host = Host(model, s.write_point, self.tokens, self.plan.context_length)
        way = continuation(model, s.write_point)
        if way is not None:
            return ByToken(host, way)
        return None if asked == "auto" else ByContext(host)

    def entries(self, unit: Unit, slices: int) -> Entries:
        """A unit's entries over the first slices of tokens."""
        parts, T = [], self.plan.context_length
        for s in range(slices):
            t = self._tensors(self.plan.entries_file(s, unit))
            parts.append(Entries(*(t[name].numpy() for name in ("start", "place", "value"))))
        return joined(parts, [self.plan.contexts_of(s).start * T for s in range(slices)])

    def cross(self, unit: Unit) -> np.ndarray:
        """Sums of activation times coordinate over the tokens of correlations, float64 [F, D]."""
        total = 0.0
        for s in range(self.plan.related_slices):
            total = total + self._tensors(self.plan.entries_file(s, unit))["cross"].numpy()
        return total

    def all_entries(self, subject: int, slices: int) -> Entries:
        """Entries of all features of a subject."""
        found = [self.entries(unit, slices) for unit in self.plan.units(subject)]
        return stacked(found)

    def _tensors(self, path: str) -> dict[str, Tensor]:
        return unpack_tensors(self.store.get(path), path)
