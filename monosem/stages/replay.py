"""Datasets in a sweep: which one is read in place of the host, and whether it holds the rows that the job means."""

from dataclasses import replace

from monosem.dataset.manifest import MANIFEST, Dataset, Manifest, open_dataset
from monosem.errors import InputError
from monosem.stages.spec import SweepSpec, first_difference, slug, stream_identity
from monosem.store.store import open_store


def find_dataset(uri: str, hook_point: str) -> Dataset:
    """The dataset of a hook point at `uri`: the one below its name, or the only one there."""
    name = slug(hook_point)
    if open_store(uri).exists(MANIFEST):
        return open_dataset(uri)
    return open_dataset(uri, name)


def check_datasets(spec: SweepSpec) -> SweepSpec:
    """The spec, checked against the datasets of `stream.from`; with their digests if they are rows of another kind."""
    uri = spec.job.stream.from_
    if uri is None:
        return spec
    if spec.job.stream.tee is not None:
        raise InputError("stream.tee: reads and writes datasets at once with stream.from; give one of them")
    if len(spec.hook_points) > 1 and open_store(uri).exists(MANIFEST):
        raise InputError(
            f"stream.from={uri!r}: is one dataset, this job reads {', '.join(spec.hook_points)}; "
            "give a directory with a dataset below each name"
        )
    datasets = {hook_point: find_dataset(uri, hook_point) for hook_point in spec.hook_points}
    for hook_point, dataset in datasets.items():
        _check_rows(spec, hook_point, dataset)
        _check_origin(spec, hook_point, dataset)
    for run in spec.runs:
        if run.target is not None:
            _check_pair(datasets[run.hook_point], datasets[run.target])
    manifests = {hook_point: dataset.manifest for hook_point, dataset in datasets.items()}
    foreign = {h: m.digest for h, m in manifests.items() if m.order["kind"] != "stream" or not m.error["exact"]}
    if foreign and len(foreign) < len(spec.hook_points):
        raise InputError(f"stream.from={uri!r}: datasets of several kinds cannot feed one sweep")
    unknown = tuple(h for h, m in manifests.items() if m.order["kind"] != "stream" and "hook_point" not in m.lineage)
    return replace(spec, datasets=foreign, unknown_rows=unknown)


def _check_rows(spec: SweepSpec, hook_point: str, dataset: Dataset) -> None:
    manifest, where = dataset.manifest, f"stream.from={dataset.uri!r}"
    if manifest.width != spec.widths[hook_point]:
        raise InputError(
            f"{where}: its rows are {manifest.width} wide, {hook_point} of {spec.job.host.model} is "
            f"{spec.widths[hook_point]}"
        )
    last = manifest.first_row + manifest.rows
    if manifest.first_row > 0 or last < spec.last_row:
        raise InputError(
            f"{where}: holds rows {manifest.first_row:,} to {last:,}, the sweep reads 0 to {spec.last_row:,} "
            "(train.steps x train.batch_size, and train.init_rows)"
        )


def _check_origin(spec: SweepSpec, hook_point: str, dataset: Dataset) -> None:
    """A dataset of a stream must be of this very stream; shuffled rows of its host, hook point and text."""
    manifest, where = dataset.manifest, f"stream.from={dataset.uri!r}"
    of, mine = manifest.lineage.get("hook_point", hook_point), stream_identity(spec, hook_point)
    if of != hook_point:
        raise InputError(f"{where}: holds rows of {of}, this job reads {hook_point} there")
    theirs = manifest.order["identity"] if manifest.order["kind"] == "stream" else _source_order(manifest)
    if manifest.order["kind"] != "stream":  # rows in another order than the stream's: its seed and order say nothing
        theirs, mine = ({key: order.get(key) for key in ("host", "corpus")} for order in (theirs, mine))
        if theirs["host"] is None:
            return
    found = first_difference(theirs, mine)
    if found:
        field, old, new = found
        raise InputError(f"{where}: made with {field}={old}, this job has {new}")


def _check_pair(x: Dataset, y: Dataset) -> None:
    """Row i of both must be of one token, as far as they tell: a transcoder learns one from the other."""
    found = first_difference(_pairing(x.manifest), _pairing(y.manifest))
    if found:
        field, one, other = found
        raise InputError(
            f"stream.from: the rows of {x.uri} and {y.uri} do not belong together, as a transcoder's must: "
            f"{field} is {one} and {other}"
        )


def _pairing(manifest: Manifest) -> dict:
    """What decides which token a row is of, and is the same for all hook points of one pass."""
    order = manifest.order
    if order["kind"] == "stream":
        return {"order": _without_hook_point(order["identity"])}
    seed = _part(order, "shuffled").get("seed")
    return {"rows": manifest.rows, "shuffle seed": seed, "source": _without_hook_point(_source_order(manifest))}


def _source_order(manifest: Manifest) -> dict:
    """The identity of the stream whose rows were shuffled; empty where the dataset does not know one."""
    return _part(manifest.lineage, "source", "order", "identity")


def _without_hook_point(identity: dict) -> dict:
    return identity | {"host": {key: value for key, value in _part(identity, "host").items() if key != "hook_point"}}


def _part(record: dict, *path: str) -> dict:
    """What lies below `path`; empty where there is nothing, or no object: others write manifests too."""
    for key in path:
        record = record.get(key)
        if not isinstance(record, dict):
            return {}
    return record
