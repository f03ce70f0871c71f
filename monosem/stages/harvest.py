"""`monosem harvest`: keep a range of the stream as activation datasets, one per hook point."""

from collections.abc import Callable

from monosem.config.job import SweepJob
from monosem.errors import InputError
from monosem.stages.executor import Executor, Keeping, MemoryCheck, Status
from monosem.stages.keep import harvest_uri
from monosem.stages.prepare import prepare_stream
from monosem.stages.replay import find_dataset
from monosem.store.store import open_store
from monosem.track.progress import PhaseProgress


def run_harvest(job: SweepJob, executor: Executor, say: Callable[[str], None]) -> int:
    """Write the rows of `dataset.first_row` and `dataset.rows` (0: what the job's training reads). Exit code 0."""
    if job.stream.from_ is not None:
        raise InputError("stream.from: harvest writes a dataset, it does not read one; leave it out")
    memory = MemoryCheck(executor, trains=False)
    with PhaseProgress("tokenise", job.corpus.max_tokens, "tokens") as progress:
        spec = prepare_stream(job, open_store(job.store), progress.update, memory)
    keeping = Keeping(harvest_uri(job), job.dataset.first_row, job.dataset.rows or spec.last_row)
    say(
        f"harvest {job.name}: rows {keeping.first_row:,} to {keeping.first_row + keeping.rows:,} of "
        f"{', '.join(spec.hook_points)} to {keeping.uri}"
    )
    if memory.line:
        say(memory.line)
    with PhaseProgress("harvest", keeping.rows, "rows") as progress:

        def report(status: Status) -> None:
            progress.update(status.written, status.note)

        executor.harvest(spec, keeping, report)
    for hook_point in spec.hook_points:
        say(describe(find_dataset(keeping.uri, hook_point)))
    return 0


def describe(dataset) -> str:
    """A dataset in one line."""
    m = dataset.manifest
    size = sum(shard.bytes for shard in m.shards)
    error = "every bit kept" if m.error["exact"] else f"FVU of rounding {m.error['fvu']:.1e}"
    masked = f", {m.masked:,} masked" if m.masked else ""
    return (
        f"dataset: {dataset.uri}  {m.rows:,} rows x {m.width}, {len(m.shards)} files, {size / 1e6:,.1f} MB, "
        f"{m.codec}: {error}{masked}"
    )
