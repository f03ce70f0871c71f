"""Which of a dictionary's features this process holds, and how it reaches those that hold the others.

Rows go through every part; what a part decodes is added to what the others do, so that per step no more than
rows x d_out crosses the wire, whatever the number of features.
"""

from torch import Tensor

import monosem.mkl  # noqa: F401


class Part:
    """All features are here: there is nobody to reach. `learn/mesh.py` has the part of several.

    first, of   the first feature that is held here, and how many there are in all
    count       how many parts there are; `index`: which this is
    """

    count, index, first = 1, 0, 0

    def __init__(self, of: int):
        self.of = of

    def add(self, t: Tensor) -> Tensor:
        """The sum of all parts' tensors of this shape; `t` may be overwritten."""
        return t

    def least(self, t: Tensor) -> Tensor:
        """The least of all parts' values, element by element."""
        return t

    def every(self, t: Tensor) -> list[Tensor]:
        """All parts' tensors, in order; they may differ in length."""
        return [t]

    def agreed(self, yes: bool) -> bool:
        """Whether all parts say yes."""
        return yes

    def ends(self, ends: tuple[int, ...], held: int) -> tuple[int, ...]:
        """Where nested prefixes of all features end among those held here."""
        return tuple(min(max(end - self.first, 0), held) for end in ends)
