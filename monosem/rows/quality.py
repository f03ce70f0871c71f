"""How well the order of a stream mixes contexts: arithmetic alone, before anything has run.

Rows of one context share topic, author and language. With correlation ICC between them, c companions of a row in
its batch inflate the variance of a batch mean by 1 + c * ICC (Kish's design effect), so c is the number to keep small.
"""

from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from monosem.rows.order import StreamOrder, segment_pieces

LAGS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Quality:
    """Means over some consecutive batches.

    companions         rows of the same context in the batch, per row
    expected           the closed form of the same, see `expected_companions`
    most_companions    the largest number of any row
    distinct_contexts  in a batch
    entropy            of the contexts in a batch, over log(batch size): 1 if all differ
    lags               by lag: share of rows whose context also occurs that many batches later
    rows_at_hand       K*r*(G+1)/2: what the shuffle keeps
    """

    companions: float
    expected: float
    most_companions: int
    distinct_contexts: float
    entropy: float
    lags: dict[str, float]
    rows_at_hand: int

    def as_dict(self) -> dict:
        return asdict(self)


def measure_quality(order: StreamOrder, batch_size: int, batches: int = 16) -> Quality:
    """Quality over `batches` batches from the second segment on."""
    first = -(-order.segment_rows // batch_size) * batch_size
    members = [_contexts(order, first + n * batch_size, batch_size) for n in range(batches)]
    counts = [np.unique(j, return_counts=True)[1] for j in members]
    expected = [expected_companions(order, first + n * batch_size, batch_size) for n in range(batches)]
    return Quality(
        companions=float(np.mean([(c * (c - 1)).sum() / batch_size for c in counts])),
        expected=float(np.mean(expected)),
        most_companions=int(max(c.max() for c in counts)) - 1,
        distinct_contexts=float(np.mean([len(c) for c in counts])),
        entropy=float(np.mean([_entropy(c) for c in counts])),
        lags={str(lag): _recurrence(order, members, first, batch_size, lag) for lag in LAGS},
        rows_at_hand=order.segment_rows * (order.generations + 1) // 2,
    )


def expected_companions(order: StreamOrder, first_row: int, batch_size: int) -> float:
    """Companions per row that a batch from `first_row` on has on average over the seeds.

    A context has m = r/G rows in each of G consecutive segments of S = K*r rows, at random places. Two rows of one
    segment are of the same context with probability (m-1)/(S-1); two rows of segments d apart share G-d of their
    blocks, so with probability (G-d)*K*m*m / (S*S) = (G-d) / (K*G*G).
    """
    K, G, S = order.contexts_per_block, order.generations, order.segment_rows
    m = order.rows_per_context // G
    parts = [(u, last - first) for u, first, last in segment_pieces(first_row, first_row + batch_size, S)]
    pairs = sum(n * (n - 1) * (m - 1) / max(1, S - 1) for _, n in parts)
    pairs += sum(2 * a * b * max(0, G - (v - u)) / (K * G * G) for (u, a), (v, b) in combinations(parts, 2))
    return pairs / batch_size


def _contexts(order: StreamOrder, first: int, n: int) -> np.ndarray:
    """Stream contexts j of rows [first, first + n). int64 [n]."""
    return order.row(np.arange(first, first + n))[0]


def _entropy(counts: np.ndarray) -> float:
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum() / np.log(counts.sum())) if counts.sum() > 1 else 1.0


def _recurrence(order: StreamOrder, members: list[np.ndarray], first: int, batch_size: int, lag: int) -> float:
    """Of the rows of every fourth batch, the share whose context occurs `lag` batches later."""
    found = []
    for n in range(0, len(members), 4):
        later = members[n + lag] if n + lag < len(members) else None
        if later is None:
            later = _contexts(order, first + (n + lag) * batch_size, batch_size)
        found.append(np.isin(members[n], later).mean())
    return float(np.mean(found))
