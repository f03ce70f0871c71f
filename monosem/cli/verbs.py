"""The commands' arguments and help, one function each."""

import argparse
import re

from monosem.cli import commands

EXIT_CODES = """exit codes:
  0  every run finished
  1  a run failed
  2  the input is wrong; nothing was started
  3  interrupted; the same command resumes
"""


def _ray_address(text: str) -> str:
    """The type of `--address` where a Ray itself is meant, and not its dashboard."""
    if text != "auto" and not re.fullmatch(r"[^:/\s]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: write auto, or HOST:PORT of the cluster's head (often 6379)")
    return text


def _verb(verbs, name: str, run, help: str, example: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB.yaml", help="the job file")
    words = "override a field, e.g. train.steps=100"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=words)


def _where_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--inline", action="store_true", help="in this process, without Ray")
    where.add_argument(
        "--address",
        type=_ray_address,
        metavar="auto|HOST:PORT",
        help="on a running Ray cluster (default: a Ray of its own)",
    )


def _sweep(verbs) -> None:
    parser = _verb(
        verbs,
        "sweep",
        commands.sweep,
        "train a ladder of dictionaries here and wait; resumes what is not finished",
        "monosem sweep jobs/quickstart.yaml train.steps=100 --inline",
    )
    _job_arguments(parser)
    _where_arguments(parser)


def _harvest(verbs) -> None:
    parser = _verb(
        verbs,
        "harvest",
        commands.harvest,
        "write the stream's rows to an activation dataset; `stream.from` of a sweep reads it",
        "monosem harvest jobs/quickstart.yaml stream.tee=./rows dataset.codec=zstd",
    )
    _job_arguments(parser)
    _where_arguments(parser)


def _resume(verbs) -> None:
    parser = _verb(
        verbs,
        "resume",
        commands.resume,
        "continue a sweep from what the store knows of it",
        "monosem resume ./monosem-store/quickstart",
    )
    parser.add_argument("sweep", metavar="STORE/SWEEP", help="a store's path or URL, a slash, the sweep's name")
    _where_arguments(parser)


def _plan(verbs) -> None:
    parser = _verb(
        verbs,
        "plan",
        commands.plan,
        "before spending: memory per rank, hours, bottleneck, storage, fit or misfit; starts nothing",
        "monosem plan jobs/paper.yaml --cluster 8xH200\n"
        "  monosem plan jobs/quickstart.yaml --cluster '2x(16 CPU, 24 GiB)' --json",
    )
    _job_arguments(parser)
    where = parser.add_mutually_exclusive_group()
    words = "a cluster in words: NxGPU, or 'Nx(C CPU, M GiB)', joined by +"
    where.add_argument("--cluster", metavar="8xH200", help=words)
    words = "the nodes of a running Ray cluster"
    where.add_argument("--address", type=_ray_address, metavar="auto|HOST:PORT", help=words)
    where.add_argument("--inline", action="store_true", help="one process of this machine, without Ray")
    parser.add_argument("--calibrate", action="store_true", help="measure this machine's rates again and keep them")
    active = "active features per row, where no k says it (default: 32)"
    parser.add_argument("--l0", type=float, default=32.0, metavar="N", help=active)
    reached = "share of datasheet peaks that steps reach (default: 0.5, as measured on an H200)"
    parser.add_argument("--efficiency", type=float, metavar="E", help=reached)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _doctor(verbs) -> None:
    parser = _verb(
        verbs,
        "doctor",
        commands.doctor,
        "can this machine, a cluster and a store run a job; what is missing, and how to mend it",
        "monosem doctor\n  monosem doctor jobs/quickstart.yaml store=s3://bucket/root --address auto",
    )
    parser.add_argument("job", nargs="?", metavar="JOB.yaml", help="the job file (default: the machine alone)")
    words = "override a field, e.g. store=./elsewhere"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=words)
    _where_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _submit(verbs) -> None:
    parser = _verb(
        verbs,
        "submit",
        commands.submit,
        "the same as sweep, as a job on a Ray cluster",
        "monosem submit jobs/quickstart.yaml store=s3://bucket/root --address http://127.0.0.1:8265 --wait",
    )
    _job_arguments(parser)
    _address(parser)
    parser.add_argument("--wait", action="store_true", help="show the job's log until it ends, and end as it does")


