"""What a sweep costs beside its learners: nine dictionaries, 1x to 256x, on one stream, against their own steps.

    python tests/bench/sweep.py [--sizes 1,2,4,8,16,32,64,128,256] [--steps 24] [--ray] [--more key=value ...]

TopK dictionaries (k 20, so that every step is sparse from the first one on) on the bundled host, 4,096 rows a step. The
time from the first row asked for to the last step of all is held against the sum of the seconds that their steps took:
harvest, shuffle, transfer, digests, logging and supervision make up the difference. What comes once at the end whatever
the number of steps (last checkpoint, evaluation, saving) is told beside it. Prints a table and one JSON line.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.timing import say, say_json

JOB = Path(__file__).parents[2] / "jobs/quickstart.yaml"
CHEAP = ("evaluate.rows=4096", "evaluate.contexts=4", "track.wandb=disabled", "train.checkpoint_every=1000000")


def run(store: str, sizes: str, steps: int, ray: bool, more: list[str]) -> str:
    """What the sweep printed."""
    values = [
        "sae.variant=topk", "sae.k=20", "sae.init=transposed", f"sae.expansion_factor=[{sizes}]", "train.batch_size=4096",
        "train.precision=bf16", "train.resample_steps=[]", f"train.steps={steps}", "learner.pack_parameters=10_000_000_000",
        "stream.ahead_rows=65536", *CHEAP, *more,
    ]  # fmt: skip
    command = [sys.executable, "-m", "monosem", "sweep", str(JOB), f"store={store}", *values]
    done = subprocess.run(command + ([] if ray else ["--inline"]), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--ray", action="store_true", help="on a Ray of its own instead of in one process")
    parser.add_argument("--more", nargs="*", default=[], help="more overrides of the job file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        out = run(store, args.sizes, args.steps, args.ray, args.more)
        records = [json.loads(p.read_text()) for p in sorted(Path(store).glob("sweeps/*/runs/*/monosem.json"))]
    whole_s = float(re.findall(r"train: [\d,]+ rows in ([\d.]+) s", out)[-1])
    steps_s = {record["run"]: record["timing"]["step_s"] for record in records}
    say(f"{'run':8} {'its steps, s':>13}")
    for name, seconds in sorted(steps_s.items(), key=lambda item: item[1]):
        say(f"{name:8} {seconds:13.1f}")
    total, loop_s = sum(steps_s.values()), max(record["timing"]["train_s"] for record in records)
    say(f"{'sum':8} {total:13.1f}\n{'loop':8} {loop_s:13.1f}   {loop_s / total:.3f} of the sum")
    waited = max(record["timing"]["wait_s"] for record in records)
    say(f"{'waited':8} {waited:13.1f}\n{'whole':8} {whole_s:13.1f}   with what comes once: start, evaluation, saving")
    say_json(
        bench="sweep", sizes=args.sizes, steps=args.steps, ray=args.ray, loop_s=loop_s, steps_s=total, wait_s=waited,
        ratio=loop_s / total,
        whole_s=whole_s,
    )  # fmt: skip


if __name__ == "__main__":
    main()
