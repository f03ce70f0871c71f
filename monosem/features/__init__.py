"""What features mean: the tables of a finished dictionary, and the pass that makes them.

>>> import monosem
>>> found = monosem.features("monosem-store/sweeps/quickstart/runs/8x")
>>> found.features.to_pandas()        # also .examples, .texts, .related, .vocab: pyarrow tables

The package itself can be called, and is light until it is.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monosem.features.read import FeatureTables


class _Callable(ModuleType):
    def __call__(self, uri: str) -> "FeatureTables":
        """The tables at `uri`, a run's directory in its store (or a sweep's neurons). See `read.FeatureTables`."""
        from monosem.features.read import FeatureTables

        return FeatureTables(uri)


sys.modules[__name__].__class__ = _Callable
