"""The frame of every command: parse the command line, run, and end with one sentence on a user's mistake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..data import dead_worker
from ..engine import Interrupted
from ..errors import InputError
from ..host import comm


def run_cli(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int | None]) -> int:
    """Parse the command line, run ``command`` on it and return its exit status (None counts as 0).

    Raises:
        SystemExit: see :func:`one_sentence_errors`.
    """
    args = parser.parse_args()
    with one_sentence_errors():
        return command(args) or 0


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn errors that need no traceback into "command: sentence" on stderr.

    Raises:
        SystemExit: with status 2 after an InputError or the death of a data worker, with 143 or 130 after a signal.
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
        print_error(message)
        sys.exit(2)


def print_error(message: object) -> None:
    """Print "command: message" on stderr."""
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
