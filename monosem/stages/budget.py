"""What memory a sweep is going to need, from its config: printed before it starts, and checked."""

from monosem.stages.spec import SweepSpec

BYTES_PER_VALUE = 4
SPARE_BYTES = 200 * 2**20


def object_store_bytes(spec: SweepSpec) -> int:
    """What the stream keeps in Ray's object store."""
    segment = spec.order.segment_rows * sum(spec.widths.values()) * BYTES_PER_VALUE
    ahead = max(1, spec.job.stream.ahead_rows // spec.order.segment_rows)
    return 2 * (ahead + 3) * segment + SPARE_BYTES
