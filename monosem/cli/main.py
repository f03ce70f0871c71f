"""The command line: parse, hand over to a stage, and turn every error into one line and an exit code."""

import argparse
import difflib
import os
import re
import sys

from monosem import __version__
from monosem.cli.verbs import EXIT_CODES, VERBS
from monosem.errors import InputError, MonosemError


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        args = _parse(argv)
        return args.run(args)
    except MonosemError as error:
        sys.stderr.write(f"monosem: {_one_line(str(error))}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("monosem: interrupted; the same command resumes\n")
        return 3
    except BrokenPipeError:  # the reader of our output went away, e.g. `monosem runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments, with `key=value` overrides allowed after options too."""
    args, rest = _parser().parse_known_args(argv)
    stray = [item for item in rest if item.startswith("-") or "=" not in item or not hasattr(args, "overrides")]
    if stray:
        raise InputError(f"unrecognized argument {stray[0]!r} (see monosem --help)")
    if rest:
        args.overrides += rest
    return args


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text.replace("\n", " "))


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        raise InputError(f"{message}{_nearest(message)} (see {self.prog} --help)")


def _nearest(message: str) -> str:
    """For argparse's "invalid choice: 'swep' (choose from 'sweep', ...)": which of them is close."""
    _, _, choice = message.partition("invalid choice: ")
    wrong, *known = re.findall(r"'([^']*)'", choice) or [""]
    near = difflib.get_close_matches(wrong, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="monosem",
        description="Train ladders of sparse-autoencoder dictionaries on one shared stream of activations.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"monosem {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in VERBS:
        add(verbs)
    return parser
