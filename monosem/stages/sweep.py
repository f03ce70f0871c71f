"""`monosem sweep`: prepare, train what is not finished, and show what came out.

The executor that does the training is handed in by the command line, so that this file knows no Ray.
"""

from collections.abc import Callable

from monosem.config.job import SweepJob
from monosem.learn.run import clear_training_state
from monosem.report.summary import write_summary
from monosem.report.table import show_table
from monosem.stages.executor import Executor, MemoryCheck, Status
from monosem.stages.features import check_compare, run_features
from monosem.stages.listing import run_rows
from monosem.stages.prepare import prepare_sweep, run_states
from monosem.stages.report import report_sweep
from monosem.stages.spec import RunSpec, SweepSpec
from monosem.store import layout
from monosem.store.store import Store, open_store
from monosem.track.progress import PhaseProgress


def run_sweep(job: SweepJob, executor: Executor, say: Callable[[str], None]) -> int:
    """Do the whole sweep. Returns the exit code: 0, or 1 if a run failed; raises Interrupted when told to stop."""
    store, memory = open_store(job.store), MemoryCheck(executor, trains=True)
    check_compare(job)
    with PhaseProgress("tokenise", job.corpus.max_tokens, "tokens") as progress:
        spec = prepare_sweep(job, store, progress.update, memory)
    states = run_states(store, spec)
    open_runs = [run for run in spec.runs if states[run.name] == "open"]
    for run in spec.runs:
        if states[run.name] == "finished":  # perhaps the process that finished it was killed before it had cleared up
            clear_training_state(store, layout.run(job.name, run.name))
    _announce(spec, open_runs, say)
    if open_runs and memory.line:
        say(memory.line)
    if open_runs and executor.one_rank and job.learner.replicas > 1:
        say(f"note: one process trains on one rank, not {job.learner.replicas}; the result is the same")
    errors: dict[str, str] = {}
    if open_runs:
        errors = _train(spec, open_runs, executor).errors
        for name, error in errors.items():
            say(f"run {name} failed: {error}")
    pages = [layout.summary(job.name)] + [f"{layout.browser(job.name)}/index.html"] * job.features.enabled
    if open_runs or not all(store.exists(page) for page in pages):
        finish(store, spec, executor, say)
    else:
        show_table(run_rows(store, job.name))
        say(f"summary: {store.url}/{layout.summary(job.name)}")
        explain(store, job, executor, say)
    return 1 if errors else 0


def finish(store: Store, spec: SweepSpec, executor: Executor, say: Callable[[str], None]) -> None:
    """The final table, summary.html, what the features mean and their pages, from what is in the store."""
    rows = run_rows(store, spec.job.name)
    show_table(rows)
    if any(row["state"] == "finished" for row in rows):
        say(f"summary: {write_summary(store, spec.job.name)}")
        explain(store, spec.job, executor, say)


def explain(store: Store, job: SweepJob, executor: Executor, say: Callable[[str], None]) -> None:
    """What the features of the finished runs mean, and its pages, if the job wants it and they are not there yet."""
    if job.features.enabled:
        with executor.feature_tasks(job) as run:
            run_features(store, job.name, job.features, job.learner.threads, say, run)
        say(f"browser: {report_sweep(store, job.name, say)}")


def _announce(spec: SweepSpec, open_runs: list[RunSpec], say: Callable[[str], None]) -> None:
    job, order = spec.job, spec.order
    if not open_runs:
        say(f"sweep {job.name}: all {len(spec.runs)} runs are finished, nothing to do")
        return
    rows = job.train.steps * job.train.batch_size
    epoch = order.contexts_per_epoch * order.rows_per_context
    say(
        f"sweep {job.name}: {len(open_runs)} of {len(spec.runs)} runs to train: "
        f"{', '.join(run.name for run in open_runs)}"
    )
    points = ", ".join(f"{name} (width {n})" for name, n in spec.widths.items())
    say(
        f"host {job.host.model} at {points}, {rows:,} rows, "
        f"{rows / epoch:.2f} passes over the corpus"
    )
    if spec.documents_passed_over:
        where = f"corpora/{spec.corpus_key}/index.json"
        say(f"note: {spec.documents_passed_over:,} unusable documents passed over, see {where}")
    if spec.contexts_passed_over:
        short = f"fewer than {job.stream.rows_per_context} usable positions"
        say(f"note: {spec.contexts_passed_over:,} contexts are left out, they have {short}")
    if spec.unknown_rows:
        names = ", ".join(spec.unknown_rows)
        say(f"note: the rows of {job.stream.from_} do not say what they are of; they are taken as {names}")
    if rows > epoch:
        say("note: rows repeat after the first pass, which the paper advises against; raise corpus.max_tokens")


def _train(spec: SweepSpec, open_runs: list[RunSpec], executor: Executor) -> Status:
    train = spec.job.train
    total = train.steps * train.batch_size
    with PhaseProgress("train", total, "rows") as progress:

        def report(status: Status) -> None:
            steps = [status.steps.get(run.name, 0) for run in open_runs]
            mean = sum(steps) * train.batch_size // len(steps)
            progress.update(mean, f"wait {100 * status.wait_share:.0f}%  {status.note}")

        return executor.execute(spec, open_runs, report)
