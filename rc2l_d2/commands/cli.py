"""The frame of every command: parse the command line, run, and end with one sentence on a user's mistake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..data import dead_worker
from ..engine import Interrupted, NonFiniteError
from ..errors import InputError
from ..host import comm


def run_cli(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int | None]) -> int:
    """Parse the command line, run ``command`` on it and return its exit status (None counts as 0).

    Raises:
        SystemExit: see :func:`one_sentence_errors`.
    """
    args = parse_options_anywhere(parser, sys.argv[1:])
    with one_sentence_errors():
        return command(args) or 0


def parse_options_anywhere(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse a command line whose ``opts``, KEY VALUE pairs to the end, may be followed by further options."""
    args = parser.parse_args(words)
    pairs = getattr(args, "opts", [])
    place = next((key for key in range(0, len(pairs), 2) if pairs[key].startswith("--")), None)
    if place is None:
        return args
    before = words[: len(words) - len(pairs)]
    if before and before[-1] == "--opts":
        before.pop()
    args = parse_options_anywhere(parser, before + pairs[place:])
    args.opts = pairs[:place] + args.opts
    return args


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn errors that need no traceback into "command: sentence" on stderr.

    Raises:
        SystemExit: with status 2 after an InputError or the death of a data worker, with 143 or 130 after a signal.
            What all ranks raise alike is printed by one of them.
    """
    try:
        yield
    except Interrupted as end:
        if comm.is_main_process():
            print_error(end)
        comm.synchronize()  # The launcher ends the other ranks when one leaves.
        sys.exit(end.status)
    except (InputError, RuntimeError) as error:
        message = error if isinstance(error, InputError) else dead_worker(error)
        if message is None:
            raise
        if comm.is_main_process() or not isinstance(error, NonFiniteError):
            print_error(message)
        sys.exit(2)


def print_error(message: object) -> None:
    """Print "command: message" on stderr."""
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
