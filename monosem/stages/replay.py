"""Datasets in a sweep: which one is read in place of the host, and whether it holds the rows that the job means."""

from dataclasses import replace

from monosem.dataset.manifest import MANIFEST, Dataset, open_dataset
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
    job = spec.job
    if job.stream.from_ is None:
        return spec
    if job.stream.tee is not None:
        raise InputError("stream.tee: reads and writes datasets at once with stream.from; give one of them")
    foreign = {}
    for hook_point in spec.hook_points:
        dataset = find_dataset(job.stream.from_, hook_point)
        _check_rows(spec, hook_point, dataset)
        manifest = dataset.manifest
        if manifest.order["kind"] == "stream":
            _check_stream(spec, hook_point, dataset)
        if manifest.order["kind"] != "stream" or not manifest.error["exact"]:
            foreign[hook_point] = manifest.digest
    if foreign and len(foreign) < len(spec.hook_points):
        raise InputError(f"stream.from={job.stream.from_!r}: datasets of several kinds cannot feed one sweep")
    return replace(spec, datasets=foreign)


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


def _check_stream(spec: SweepSpec, hook_point: str, dataset: Dataset) -> None:
    """A dataset of a stream must be of this very stream."""
    found = first_difference(dataset.manifest.order["identity"], stream_identity(spec, hook_point))
    if found:
        field, theirs, mine = found
        raise InputError(f"stream.from={dataset.uri!r}: made with {field}={theirs}, this job has {mine}")
