"""The 1x-256x ladder on two raylets of this machine, one of them killed after a checkpoint, against one process.

    python tests/bench/ladder.py [--sizes 1,2,4,8,16,32,64,128,256] [--steps 12]

Prints when the node was killed, both times, and whether every dictionary has the digest that it has without any loss;
exit code 1 if one has not. Takes 6 GB of disk and about 5 minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.plan import monosem, overrides
from tests.bench.timing import say, say_json
from tests.fleet.nodes import two_nodes
from tests.fleet.processes import wait_until
from tests.fleet.sweeps import newest_checkpoint

EVERY = 4


def digests(store: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "monosem", "runs", str(store), "--json"], capture_output=True, text=True, check=True
    )
    return {row["run"]: row["digest"] for row in json.loads(done.stdout)}


def with_a_loss(values: list[str], store: Path) -> tuple[float, float, str]:
    """Seconds until the node was killed and until the end, and what the sweep printed."""
    began = time.monotonic()
    with two_nodes() as nodes, tempfile.TemporaryFile("w+") as out:
        command = [*monosem("sweep", values), "--address", nodes.address]
        process = subprocess.Popen(command, env=nodes.environment, stdout=out, stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: newest_checkpoint(store) >= EVERY, seconds=600)
        nodes.kill(1)
        killed = time.monotonic() - began
        code = process.wait(timeout=3600)
        out.seek(0)
        output = out.read()
    if code:
        sys.exit(output)
    return killed, time.monotonic() - began, output


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    args.batch, args.more = 1024, [f"train.checkpoint_every={EVERY}"]
    with tempfile.TemporaryDirectory() as directory:
        lossy, whole = Path(directory, "lossy"), Path(directory, "whole")
        killed, ended, output = with_a_loss(overrides(args, str(lossy)), lossy)
        began = time.monotonic()
        subprocess.run(monosem("sweep", overrides(args, str(whole)), "--inline"), check=True, capture_output=True)
        inline = time.monotonic() - began
        found, wanted = digests(lossy), digests(whole)
    deaths = [line for line in output.splitlines() if "died" in line or "no room" in line]
    say(f"killed after {killed:.0f} s, ended after {ended:.0f} s; in one process {inline:.0f} s")
    for line in deaths:
        say(f"  {line}")
    same = [run for run in wanted if found.get(run) == wanted[run]]
    say(f"{len(same)} of {len(wanted)} digests as without a loss")
    say_json(bench="ladder", killed_s=killed, lossy_s=ended, inline_s=inline, same=len(same), of=len(wanted))
    sys.exit(len(same) < len(wanted))


if __name__ == "__main__":
    main()
