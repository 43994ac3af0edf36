"""A fast stand-in for `gradsieve.training.trainer.train`, which workers import; small studies and results."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradsieve.training.history import Record, Result, Work
from gradsieve.training.reports.report import write_result
from gradsieve.training.settings import Settings
from gradsieve.training.studies.study import Study, make_study

CALLS = "calls"
HERE = Path("/nowhere")
SMALL = {"training": {"steps": 10}}


def study(*runs: dict[str, Any], **top: Any) -> Study:
    return make_study({"base": SMALL, "run": list(runs)} | top, HERE, "study.toml")


def dense(**changes: Any) -> dict[str, Any]:
    return {"name": "dense"} | changes


def record(step: int, valid: float | None, kept: float = 1.0, nonzero: float = 1.0, **work: int) -> Record:
    """A record after `step` steps of a tenth of a second, half of it backward."""
    return Record(
        step=step,
        train_loss=3.0,
        valid_loss=valid,
        seconds=step / 10,
        backward_seconds=step / 20,
        rows=kept,
        elements=nonzero,
        work=Work(**work),
        saturations={},
        layers=(),
    )


def result(*records: Record, settings: dict[str, Any] | None = None, **changes: Any) -> Result:
    """A result with those records."""
    given: dict[str, Any] = {
        "name": "run",
        "settings": settings or {},
        "records": records,
        "measured": False,
        "parameters": 1,
    }
    return Result(**(given | changes))


def train(settings: Settings, folder: Path, *, resume: bool, stop: Callable[[], bool]) -> Result:
    """Lose 0.1 a step in half of the work, once: every call leaves a line in `calls`.

    A learning rate of 1 fails; one of 2 ends without a result, and one of 3 unfinished until it is called again.
    """
    with (folder / CALLS).open("a") as calls:
        calls.write(f"{resume}\n")
    rate = settings.training.rate
    if rate == 1:
        raise ValueError("a rate of 1\nis too much")
    steps = settings.training.steps
    records = [
        record(s, 4 - 0.1 * s, 0.5, 0.25, forward=s, dense_forward=s, backward=s, dense_backward=2 * s, elements=s)
        for s in range(1, steps + 1)
    ]
    again = len((folder / CALLS).read_text().splitlines()) > 1
    made = result(*records, settings=settings.as_dict() | {"sources": {}}, finished=rate != 3 or again)
    if rate != 2:
        write_result(made, folder / "result.json")
    return made


def slow(settings: Settings, folder: Path, *, resume: bool, stop: Callable[[], bool]) -> Result:
    """The same after a while."""
    time.sleep(0.3)
    return train(settings, folder, resume=resume, stop=stop)
