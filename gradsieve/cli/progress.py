"""Progress of work in steps, on the error stream: a bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gradsieve.cli.options import errors


@contextmanager
def steps(doing: str, total: int) -> Iterator[Callable[[str], None]]:
    """A function to be called at the start of each of `total` steps with the step's name; the end of the block ends
    the last one.
    """
    screen = errors()
    if not screen.is_terminal:
        yield lambda step: screen.print(f"{doing}: {step}", highlight=False, markup=False, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(doing, total=total)
        begun = 0

        def step(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=f"{doing}: {name}")
            begun += 1

        yield step
        bar.update(task, completed=total)


@contextmanager
def counted(doing: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A function of how many of `total` steps are done and a remark; away from a terminal only the start shows."""
    screen = errors()
    if not screen.is_terminal:
        screen.print(doing, highlight=False, markup=False, soft_wrap=True)
        yield lambda done, remark: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done, remark: bar.update(task, completed=done, description=f"{doing} {remark}".rstrip())
