"""What a feature goes by in lists: its label, the tokens of its strongest examples, logits, kinds, one example.

A row is [label, tops, up, down, kinds, best]: texts as places in the file's list, tops as [token, examples, ...].
"""

from collections import Counter

from monosem.report.browser.examples import Examples, Texts
from monosem.report.browser.kinds import NAMES, kinds_of
from monosem.report.browser.tables import Table
from monosem.report.browser.words import Vocabulary

TOPS, LOGITS = 6, 5
"""Of a row: tokens it fires on, and logits of either sign."""

TOP_GROUP = 1
"""Groups that hold the strongest examples: the first alone."""


def top_tokens(examples: Examples, i: int) -> list[tuple[int, int]]:
    """(token, in how many of the strongest examples it is the example's token) of feature i, most frequent first."""
    return Counter(examples.centre_tokens(examples.rows(i, TOP_GROUP)).tolist()).most_common(TOPS)


def kinds(examples: Examples, i: int, vocabulary: Vocabulary) -> list[tuple[str, float]]:
    """Kinds of text of feature i, with their shares of the strongest examples."""
    rows = examples.rows(i, TOP_GROUP)
    tokens = examples.table["tokens"]
    centres = examples.table["centre"][rows.start : rows.stop].tolist()
    return kinds_of([(vocabulary.window(tokens[r].tolist()), j) for r, j in zip(rows, centres, strict=True)])


def row(features: Table, examples: Examples, i: int, texts: Texts, tops: list, found: list) -> list:
    """The row of the slice's feature i; `tops` and `found` as `top_tokens` and `kinds` give them."""
    label = features["label_token"][i] if features.valid("label_token")[i] else None
    rows = examples.rows(i)
    return [
        None if label is None else texts.place(int(label)),
        [x for token, n in tops for x in (texts.place(token), n)],
        _logits(features, "top", i, texts),
        _logits(features, "bottom", i, texts),
        [NAMES.index(kind) for kind, _ in found],
        examples.brief(rows[0], texts) if rows else None,
    ]


def _logits(features: Table, end: str, i: int, texts: Texts) -> list:
    tokens, values = features[f"{end}_logit_tokens"][i], features.rounded(f"{end}_logit_values")[i]
    return [] if tokens is None else texts.pairs(tokens[:LOGITS], values[:LOGITS])
