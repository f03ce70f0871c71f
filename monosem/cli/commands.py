"""The commands: each takes parsed arguments, calls one stage, returns an exit code.

Imports stand inside the functions, so that `monosem --help` and bad input do not wait for torch or Ray.
"""

import argparse
import json
import re
import sys

from monosem.errors import InputError, IntegrityError


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _document(value: object) -> None:
    _say(json.dumps(value, indent=1, allow_nan=False))


def sweep(args: argparse.Namespace) -> int:
    from monosem.config.job import SweepJob
    from monosem.config.load import load_job

    return _run_sweep(load_job(SweepJob, args.job, args.overrides), args)


def resume(args: argparse.Namespace) -> int:
    from monosem.stages.resume import stored_job

    return _run_sweep(stored_job(args.sweep), args)


def _run_sweep(job, args: argparse.Namespace) -> int:
    from monosem.stages.sweep import run_sweep

    return run_sweep(job, _executor(args), _say)


def _executor(args: argparse.Namespace):
    if args.inline:
        from monosem.stages.executor import InlineExecutor

        return InlineExecutor()
    from monosem.fleet.executor import RayExecutor

    return RayExecutor(args.address)


def harvest(args: argparse.Namespace) -> int:
    from monosem.config.job import SweepJob
    from monosem.config.load import load_job
    from monosem.stages.harvest import run_harvest

    return run_harvest(load_job(SweepJob, args.job, args.overrides), _executor(args), _say)


def plan(args: argparse.Namespace) -> int:
    from monosem.config.job import SweepJob
    from monosem.config.load import load_job
    from monosem.report.plan import show_plan
    from monosem.stages.plan import make_plan, outline_job
    from monosem.stages.planning import check_fit, choose_cluster, choose_rates, wishes_of

    job, wishes = load_job(SweepJob, args.job, args.overrides), wishes_of(args.inline, args.l0, args.efficiency)
    if args.address:
        from monosem.fleet.survey import survey

        cluster = survey(args.address)
    else:
        cluster = choose_cluster(args.cluster)
    planned = outline_job(job, args.inline, cluster)
    found = make_plan(planned, cluster, choose_rates(planned, cluster, wishes, args.calibrate), wishes)
    if args.json:
        _document(found)
    else:
        show_plan(found)
    check_fit(found, cluster)
    return 0


def submit(args: argparse.Namespace) -> int:
    from monosem.config.job import SweepJob
    from monosem.config.load import load_job
    from monosem.fleet import jobs

    job = load_job(SweepJob, args.job, args.overrides)
    return jobs.submit(job, args.address, args.wait, _say)


def status(args: argparse.Namespace) -> int:
    from monosem.fleet import jobs

    info = jobs.status(args.job_id, args.address)
    if args.json:
        _document(info)
    else:
        _say("  ".join(f"{key} {value}" for key, value in info.items() if value is not None))
    return 0


def logs(args: argparse.Namespace) -> int:
    from monosem.fleet import jobs

    jobs.logs(args.job_id, args.address, args.follow, sys.stdout)
    return 0


def stop(args: argparse.Namespace) -> int:
    from monosem.fleet import jobs

    _say(jobs.stop(args.job_id, args.address))
    return 0


def scale(args: argparse.Namespace) -> int:
    from monosem.fleet.control import scale

    _say(scale(args.sweep, args.workers))
    return 0


def pretrain(args: argparse.Namespace) -> int:
    from monosem.config.job import PretrainJob
    from monosem.config.load import load_job
    from monosem.stages.pretrain import run_pretrain

    job = load_job(PretrainJob, args.job, args.overrides)
    for prefix in run_pretrain(job):
        _say(f"host: {job.store}/{prefix}")
    return 0


def truth(args: argparse.Namespace) -> int:
    from monosem.config.job import TruthJob
    from monosem.config.load import load_job
    from monosem.report.table import show_marks
    from monosem.stages.truth import run_truth

    marks = run_truth(load_job(TruthJob, args.job, args.overrides))
    if args.json:
        _document(marks)
    else:
        show_marks(marks)
        _say(f"found: of {marks[0]['features']:,} true features, at a cosine of 0.95; strength: 1 is no shrinkage")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    from monosem.stages.evaluate import evaluate_uri

    metrics = evaluate_uri(args.uri)
    if args.json:
        _document(metrics)
    else:
        for name, value in metrics.items():
            if isinstance(value, int | float):
                _say(f"{name:20} {value:,.4f}" if isinstance(value, float) else f"{name:20} {value:,}")
    return 0


