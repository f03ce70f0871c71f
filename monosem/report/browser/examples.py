"""Examples of a slice of features as the pages read them, with texts numbered within their file.

An example is [tokens, centre, activations, effects, up, down, repeated, context, position, domain]; activations and
effects are sparse, up and down are [token, value, token, value ...], texts are places in the file's own list.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monosem.report.browser.pack import listed, sparse
from monosem.report.browser.tables import Ragged, Table

LONGEST_TEXT = 400
"""Characters of a token that are written."""


class Texts:
    """The list of texts of one file: token ids get places in it as they come up."""

    def __init__(self, vocabulary: list[str]):
        self.vocabulary, self.places, self.texts = vocabulary, {}, []

    def place(self, token: int) -> int:
        found = self.places.get(token)
        if found is None:
            found = self.places[token] = len(self.texts)
            text = self.vocabulary[token] if 0 <= token < len(self.vocabulary) else f"token {token}"
            self.texts.append(text[:LONGEST_TEXT])
        return found

    def all(self, tokens: np.ndarray) -> list[int]:
        ids = tokens.tolist()
        for token in dict.fromkeys(ids):
            self.place(token)
        return [self.places[token] for token in ids]

    def pairs(self, tokens: np.ndarray | None, values: np.ndarray | None) -> list:
        """[place, value, place, value ...] of rounded values; empty where there are none."""
        if tokens is None or values is None:
            return []
        return [x for pair in zip(self.all(tokens), listed(values), strict=True) for x in pair]


@dataclass(frozen=True)
class Examples:
    """The EXAMPLES rows of a slice. Those of the slice's feature i are rows starts[i] to starts[i + 1]."""

    table: Table
    starts: np.ndarray

    @classmethod
    def of(cls, table: Table, features: np.ndarray) -> "Examples":
        edges = np.append(features, features[-1] + 1) if len(features) else np.zeros(1, dtype=np.int64)
        return cls(table, np.searchsorted(table["feature"], edges))

    def rows(self, i: int, groups: int | None = None) -> range:
        """Rows of feature i, all of them or those of the first `groups` groups."""
        first, last = int(self.starts[i]), int(self.starts[i + 1])
        if groups is not None:
            last = first + int(np.searchsorted(self.table["group"][first:last], groups))
        return range(first, last)

    def centre_tokens(self, rows: range) -> np.ndarray:
        """The example's own token in each of `rows`."""
        tokens: Ragged = self.table["tokens"]
        return tokens.values[tokens.starts[rows.start : rows.stop] + self.table["centre"][rows.start : rows.stop]]

    def centre_activations(self, rows: range) -> np.ndarray:
        acts: Ragged = self.table["activations"]
        return acts.values[acts.starts[rows.start : rows.stop] + self.table["centre"][rows.start : rows.stop]]

    def encode(self, rows: range, texts: Texts) -> list[list]:
        """Examples of `rows`, whole."""
        a, b = rows.start, rows.stop
        tokens, acts = self.table["tokens"].rows(a, b), self.table.rounded("activations").rows(a, b)
        places = texts.all(tokens.values)
        bounds = tokens.starts.tolist()
        activations = sparse(acts.values, acts.starts)
        effects = self._effects(a, b)
        more = zip(
            *(self.table[name][a:b].tolist() for name in ("centre", "repeated", "context", "position", "domain")),
            strict=True,
        )
        ups, downs = self.changes("up", a, b, texts), self.changes("down", a, b, texts)
        return [
            [places[bounds[k] : bounds[k + 1]], centre, activations[k], effects[k], ups[k], downs[k], int(repeated),
             context, position, domain]
            for k, (centre, repeated, context, position, domain) in enumerate(more)
        ]  # fmt: skip

    def brief(self, row: int, texts: Texts) -> list:
        """[tokens, centre, activations] of one example, for lists."""
        tokens, acts = self.table["tokens"].rows(row, row + 1), self.table.rounded("activations").rows(row, row + 1)
        return [texts.all(tokens.values), int(self.table["centre"][row]), sparse(acts.values, acts.starts)[0]]

    def _effects(self, a: int, b: int) -> list:
        effects: Ragged = self.table.rounded("loss_effects").rows(a, b)
        if not effects.present.any():
            return [None] * (b - a)
        values = np.nan_to_num(effects.values)
        return [e if there else None for e, there in zip(sparse(values, effects.starts), effects.present, strict=True)]

    def changes(self, way: str, a: int, b: int, texts: Texts) -> list:
        tokens, values = self.table[f"{way}_tokens"].rows(a, b), self.table.rounded(f"{way}_values").rows(a, b)
        if not tokens.present.any():
            return [None] * (b - a)
        flat = texts.pairs(tokens.values, values.values)
        ends = (2 * tokens.starts).tolist()
        return [flat[p:q] if there else None for (p, q), there in zip(pairwise(ends), tokens.present, strict=True)]

    def by_group(self, i: int, texts: Texts) -> list:
        """[[group, examples] ...] of feature i."""
        rows = self.rows(i)
        groups = self.table["group"][rows.start : rows.stop]
        encoded = self.encode(rows, texts)
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(encoded)]
        return [[int(groups[p]), encoded[p:q]] for p, q in pairwise(cuts) if q > p]