def _job_verbs(verbs) -> None:
    for name, run, help in (
        ("status", commands.status, "how a submitted job stands"),
        ("logs", commands.logs, "what a submitted job printed"),
        ("stop", commands.stop, "stop a submitted job after a checkpoint; submit it again to resume"),
    ):
        parser = _verb(
            verbs, name, run, help, f"monosem {name} monosem-quickstart-1a2b3c --address http://127.0.0.1:8265"
        )
        parser.add_argument("job_id", metavar="JOB_ID")
        _address(parser)
        if name == "logs":
            parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
        if name == "status":
            parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _scale(verbs) -> None:
    parser = _verb(
        verbs,
        "scale",
        commands.scale,
        "give a sweep that is running on Ray more or fewer model workers; results do not change",
        "monosem scale ./monosem-store/quickstart --workers 3",
    )
    parser.add_argument("sweep", metavar="STORE/SWEEP", help="a store's path or URL, a slash, the sweep's name")
    parser.add_argument("--workers", type=int, required=True, metavar="N", help="how many there should be")


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", required=True, metavar="http://HEAD:8265", help="the Ray dashboard")


def _pretrain(verbs) -> None:
    parser = _verb(
        verbs,
        "pretrain",
        commands.pretrain,
        "train one-layer transformers (the paper's hosts) into the store",
        "monosem pretrain jobs/host_one_layer.yaml",
    )
    _job_arguments(parser)


def _truth(verbs) -> None:
    parser = _verb(
        verbs,
        "truth",
        commands.truth,
        "train on rows whose true features are known, and mark what was found",
        "monosem truth jobs/truth.yaml recipe=gemma-scope train.steps=3000",
    )
    _job_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _evaluate(verbs) -> None:
    parser = _verb(
        verbs,
        "evaluate",
        commands.evaluate,
        "measure a finished dictionary again on its held-out text",
        "monosem evaluate monosem-store/sweeps/quickstart/runs/8x --json",
    )
    parser.add_argument("uri", metavar="URI", help="the run's directory or URL in its store")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _features(verbs) -> None:
    parser = _verb(
        verbs,
        "features",
        commands.features,
        "what the features of a sweep or a run mean: examples, logit effects, ablations ... as Parquet in the store",
        "monosem features ./monosem-store/quickstart features.tokens=1_000_000",
    )
    parser.add_argument("uri", nargs="+", metavar="URI", help="STORE/SWEEP, or a run's directory in its store")
    there = "on a running Ray cluster, by stream.workers processes (default: here)"
    parser.add_argument("--address", type=_ray_address, metavar="auto|HOST:PORT", help=there)
    parser.set_defaults(overrides=[])


def _report(verbs) -> None:
    parser = _verb(
        verbs,
        "report",
        commands.report,
        "write the feature browser: static pages of one or more sweeps or runs, which open from disk",
        "monosem report ./monosem-store/quickstart --out ./browser",
    )
    parser.add_argument("uris", nargs="+", metavar="URI", help="STORE/SWEEP, or a run's directory or URL in its store")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new or empty directory or URL, or a report's")


