"""A stream whose actors cannot even start ends the sweep with the reason instead of restarting for ever."""

import subprocess
import sys


def test_workers_that_cannot_start_end_the_sweep(tiny_job, tmp_path):
    code = """
import sys
from monosem.stages import learning
from monosem.cli.main import main
import monosem.stages.sweep as sweep
original = sweep.prepare_sweep

def prepare(job, store, *rest):  # the host vanishes between planning and the workers' start
    spec = original(job, store, *rest)
    import shutil
    shutil.rmtree(job.host.model)
    return spec

sweep.prepare_sweep = prepare
sys.exit(main(sys.argv[1:]))
"""
    import shutil

    host = tmp_path / "host"
    text = tiny_job.read_text()
    old = text.split("host: {model: ")[1].split(",")[0]
    shutil.copytree(old, host)
    command = [sys.executable, "-c", code, "sweep", str(tiny_job), f"host.model={host}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stdout + done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("monosem:")][-1]
    assert "times in a row" in last and "no host there" in last
