"""Keeping the rows of a stream as datasets: what `monosem harvest` writes and `stream.tee` writes on the side."""

from collections.abc import Callable, Mapping

from monosem.config.job import SweepJob
from monosem.dataset.manifest import Dataset
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.stages.spec import SweepSpec, slug, stream_identity
from monosem.store.store import open_store
from monosem.stream.reader import SegmentSource


def harvest_uri(job: SweepJob) -> str:
    """Where `monosem harvest` writes: `stream.tee`, or a place in the store."""
    return job.stream.tee or f"{job.store.rstrip('/')}/activations/{job.name}"


def plan_dataset(spec: SweepSpec, hook_point: str, first_row: int, rows: int) -> Plan:
    """The dataset of rows [first_row, first_row + rows) of a hook point's stream."""
    job = spec.job
    return Plan(
        width=spec.widths[hook_point],
        rows=rows,
        first_row=first_row,
        codec=job.dataset.codec,
        shard_rows=job.dataset.shard_rows,
        order={"kind": "stream", "identity": stream_identity(spec, hook_point)},
        lineage={
            "host": job.host.model,
            "revision": job.host.revision,
            "hook_point": hook_point,
            "alias": spec.aliases[hook_point],
            "corpus": job.corpus.source,
            "corpus_key": spec.corpus_key,
        },
    )


def open_writer(spec: SweepSpec, uri: str, hook_point: str, first_row: int, rows: int) -> DatasetWriter:
    """A writer of one hook point's dataset below `uri`; it goes on where an earlier one stopped."""
    return DatasetWriter(open_store(uri), slug(hook_point), plan_dataset(spec, hook_point, first_row, rows))


def pump(
    source: SegmentSource, segment_rows: int, writer: DatasetWriter, hook_point: str, before: int | None = None
) -> None:
    """Let `writer` have all rows up to segment `before` (None: to its end), from segments read in order."""
    while writer.next_row < writer.end_row:
        u, first = divmod(writer.next_row, segment_rows)
        if before is not None and u >= before:
            return
        writer.add(source.segment(u, hook_point)[first:])


class Tee:
    """A source that keeps what passes by. Rows that passed before a restart are read again, in order."""

    private = True

    def __init__(self, source: SegmentSource, segment_rows: int, writers: Mapping[str, DatasetWriter]):
        self.source, self.segment_rows, self.writers = source, segment_rows, writers

    def segment(self, u: int, hook_point: str):
        writer = self.writers[hook_point]
        pump(self.source, self.segment_rows, writer, hook_point, before=u)
        rows = self.source.segment(u, hook_point)
        if writer.next_row < writer.end_row and writer.next_row // self.segment_rows == u:
            writer.add(rows[writer.next_row % self.segment_rows :])
        return rows

    def finish(self, progress: Callable[[int], None] = lambda rows: None) -> list[Dataset]:
        """Write what is still missing and the manifests."""
        last = max(-(-w.end_row // self.segment_rows) for w in self.writers.values())
        first = min(w.next_row // self.segment_rows for w in self.writers.values())
        for u in range(first, last):  # segment by segment, so that each is made once for all hook points
            for hook_point, writer in self.writers.items():
                pump(self.source, self.segment_rows, writer, hook_point, before=u + 1)
            progress(min(w.next_row for w in self.writers.values()))
        return [writer.finish() for writer in self.writers.values()]