def _runs(verbs) -> None:
    parser = _verb(verbs, "runs", commands.runs, "list the runs in a store", "monosem runs ./monosem-store --json")
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _fit(verbs) -> None:
    parser = _verb(
        verbs,
        "fit",
        commands.fit,
        "scaling laws and Pareto fronts over a sweep's finished runs, and which run to add next",
        "monosem fit ./monosem-store/quickstart",
    )
    parser.add_argument("sweep", metavar="STORE/SWEEP", help="where the sweep is")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _pull(verbs) -> None:
    parser = _verb(
        verbs,
        "pull",
        commands.pull,
        "copy a finished dictionary to a local directory",
        "monosem pull s3://bucket/root/sweeps/pile/runs/8x ./8x\n"
        "  monosem pull ./monosem-store/sweeps/quickstart/runs/8x ./theirs --format dictionary_learning",
    )
    parser.add_argument("uri", metavar="URI", help="the run's directory or URL in its store")
    parser.add_argument("directory", metavar="DIR", help="a new or empty local directory")
    formats = ("monosem", "saelens", "dictionary_learning", "sparsify", "neuronpedia", "saedashboard")
    text = "layout to write; monosem's is SAELens' with lineage beside it (default); the last two are of its features"
    parser.add_argument("--format", choices=formats, default="monosem", help=text)
    parser.add_argument("--model", metavar="NAME", help="neuronpedia, saedashboard: what they call the host model")
    parser.add_argument("--set", metavar="NAME", help="neuronpedia, saedashboard: what they shall call the dictionary")
    text = "neuronpedia: the account that shall own it (default: $DEFAULT_CREATOR_ID, or its databases' own bot)"
    parser.add_argument("--creator-id", metavar="ID", help=text)


def _rubric(verbs) -> None:
    parser = _verb(
        verbs,
        "rubric",
        commands.rubric,
        "marks of a blind exercise: answers exported from the browser's rubric page, and the site's key",
        "monosem rubric rubric-8x.csv site/data/8x/rubric-key.json",
    )
    parser.add_argument("answers", nargs="+", metavar="ANSWERS.csv")
    parser.add_argument("key", metavar="KEY.json")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _codec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--codec", default="raw", metavar="raw|zstd|bf16|int8", help="of the files that are written")


def _shuffle(verbs) -> None:
    parser = _verb(
        verbs,
        "shuffle",
        commands.shuffle,
        "write an activation dataset again in random order, in passes that fit memory; goes on after a stop",
        "monosem shuffle ./rows/mlp.post ./shuffled --memory 1GiB --tasks 2",
    )
    parser.add_argument("uri", metavar="URI", help="the dataset's directory or URL")
    parser.add_argument("out", metavar="OUT", help="where the shuffled dataset goes: a path or URL")
    parser.add_argument("--seed", type=int, default=0, help="which order (default 0)")
    parser.add_argument("--memory", default="1GiB", help="of all tasks together (default 1GiB)")
    parser.add_argument("--tasks", type=int, default=2, help="how many run at once (default 2; --inline: one)")
    _codec(parser)
    _where_arguments(parser)


def _import(verbs) -> None:
    parser = _verb(
        verbs,
        "import",
        commands.import_,
        "make an activation dataset of other files: .npy, .safetensors, or a directory saved by Hugging Face datasets",
        "monosem import ./saelens-cache ./rows --column blocks.0.hook_mlp_out",
    )
    parser.add_argument("source", metavar="SOURCE", help="a file, a directory or a pattern in quotes")
    parser.add_argument("out", metavar="OUT", help="where the dataset goes: a path or URL")
    parser.add_argument("--column", metavar="NAME", help="which column or tensor, if there are several")
    _codec(parser)


def _export(verbs) -> None:
    parser = _verb(
        verbs,
        "export",
        commands.export,
        "write an activation dataset as a directory that Hugging Face datasets opens",
        "monosem export ./rows/mlp.post ./for-datasets",
    )
    parser.add_argument("uri", metavar="URI", help="the dataset's directory or URL")
    parser.add_argument("directory", metavar="DIR", help="a new or empty local directory")


VERBS = (
    _sweep,
    _harvest,
    _resume,
    _plan,
    _doctor,
    _submit,
    _job_verbs,
    _scale,
    _pretrain,
    _truth,
    _evaluate,
    _features,
    _report,
    _runs,
    _fit,
    _pull,
    _rubric,
    _shuffle,
    _import,
    _export,
)
"""In the order of `monosem --help`."""
