"""Domains of token positions, with names for the frequent ones alone: what is counted by domain must be bounded."""

import numpy as np

from monosem.text.tokens import TokenIndex

MOST = 32
"""Domains with a name of their own; the rarer ones are OTHERS together."""
OTHERS = "(others)"
AT_ONCE = 4096


def counted_domains(index: TokenIndex, contexts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names by falling frequency, and the domain of every position of these contexts, int16 [contexts, T].

    A corpus without labels has the one name "".
    """
    T = index.tokens_NT.shape[1]
    raw = np.empty((len(contexts), T), np.int32)
    for lo in range(0, len(contexts), AT_ONCE):
        document = index.document_of(contexts[lo : lo + AT_ONCE, None], np.arange(T)[None, :])
        raw[lo : lo + AT_ONCE] = index.doc_domains[document]
    counts = np.bincount(raw.reshape(-1), minlength=len(index.domains))
    order = np.argsort(-counts, kind="stable")
    named = order[counts[order] > 0][:MOST]
    number = np.full(len(counts), len(named), np.int16)
    number[named] = np.arange(len(named))
    names = [index.domains[i] for i in named]
    return names + ([OTHERS] if (counts > 0).sum() > len(named) else []), number[raw]
