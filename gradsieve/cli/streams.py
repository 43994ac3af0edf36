"""The standard streams of the command line: closed ones, and ones that take no more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Watched:
    """A text stream, in all but that it remembers the error that kept it from writing."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write as the stream does."""
        return self._noting(lambda: self.stream.write(text))

    def flush(self) -> None:
        """Flush as the stream does."""
        self._noting(self.stream.flush)

    def _noting(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except OSError as error:
            self.failure = error
            raise

    def close_down(self) -> OSError | None:
        """The error that kept something from being written, if there was one: what is left is thrown away then."""
        with suppress(OSError):
            self.flush()
        if self.failure is not None:
            with suppress(OSError, ValueError):  # or else Python tries once more when it ends, and complains
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return self.failure


def take_closed() -> bool:
    """Let nothing else be taken for a standard stream that is closed; whether standard output is open.

    The number of a closed stream would be that of the next file, which would then get what others print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    return sys.stdout is not None


@contextmanager
def watched() -> Iterator[tuple[Watched, Watched]]:
    """Standard output and standard error, watched while the block lasts."""
    before = sys.stdout, sys.stderr
    streams = Watched(sys.stdout), Watched(sys.stderr)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = before
