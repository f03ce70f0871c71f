"""The map: features of several dictionaries in one plane (Bricken et al. 2023, "UMAP" of dictionary elements).

    plane      UMAP of the decoder vectors, 15 neighbours by cosine, least distance 0.05
    clusters   HDBSCAN, at least 3 members, on a UMAP in 10 dimensions with least distance 0.1
    order      UMAP in one dimension, by which the index of a run can be sorted; a cluster stands at its medoid

Neighbours are found once, exactly, and shared by the three. Seeded, so one thread works, in a process of its own
(`python -m monosem.report.browser.atlas DIR`) while the site is written. umap-learn and scikit-learn are in
monosem[map] and are imported here only.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

NEIGHBOURS, SEED, LEAST = 15, 0, 3
EPOCHS = 200
"""umap-learn's own choice for more than 10,000 points; of fewer it would take 500, at 2.5 times the cost."""

MOST_FEATURES = 20_000
"""On one map: the paper's two have 4,608 and 20,992. Dictionaries from the smallest on, as far as they fit."""

ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Atlas:
    """run [N]: place of the feature's dictionary in the list given; plane [N, 2] float32; cluster [N], -1 for none;
    order [N]: along one dimension."""

    run: np.ndarray
    feature: np.ndarray
    plane: np.ndarray
    cluster: np.ndarray
    order: np.ndarray


def is_available() -> bool:
    """Whether umap-learn and scikit-learn are installed."""
    from importlib.util import find_spec

    return find_spec("umap") is not None and find_spec("sklearn") is not None


class AtlasProcess:
    """`make_atlas` in a process of its own: `with AtlasProcess(decoders, alive) as work: ...; work.result()`."""

    def __init__(self, decoders: list[np.ndarray], alive: list[np.ndarray]):
        self.decoders, self.alive = decoders, alive

    def __enter__(self) -> "AtlasProcess":
        self.folder = tempfile.TemporaryDirectory(prefix="monosem-map-")
        arrays = {f"decoder{i}": d for i, d in enumerate(self.decoders)}
        np.savez(f"{self.folder.name}/in.npz", **arrays, **{f"alive{i}": a for i, a in enumerate(self.alive)})
        command = [sys.executable, "-m", "monosem.report.browser.atlas", self.folder.name]
        one_thread = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with open(f"{self.folder.name}/said", "wb") as said:
            self.process = subprocess.Popen(command, env=os.environ | one_thread, stdout=said, stderr=said)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def result(self) -> "Atlas | None":
        """Waits for it. RuntimeError, with what the process said last, if it failed."""
        if self.process.wait():
            said = Path(self.folder.name, "said").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"the map of features failed: {said[-1] if said else self.process.returncode}")
        with np.load(f"{self.folder.name}/out.npz", allow_pickle=False) as found:
            return Atlas(**found) if len(found.files) else None


def main(folder: str) -> None:
    """The process: in.npz to out.npz, which is empty if there are too few features."""
    with np.load(f"{folder}/in.npz", allow_pickle=False) as given:
        n = len(given.files) // 2
        atlas = make_atlas([given[f"decoder{i}"] for i in range(n)], [given[f"alive{i}"] for i in range(n)])
    np.savez(f"{folder}/out.npz", **({} if atlas is None else {f.name: getattr(atlas, f.name) for f in fields(Atlas)}))


def that_fit(sizes: list[int]) -> list[int]:
    """Places of the dictionaries that go on a map together, smallest first."""
    chosen, total = [], 0
    for place in sorted(range(len(sizes)), key=lambda place: sizes[place]):
        if total + sizes[place] <= MOST_FEATURES:
            chosen.append(place)
            total += sizes[place]
    return sorted(chosen)


def make_atlas(decoders: list[np.ndarray], alive: list[np.ndarray]) -> Atlas | None:
    """Of decoder vectors [features, d] each, those that are `alive` [features] bool. None if there are too few."""
    features = [np.flatnonzero(keep) for keep in alive]
    run = np.repeat(np.arange(len(decoders)), [len(f) for f in features])
    feature = np.concatenate(features)
    vectors = np.concatenate([d[f] for d, f in zip(decoders, features, strict=True)]).astype(np.float32)
    if len(vectors) <= NEIGHBOURS + 1:
        return None
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    neighbours = nearest(vectors, NEIGHBOURS)
    plane = _umap(vectors, neighbours, 2, 0.05)
    cluster = _clusters(_umap(vectors, neighbours, 10, 0.1))
    line = _umap(vectors, neighbours, 1, 0.1)[:, 0]
    return Atlas(run, feature, plane, cluster, in_order(line, cluster, vectors))


def in_order(line: np.ndarray, cluster: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[N] place of each feature: by `line`, the members of a cluster side by side where their medoid is."""
    key = line.astype(np.float64)
    for c in range(cluster.max() + 1):
        members = np.flatnonzero(cluster == c)
        medoid = members[(vectors[members] @ vectors[members].sum(axis=0)).argmax()]
        key[members] = line[medoid]
    by = np.lexsort((line, cluster, key))
    order = np.empty(len(line), dtype=np.int64)
    order[by] = np.arange(len(line))
    return order


def nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each unit vector by cosine, itself first: (places, 1 - cosine), each [N, k]."""
    places = np.empty((len(vectors), k), dtype=np.int64)
    distances = np.empty((len(vectors), k), dtype=np.float32)
    for a in range(0, len(vectors), ROWS_AT_ONCE):
        far = 1 - vectors[a : a + ROWS_AT_ONCE] @ vectors.T
        own = np.arange(len(far))
        far[own, a + own] = -1  # itself comes first, also where another vector is the same
        near = np.argpartition(far, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(far, near, axis=1), axis=1, kind="stable")
        places[a : a + len(far)] = np.take_along_axis(near, order, axis=1)
        distances[a : a + len(far)] = np.take_along_axis(far, places[a : a + len(far)], axis=1)
    return places, np.maximum(distances, 0)


def _umap(vectors: np.ndarray, neighbours: tuple, dimensions: int, least: float) -> np.ndarray:
    """[N, dimensions] float32, centred."""
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="umap")  # that a seed means one thread
        model = UMAP(
            n_neighbors=NEIGHBOURS, n_components=dimensions, metric="cosine", min_dist=least, random_state=SEED,
            n_jobs=1, n_epochs=EPOCHS, precomputed_knn=(*neighbours, None),
            init="pca" if dimensions <= min(vectors.shape) else "random",
        )  # fmt: skip
        found = model.fit_transform(vectors)
    return (found - found.mean(axis=0)).astype(np.float32)


def _clusters(points: np.ndarray) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=LEAST, copy=True).fit_predict(points)


if __name__ == "__main__":
    main(sys.argv[1])
