"""A virtual board for tests: `gradsieve board --virtual` as a process of its own."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from gradsieve.hw.config import preset

CONFIG = preset("tiny")
BUILD_SECONDS = 400
"""The first start on a machine Verilates the board."""
END_SECONDS = 10


class BoardProcess:
    """The process, with `link` as the name of its port; however the block ends, so does the process."""

    def __init__(self, link: Path, *options: str) -> None:
        self.link = link
        command = [sys.executable, "-m", "gradsieve", "board", "--virtual", "--preset", CONFIG.name]
        self.process = subprocess.Popen(
            [*command, "--link", str(link), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> BoardProcess:
        assert self.process.stdout is not None and self.process.stderr is not None
        try:
            ready, _, _ = select.select([self.process.stdout], [], [], BUILD_SECONDS)
            assert ready, "the board did not start in time"
            line = self.process.stdout.readline()
            assert line == f"virtual board of {CONFIG.name} on {self.link}\n", line + self.process.stderr.read()
            hint = self.process.stdout.readline()
            assert hint == f"Ctrl-C stops it; kill -USR1 {self.process.pid} presses its reset button\n"
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it without warning, as when the cable is pulled."""
        self.process.kill()
        self.process.communicate()

    def press_reset(self) -> None:
        """The reset button."""
        self.process.send_signal(signal.SIGUSR1)

    def interrupt(self, number: signal.Signals) -> tuple[int, str]:
        """End it as a user does: the exit status, and what it printed last."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, out + err.replace("building the virtual board of tiny: simulation\n", "")
