"""The data view: texts in which every token has its active features (Bricken et al. 2023, feature browser)."""

from itertools import pairwise

import numpy as np

from monosem.report.browser.examples import Texts
from monosem.report.browser.pack import Site, listed, plain
from monosem.report.browser.tables import FeatureTables, Table
from monosem.report.browser.words import Vocabulary

OPENING = 24
"""Tokens of a text that the list of texts shows."""


def write_texts(site: Site, name: str, tables: FeatureTables, vocabulary: Vocabulary, names: list[list[str]]) -> int:
    """texts.js, and text-<n>.js for each text; `names` of the run's features. Returns how many texts there are."""
    table = tables.texts
    if table is None or not table.length:
        return 0
    starts = np.append(np.flatnonzero(np.diff(table["text"], prepend=-1)), table.length)
    overview = []
    for number, (a, b) in enumerate(pairwise(starts.tolist())):
        site.data(f"{name}/text-{number}", _text(table, a, b, Texts(vocabulary.texts), names, tables.largest))
        opening = vocabulary.window(table["token"][a : min(b, a + OPENING)].tolist()).text
        overview.append([int(table["domain"][a]), opening[:100]])
    site.data(f"{name}/texts", overview)
    return len(overview)


def _text(table: Table, a: int, b: int, texts: Texts, names: list[list[str]], largest: np.ndarray) -> dict:
    active, strengths = table["features"].rows(a, b), table.rounded("activations").rows(a, b)
    flat: list = [None] * (2 * len(active.values))
    flat[0::2], flat[1::2] = active.values.tolist(), listed(strengths.values)
    ends = (2 * active.starts).tolist()
    loss, known = table["loss"][a:b], table.valid("loss")[a:b]
    return {
        "tokens": texts.all(table["token"][a:b]),
        "loss": [plain(x) if ok else None for x, ok in zip(loss, known, strict=True)],
        "active": [flat[p:q] for p, q in pairwise(ends)],
        "names": [[f, [w[:40] for w in names[f]], plain(max(largest[f], _most(active.values, strengths.values, f)))]
                  for f in np.unique(active.values).tolist()],
        "texts": texts.texts,
    }  # fmt: skip


def _most(features: np.ndarray, activations: np.ndarray, feature: int) -> float:
    return float(activations[features == feature].max())
