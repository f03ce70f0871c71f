"""`monosem truth`: train dictionaries on rows whose features are known, and mark them."""

import torch

from monosem.config.job import LearnerConfig, SweepJob, TruthJob
from monosem.errors import InputError
from monosem.learn.learner import Learner
from monosem.memory import keep_freed_memory
from monosem.sae.init import geometric_median, input_scale
from monosem.stages.prepare import check_training
from monosem.stages.spec import RunSpec, expand_runs
from monosem.threads import torch_threads
from monosem.track.progress import PhaseProgress
from monosem.truth.generator import Truth, TruthConfig
from monosem.truth.score import FREQUENT, score


def run_truth(job: TruthJob) -> list[dict]:
    """Marks of each run: its name, variant, d_sae, and the fields of `Score`. Rows after those of training mark."""
    keep_freed_memory()
    check_job(job)
    truth = Truth(TruthConfig(**vars(job.truth)))
    check(truth)
    as_sweep = SweepJob(name=job.name, sae=job.sae, train=job.train, learner=job.learner)
    runs = expand_runs(as_sweep, {"truth": job.truth.d_in})
    with torch_threads(job.learner.threads):
        learners = [start(job, run, truth) for run in runs]
        train(job, learners, truth)
        seen, found = job.train.steps * job.train.batch_size, []
        for run, learner in zip(runs, learners, strict=True):
            learner.check_finite()
            marks = score(learner.dictionary().to("cpu"), truth, seen, seen + job.rows)
            found.append({"run": run.name, "variant": run.sae.variant, "d_sae": run.sae.d_sae, **marks.as_dict()})
    return found


def check_job(job: TruthJob) -> None:
    """InputError for what goes wrong in an exam, or does nothing in one."""
    if job.sae.target is not None:
        raise InputError(f"sae.target={job.sae.target}: an exam has no hook points, and so no transcoders")
    for name in ("replicas", "feature_shards", "exchange", "pack_parameters"):
        value = getattr(job.learner, name)
        if value != getattr(LearnerConfig(), name):
            raise InputError(f"learner.{name}={value}: an exam trains in one process, on one rank; leave it out")
    check_training(job)


def check(truth: Truth) -> None:
    """InputError if there can be no such rows, or nothing to mark."""
    try:
        frequent = (truth.probability >= FREQUENT).any()
    except ValueError as error:
        raise InputError(f"truth.{error}") from None
    if not frequent:
        raise InputError(f"truth.active={truth.config.active}: no feature is active on {FREQUENT} of the rows")


def start(job: TruthJob, run: RunSpec, truth: Truth) -> Learner:
    """A learner as a sweep would start it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first = torch.from_numpy(truth.rows(0, job.train.init_rows))
    median = geometric_median(first) if run.sae.subtract_b_dec else None
    return Learner(run.sae, job.train, device, median, job.learner.slots, input_scale(first, job.train.input_scale))


def train(job: TruthJob, learners: list[Learner], truth: Truth) -> None:
    """All learners over the truth's rows from the first on, each batch made once."""
    B, steps = job.train.batch_size, job.train.steps
    with PhaseProgress("train", steps * B, "rows") as progress:
        for step in range(steps):
            if step in job.train.resample_steps:
                rows = torch.from_numpy(truth.rows(step * B - min(job.train.resample_rows, step * B), step * B))
                for learner in learners:
                    learner.resample(rows)
            x = torch.from_numpy(truth.rows(step * B, (step + 1) * B))
            for learner in learners:
                learner.step(x)
            progress.update((step + 1) * B)
