"""monosem: ladders of sparse-autoencoder dictionaries on one shared stream of activations.

>>> import monosem
>>> sae = monosem.load("monosem-store/sweeps/quickstart/runs/8x")
>>> f = sae.encode(x)                 # [..., d_in] -> [..., d_sae]
>>> monosem.features("monosem-store/sweeps/quickstart/runs/8x").features.to_pandas()

Importing this is light; the names below are loaded when first used, none of them imports ray.
"""

import os
from importlib import import_module

# Set before torch is loaded: between two of its products its threads would spin, on cores that the kernels need then.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_HOMES = {
    "Learner": "monosem.learn.learner",
    "Sae": "monosem.sae.model",
    "SaeConfig": "monosem.sae.config",
    "TrainConfig": "monosem.config.job",
    "load": "monosem.store.dictionary",
}

__all__ = ["Learner", "Sae", "SaeConfig", "TrainConfig", "__version__", "features", "load"]


def __getattr__(name: str):
    if name == "features":  # a package that can be called: monosem.features(uri)
        return import_module("monosem.features")
    if name not in _HOMES:
        raise AttributeError(f"module 'monosem' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
