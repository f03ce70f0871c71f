"""What the driver says while a sweep runs: lines on stderr, beside the progress."""

import sys


def say(text: str) -> None:
    sys.stderr.write(f"monosem: {text}\n")
    sys.stderr.flush()
