"""Contenders timed in turns in one process: what else the machine does meets all of them alike."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata


def interleaved(contenders: Mapping[str, Callable[[], object]], repeat: int, warm: int = 2) -> dict[str, float]:
    """Median seconds of each; the first `warm` turns do not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeat + warm):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= warm:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, str | int]:
    """What the figures belong to."""
    import torch

    model = subprocess.run(["lscpu"], capture_output=True, text=True).stdout if sys.platform == "linux" else ""
    lines = dict(line.split(":", 1) for line in model.splitlines() if ":" in line)
    flags = lines.get("Flags", "").split()
    return {
        "cpu": lines.get("Model name", platform.processor()).strip(),
        "threads": torch.get_num_threads(),
        "bf16": ", ".join(f for f in ("amx_bf16", "avx512_bf16") if f in flags) or "emulated",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def versions(*packages: str) -> dict[str, str]:
    """Those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(**figures: object) -> None:
    say(json.dumps({"machine": machine(), **figures}))
