"""Which token positions of which contexts may give activation rows.

Left out are the first positions of every context and every occurrence of certain tokens; contexts with too few
positions left are left out whole, so that each of the others can give the same number of rows.
"""

from dataclasses import dataclass, field

import numpy as np

from monosem.text.tokens import TokenIndex

CHUNK_TOKENS = 2**22
"""Tokens looked at together; bounds memory, changes nothing else."""


@dataclass(frozen=True)
class Skipped:
    """The positions that no row comes from: the first ones of every context, and those of certain tokens."""

    positions: int = 0
    tokens: frozenset[int] = frozenset()

    def kept(self, tokens_NT: np.ndarray) -> np.ndarray:
        """Which positions of contexts, or of one, are left. bool, the shape of `tokens_NT`."""
        kept = ~np.isin(tokens_NT, list(self.tokens))
        kept[..., : self.positions] = False
        return kept

    def __bool__(self) -> bool:
        return bool(self.positions or self.tokens)


NONE_SKIPPED = Skipped()


@dataclass(frozen=True, eq=False)
class Selection:
    """The kept positions of an index.

    rows_per_context  positions a context must have left to be used, >= 1
    skip_positions    how many positions at the start of every context are left out, >= 0
    skip_tokens       token ids whose positions are left out
    contexts          the usable contexts, ascending, int64
    """

    index: TokenIndex
    rows_per_context: int
    skip_positions: int
    skip_tokens: frozenset[int]
    contexts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rows_per_context < 1 or self.skip_positions < 0:
            raise ValueError("rows_per_context must be at least 1, skip_positions at least 0")
        object.__setattr__(self, "contexts", self._usable())

    @property
    def dropped(self) -> int:
        """How many contexts are left out."""
        return len(self.index.tokens_NT) - len(self.contexts)

    def keep(self, context: int) -> np.ndarray:
        """Kept positions of one context, ascending, int64 [k]; k >= rows_per_context for those in `contexts`."""
        kept = self._positions()
        return kept[self._kept(self.index.tokens_NT[context])] if self.skip_tokens else kept

    def keep_of_all(self) -> np.ndarray | None:
        """Kept positions, where they are the same of every context; else None."""
        return None if self.skip_tokens else self._positions()

    def _positions(self) -> np.ndarray:
        return np.arange(self.skip_positions, self.index.tokens_NT.shape[1], dtype=np.int64)

    def _kept(self, tokens: np.ndarray) -> np.ndarray:
        """Whether each token after the skipped positions is kept: bool [..., T - skip_positions]."""
        return Skipped(self.skip_positions, self.skip_tokens).kept(tokens)[..., self.skip_positions :]

    def _usable(self) -> np.ndarray:
        n, length = self.index.tokens_NT.shape
        if length - self.skip_positions < self.rows_per_context:
            return np.zeros(0, np.int64)
        if not self.skip_tokens:
            return np.arange(n, dtype=np.int64)
        step = max(1, CHUNK_TOKENS // length)
        counts = (self._kept(self.index.tokens_NT[at : at + step]).sum(-1) for at in range(0, n, step))
        found = [np.flatnonzero(c >= self.rows_per_context) + i * step for i, c in enumerate(counts)]
        return np.concatenate([*found, np.zeros(0, np.int64)]).astype(np.int64)
