"""What `monosem plan` is told or finds out before it plans: wishes, the cluster, and the rates that hold for it."""

import math

from monosem.errors import InputError
from monosem.plan.cluster import Cluster, parse_cluster, this_machine
from monosem.plan.devices import DATASHEET, EFFICIENCY, Datasheet, Measured
from monosem.stages.calibrate import calibration, points
from monosem.stages.plan import Planned, Wishes, misfit_line
from monosem.store.store import open_store
from monosem.track.progress import PhaseProgress


def wishes_of(inline: bool, l0: float, efficiency: float | None) -> Wishes:
    """InputError if a number is out of its range."""
    if not (math.isfinite(l0) and 0 < l0 <= 1e9):
        raise InputError(f"--l0={l0:g}: must be above 0 and at most 1e9")
    if efficiency is not None and not 0 < efficiency <= 1:
        raise InputError(f"--efficiency={efficiency:g}: must be above 0 and at most 1")
    return Wishes(inline, l0, EFFICIENCY if efficiency is None else efficiency)


def choose_cluster(text: str | None) -> Cluster:
    return this_machine() if text is None else parse_cluster(text)


def choose_rates(planned: Planned, cluster: Cluster, wishes: Wishes, again: bool) -> Datasheet | Measured:
    """Datasheets for GPUs; for processors this machine's rates: from the store, or measured now. `again`: measured."""
    if cluster.kind and not again:
        return Datasheet(DATASHEET[cluster.kind], wishes.efficiency)
    if cluster.kind:
        raise InputError(f"--calibrate: measures this machine, and {cluster.text} is another; leave one of them out")
    saes = [run.sae for run in planned.runs]
    store = open_store(planned.job.store)
    with PhaseProgress("calibrate", points(len({sae.variant for sae in saes})), "points") as progress:
        return calibration(planned.job, saes, planned.model, store, again, progress.update)


def check_fit(plan: dict, cluster: Cluster) -> None:
    """InputError with the numbers of the first run that does not fit."""
    if not plan["fits"]:
        raise InputError(misfit_line(plan, cluster))
