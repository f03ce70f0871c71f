"""What a step frees the next one finds again, in Ray's threads too."""

import json
import os
import subprocess
import sys

import pytest

from tests.fleet.nodes import two_nodes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")


def faults(environment: dict, *arguments: str) -> list[int]:
    command = [sys.executable, "-m", "tests.fleet.page_faults", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("faults")]
    return json.loads(line.removeprefix("faults "))


def is_kept(found: list[int]) -> bool:
    """The first block is paged in; those after it are the same memory."""
    return found[0] > 100 and max(found[1:]) < 16  # 128 if pages are of 2 MiB


def test_in_a_ray_of_ones_own():
    assert is_kept(faults(dict(os.environ)))


def test_on_a_cluster():
    with two_nodes() as nodes:
        assert is_kept(faults(nodes.environment, nodes.address))
