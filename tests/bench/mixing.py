"""What the order of the rows is worth: the same rows, trained on in three orders, and the held-out FVU of each.

    python tests/bench/mixing.py [--rows 600000] [--factors 1,4] [--seeds 2] [--shuffle-rows N] [--dir DIR]

Harvests the bundled host at mlp.post, writes the rows again as datasets in three orders -- the stream's own, a
perfect shuffle, and as they lie in the text -- and trains dictionaries of each factor and seed on each dataset.
Prints a table and one JSON line. Goal: the stream within 1 % of the perfect shuffle, the text's order visibly worse.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from monosem.cli.main import main as monosem
from monosem.config.job import SweepJob
from monosem.config.load import load_job
from monosem.dataset.manifest import open_dataset
from monosem.dataset.rows import DatasetRows
from monosem.dataset.writer import DatasetWriter, Plan
from monosem.stages.learning import make_harvester
from monosem.stages.listing import run_rows
from monosem.stages.prepare import prepare_stream
from monosem.store.store import open_store
from monosem.stream.locate import origin

JOB = "jobs/quickstart.yaml"
HOOK_POINT, BATCH = "mlp.post", 256
ORDERS = ("stream", "perfect", "sequential")


def command(verb: str, name: str, directory: Path, rows: int, *more: str) -> None:
    """One command of monosem, in this process."""
    steps = rows // BATCH
    arguments = [
        f"name={name}",
        f"store={directory / 'store'}",
        f"train.steps={steps}",
        f"train.batch_size={BATCH}",
        "train.resample_steps=[]",
        f"train.checkpoint_every={steps}",
        "track.wandb=disabled",
        "learner.threads=1",
        f"corpus.max_tokens={int(rows * 2.4)}",  # half of a context's positions are used, some rows never come
        *more,
    ]
    if monosem([verb, JOB, *arguments, "--inline"]):
        raise SystemExit(f"monosem {verb} {name} failed")


def text_order(directory: Path, rows: int, shuffle: str) -> np.ndarray:
    """The rows of the stream sorted by context of the token index, then by place in it."""
    overrides = [f"store={directory / 'store'}", f"corpus.max_tokens={int(rows * 2.4)}", shuffle]
    job = load_job(SweepJob, JOB, overrides)
    store = open_store(job.store)
    found = origin(make_harvester(prepare_stream(job, store), store).text, np.arange(rows))
    return np.lexsort((found.token, found.context, found.epoch))


def write_orders(directory: Path, rows: int, shuffle: str) -> None:
    """The rows [0, rows) of the stream as three datasets."""
    source = open_dataset(str(directory / "source"), HOOK_POINT)
    whole = DatasetRows(source).rows(0, rows).numpy()
    places = {
        "stream": np.arange(rows),
        "perfect": np.random.default_rng(0).permutation(rows),
        "sequential": text_order(directory, rows, shuffle),
    }
    for name in ORDERS:
        plan = Plan(whole.shape[1], rows, 0, "raw", 65536, {"kind": "file", "of": source.manifest.digest})
        writer = DatasetWriter(open_store(str(directory / name)), "", plan)
        for at in range(0, rows, plan.shard_rows):
            writer.add(whole[places[name][at : at + plan.shard_rows]])
        writer.finish()


def measure(directory: Path, rows: int, shuffle: str, factors: str, seeds: int) -> dict[str, dict[str, float]]:
    """Held-out FVU by order, by run."""
    tee = (f"stream.tee={directory / 'source'}", f"dataset.rows={rows}")
    command("harvest", "source", directory, rows, shuffle, *tee)
    write_orders(directory, rows, shuffle)
    runs = (f"sae.expansion_factor=[{factors}]", f"sae.seed={list(range(seeds))}")
    found = {}
    for name in ORDERS:
        command("sweep", name, directory, rows, f"stream.from={directory / name}", *runs)
        table = run_rows(open_store(str(directory / "store")), name)
        found[name] = {row["run"]: row["fvu"] for row in table}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--factors", default="1,4")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shuffle-rows", type=int, help="rows that the shuffle keeps; else as in the job file")
    parser.add_argument("--dir", help="keep everything there; else a temporary folder")
    args = parser.parse_args()
    shuffle = f"stream.shuffle_rows={args.shuffle_rows or load_job(SweepJob, JOB, []).stream.shuffle_rows}"
    with tempfile.TemporaryDirectory() as temporary:
        fvu = measure(Path(args.dir or temporary), args.rows, shuffle, args.factors, args.seeds)
    perfect = fvu["perfect"]
    sys.stdout.write(f"{'order':12}{''.join(f'{run:>14}' for run in perfect)}{'against perfect':>18}\n")
    ratios = {}
    for name, runs in fvu.items():
        ratios[name] = statistics.mean(runs[run] / perfect[run] for run in perfect)
        cells = "".join(f"{value:14.4f}" for value in runs.values())
        sys.stdout.write(f"{name:12}{cells}{ratios[name]:18.4f}\n")
    sys.stdout.write(
        json.dumps({"rows": args.rows, "shuffle": shuffle, "batch": BATCH, "fvu": fvu, "against perfect": ratios})
        + "\n"
    )


if __name__ == "__main__":
    main()
