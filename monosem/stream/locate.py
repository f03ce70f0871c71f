"""From a row of the stream to the text it came from, and back: arithmetic and the token index, no search."""

from dataclasses import dataclass

import numpy as np

from monosem.stream.harvest import StreamText


@dataclass(frozen=True)
class Origin:
    """Where rows came from; int64 arrays of one shape.

    document   number of the document in the token index
    context    context of the token index
    token      position in the context
    epoch      which pass over the contexts
    """

    document: np.ndarray
    context: np.ndarray
    token: np.ndarray
    epoch: np.ndarray


def origin(text: StreamText, t: np.ndarray) -> Origin:
    """Where the global rows `t` (>= 0) came from."""
    j, rho = text.order.row(np.asarray(t, dtype=np.int64))
    context = text.selection.contexts[text.order.context(j)]
    token = np.empty_like(j)
    for place in np.unique(j):  # one draw of positions per context, however many of its rows are asked for
        at = j == place
        token[at] = text.tokens(int(place), int(context[at].flat[0]))[rho[at]]
    document = text.index.document_of(context, token)
    return Origin(document, context, token, j // text.order.contexts_per_epoch)


def row_of(text: StreamText, context: int, token: int, epoch: int) -> int | None:
    """The global row of `token` of `context` in `epoch`, or None if that epoch does not emit it.

    A row is not emitted if its position was not sampled, its context was left over in that epoch or is
    not used at all, or if it fell into the first segments, which are never complete.
    """
    number = np.searchsorted(text.selection.contexts, context)
    if number == len(text.selection.contexts) or text.selection.contexts[number] != context:
        return None
    j = int(text.order.place_of_context(np.array([number]), epoch)[0])
    if j < 0:
        return None
    rho = np.flatnonzero(text.tokens(j, context) == token)
    if not len(rho):
        return None
    t = int(text.order.place(np.array([j]), rho)[0])
    return t if t >= 0 else None
