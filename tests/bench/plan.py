"""What `monosem plan` says of a ladder against the ladder itself: peak memory by process, and time.

    python tests/bench/plan.py [--sizes 1,2,4,8,16,32,64,128,256] [--steps 16] [--batch 2048] [--ray] [--more key=value ...]

TopK dictionaries (k 16: sparse from the first step) on the bundled host, one sweep inline or on a Ray of its own.
Memory is the resident set of every process of the tree less what it shares (`footprint.Tree`), looked at ten times a
second; of a process, and of all of them together, the peak. Time is from the first row to the end of the evaluation, as
`monosem sweep` prints it. The plan is made before, by rates measured on the spot (`--calibrate`). Goals: memory within
15 %, time within 30 %, and no peak above its bound. Prints a table and one JSON line.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from monosem.stages.budget import GIB
from tests.bench.footprint import Tree
from tests.bench.timing import say, say_json

JOB = Path(__file__).parents[2] / "jobs/quickstart.yaml"
CLASSES = {"LearnerActor": "learner", "ModelWorker": "model worker", "BufferShard": "buffer shard"}


def overrides(args: argparse.Namespace, store: str) -> list[str]:
    return [
        f"store={store}", "name=ladder", "sae.variant=topk", "sae.k=16", "sae.init=transposed",
        f"sae.expansion_factor=[{args.sizes}]", f"train.batch_size={args.batch}", f"train.steps={args.steps}",
        "train.resample_steps=[]", "train.precision=bf16", "evaluate.rows=4096", "evaluate.contexts=4",
        "track.wandb=disabled", "features.enabled=false", "corpus.max_tokens=1_000_000", *args.more,
    ]  # fmt: skip


def monosem(verb: str, values: list[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "monosem", verb, str(JOB), *values, *options]


def watch(process: subprocess.Popen) -> tuple[dict[str, list[int]], int]:
    """Peaks of every process by its kind, largest first, and of the whole tree."""
    peaks: dict[int, tuple[str, int]] = {}
    whole = 0
    for look in Tree(process.pid).until_end(process):
        whole = max(whole, sum(size for _, size in look.values()))
        for pid, (kind, size) in look.items():
            before = peaks.get(pid, ("", 0))
            peaks[pid] = (kind or before[0], max(size, before[1]))  # Ray's processes get their names late
    found: dict[str, list[int]] = {}
    for pid, (kind, size) in sorted(peaks.items(), key=lambda item: -item[1][1]):
        name = next((ours for theirs, ours in CLASSES.items() if theirs in kind), "")
        name = name or ("driver" if pid == process.pid else "Ray's own processes")
        found.setdefault(name, []).append(size)
    return found, whole


def measure(values: list[str], ray: bool) -> dict:
    with tempfile.TemporaryFile("w+") as out:
        options = [] if ray else ["--inline"]
        process = subprocess.Popen(monosem("sweep", values, *options), stdout=out, stderr=subprocess.STDOUT, text=True)
        peaks, whole = watch(process)
        out.seek(0)
        output = out.read()
    if process.returncode:
        sys.exit(output)
    seconds = float(re.findall(r"train: [\d,]+ rows in ([\d.]+) s", output)[-1])
    return {"peaks": peaks, "whole": whole, "seconds": seconds, "output": output}


def planned(values: list[str], ray: bool, calibrate: bool) -> dict:
    options = ["--json", *([] if ray else ["--inline"]), *(["--calibrate"] if calibrate else [])]
    done = subprocess.run(monosem("plan", values, *options), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout)


def compared(plan: dict, found: dict) -> list[tuple[str, float, float, float | None]]:
    """(what, planned, measured, bound) of every process and of the time."""
    rows, left = [], {name: list(sizes) for name, sizes in found["peaks"].items()}
    for need in sorted(plan["processes"], key=lambda n: -n["bytes"]):
        name = need["process"].split(" of ")[0]
        name = "driver" if name == "this process" else name
        if name == "Ray's own processes":
            sizes = [sum(left.get(name, []))]
        else:
            sizes = [left[name].pop(0) for _ in range(need["count"]) if left.get(name)]
        if sizes and name != "object store":
            rows.append((need["process"], need["bytes"] / GIB, max(sizes) / GIB, need["bound_bytes"] / GIB))
    bound = sum(n["bound_bytes"] * n["count"] for n in plan["processes"]) / GIB
    rows.append(("all processes", max(w["bytes"] for w in plan["waves"]) / GIB, found["whole"] / GIB, bound))
    seconds = sum(wave["train_s"] + wave["once_s"] for wave in plan["waves"])
    return [*rows, ("seconds", seconds, found["seconds"], None)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--ray", action="store_true", help="on a Ray of its own instead of in one process")
    parser.add_argument("--more", nargs="*", default=[], help="more overrides of the job file")
    parser.add_argument("--known", action="store_true", help="do not measure the rates again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        values = overrides(args, store)
        plan = planned(values, args.ray, not args.known)
        found = measure(values, args.ray)
    say(f"{'':44} {'planned':>9} {'measured':>9} {'ratio':>7} {'bound':>8}")
    rows = compared(plan, found)
    for name, said, had, bound in rows:
        say(f"{name[:44]:44} {said:9.2f} {had:9.2f} {said / had:7.2f} {'' if bound is None else f'{bound:8.2f}'}")
    say_json(
        bench="plan", sizes=args.sizes, steps=args.steps, batch=args.batch, ray=args.ray, rates=plan["rates"],
        rows=[{"what": n, "planned": s, "measured": h, "bound": b, "ratio": s / h} for n, s, h, b in rows],
    )  # fmt: skip


if __name__ == "__main__":
    main()