def doctor(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from monosem.config.job import SweepJob
    from monosem.config.load import load_job
    from monosem.report.doctor import show_finding
    from monosem.stages.doctor import examine

    given = [item for item in [args.job, *args.overrides] if item is not None]
    files, overrides = ([item for item in given if ("=" in item) is wanted] for wanted in (False, True))
    stores = [item.removeprefix("store=") for item in overrides if item.startswith("store=")]
    if len(files) > 1 or (not files and len(stores) < len(overrides)):
        raise InputError(f"{given[-1]!r}: write one JOB.yaml and its overrides, or store=URL alone, or nothing")
    job = load_job(SweepJob, files[0], overrides) if files else None
    cluster = None
    if args.address:
        from monosem.fleet.survey import survey

        cluster = survey(args.address)
    found = []
    for finding in examine(job, stores[-1] if stores else None, args.inline, cluster):
        found.append(finding)
        if not args.json:
            show_finding(**asdict(finding))
    if args.json:
        _document([asdict(finding) for finding in found])
    missing = [finding.about for finding in found if finding.ok is False]
    if missing:
        raise InputError(f"{len(missing)} missing: {', '.join(missing)}")
    return 0


def features(args: argparse.Namespace) -> int:
    from monosem.stages.features import features_of, inline_tasks

    tasks = inline_tasks
    if args.address:
        from monosem.fleet.features import FeatureTasks

        def tasks(job):
            return FeatureTasks(args.address, job)

    overrides = [item for item in args.uri if re.match(r"[a-z_]+(\.[a-z_]+)*=", item)]
    uris = [item for item in args.uri if item not in overrides]
    if not uris:
        raise InputError(f"{overrides[0]!r}: of which sweep or run? write STORE/SWEEP before it")
    for uri in uris:
        features_of(uri, [*overrides, *args.overrides], _say, tasks)
    return 0


def report(args: argparse.Namespace) -> int:
    from monosem.stages.report import report

    _say(f"browser: {report(args.uris, args.out, _say)}")
    return 0


def runs(args: argparse.Namespace) -> int:
    from monosem.report.table import show_table
    from monosem.stages.listing import COLUMNS, all_rows, shuffle_line
    from monosem.store.store import open_store

    store, damage = open_store(args.store), []
    rows = all_rows(store, damage)
    if args.json:
        _document([{key: row[key] for key in COLUMNS} for row in rows])
    else:
        for name in dict.fromkeys(row["sweep"] for row in rows):
            _say(f"sweep {name}")
            show_table([row for row in rows if row["sweep"] == name])
            if line := shuffle_line(store, name):
                _say(line)
    if damage:
        raise IntegrityError(damage[0] + f" (and {len(damage) - 1} more)" * (len(damage) > 1))
    return 0


def fit(args: argparse.Namespace) -> int:
    from monosem.report.table import show_laws
    from monosem.stages.fit import fit_sweep

    found = fit_sweep(args.sweep)
    if args.json:
        _document(found)
    else:
        show_laws(found["groups"])
        _say(f"page: {found['uri']}")
    return 0


def pull(args: argparse.Namespace) -> int:
    from monosem.stages.pull import FEATURE_FORMATS, pull_dictionary, pull_features

    if args.creator_id and args.format != "neuronpedia":
        raise InputError("--creator-id: only with --format neuronpedia")
    if args.format in FEATURE_FORMATS:
        _say(pull_features(args.uri, args.directory, args.format, args.model, args.set, args.creator_id))
    elif args.model or args.set:
        raise InputError(f"--model and --set: only with --format {' or '.join(FEATURE_FORMATS)}")
    else:
        _say(pull_dictionary(args.uri, args.directory, args.format))
    return 0


def rubric(args: argparse.Namespace) -> int:
    from monosem.report.table import show_rubric
    from monosem.stages.rubric import score_rubric

    found = score_rubric(args.answers, args.key)
    if args.json:
        _document(found)
    else:
        show_rubric(found)
    return 0


def shuffle(args: argparse.Namespace) -> int:
    from monosem.stages.datasets import shuffle_dataset

    if args.inline:
        from monosem.dataset.shuffle import run_inline

        return shuffle_dataset(args.uri, args.out, args.seed, args.memory, 1, args.codec, run_inline, _say)
    from monosem.fleet.shuffle import RayTasks

    with RayTasks(args.address, args.tasks) as run:
        return shuffle_dataset(args.uri, args.out, args.seed, args.memory, args.tasks, args.codec, run, _say)


def import_(args: argparse.Namespace) -> int:
    from monosem.stages.datasets import SHARD_ROWS, import_activations

    return import_activations(args.source, args.out, args.column, args.codec, SHARD_ROWS, _say)


def export(args: argparse.Namespace) -> int:
    from monosem.stages.datasets import export_dataset

    return export_dataset(args.uri, args.directory, _say)
