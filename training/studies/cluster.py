"""The trainings of a study in parallel, on dask.distributed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock

from gradsieve.rtl_gen.files import CacheError, build_root
from gradsieve.training.errors import SettingsError, TrainingError
from gradsieve.training.history import Result
from gradsieve.training.reports.report import read_result
from gradsieve.training.settings import Settings, make
from gradsieve.training.studies.study import Study, Task

if TYPE_CHECKING:
    from distributed import Client, Future

RUNS = "runs"
RESULT = "result.json"
ERROR = "error.txt"
TIMEOUT = 5.0
"""Seconds that a scheduler has to answer, and then to have a worker."""
STOPPING = 60.0
"""Seconds that interrupted trainings have to save their state."""


WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
    "MALLOC_TRIM_THRESHOLD_": 1 << 30,
    "MALLOC_MMAP_THRESHOLD_": 1 << 30,
}
"""Of local workers.  Dask's own makes them return memory at once, which doubles the time of a training: it takes the
same tensors again in the next step.
"""


class ClusterError(TrainingError):
    """The trainings cannot be run, or no longer; the message says why."""


class Train(Protocol):
    """A function such as `gradsieve.training.trainer.train`, of a module that the workers can import.

    It leaves a finished `result.json` in `folder`, or an unfinished one after `stop` said so.
    """

    def __call__(self, settings: Settings, folder: Path, *, resume: bool, stop: Callable[[], bool]) -> Result: ...


@dataclass(frozen=True)
class Outcome:
    """How a training ended: with a finished result, or with an error."""

    task: Task
    result: Result | None
    error: str = ""
    reused: bool = False
    """Whether it had been finished before."""


def finished(task: Task, out: Path) -> Result | None:
    """The result of the training if it is there, finished, and of the same settings; names, where files are and how
    often something is recorded aside.  A training on files of other content has another folder.
    """
    try:
        result = read_result(out / RUNS / task.folder / RESULT)
        # A trainer adds to the settings what it found out, such as the size of the vocabulary.
        settings = make({k: v for k, v in result.settings.items() if k in Settings.model_fields})
    except (ValueError, SettingsError):
        return None
    return result if result.finished and settings.digest == task.settings.digest else None


def run_study(
    study: Study,
    out: Path,
    train: Train,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Train all that is not finished in `out`, in folders `runs/<run>-seed<seed>-<digest>` there.

    A training whose result is finished is not repeated; one that was interrupted goes on from its checkpoint.  With
    `scheduler`, the address of an existing one, its workers do the work: they share the file system and have the same
    version of this package.  Otherwise `workers` processes of this machine do, by default one for each of its cores.
    `ended` is told of each training when it ends.  A training that fails does not keep others from their end: its
    outcome has the error, of which its folder's `error.txt` says more.

    KeyboardInterrupt makes the running trainings save their state before it goes on to the caller.  Raises ClusterError
    if the scheduler or its workers are not there, or `out` cannot be written.
    """
    outcomes: dict[str, Outcome] = {}

    def end(outcome: Outcome) -> None:
        outcomes[outcome.task.folder] = outcome
        ended(outcome)

    for task in study.tasks:
        if result := finished(task, out):
            end(Outcome(task, result, reused=True))
    due = [task for task in study.tasks if task.folder not in outcomes]
    if due:
        _make_folder(out / RUNS)
        with suppress(CacheError):  # a relative GRADSIEVE_BUILD is one of this folder, not of the workers'
            build_root()
        with _client(min(workers or _cores(), len(due)), scheduler) as client:
            _work(client, due, out, train, end)
    return [outcomes[task.folder] for task in study.tasks]


def _work(client: Client, due: list[Task], out: Path, train: Train, ended: Callable[[Outcome], None]) -> None:
    from distributed import as_completed, wait

    # A file rather than a message: trainings look for it after every step, whatever becomes of the scheduler.
    stop = out.resolve() / RUNS / f".stop-{uuid.uuid4().hex}"
    futures: dict[Future, Task] = {}
    try:
        for k, task in enumerate(due):
            folder = stop.parent / task.folder
            futures[client.submit(attempt, train, task, folder, stop, pure=False, priority=-k)] = task
        for future in as_completed(list(futures)):
            ended(_outcome(future, futures[future], out))
    except KeyboardInterrupt:
        stop.touch()
        with suppress(OSError, CancelledError):
            wait(list(futures), timeout=STOPPING)
        raise
    finally:
        stop.unlink(missing_ok=True)


def attempt(train: Train, task: Task, folder: Path, stop: Path) -> str:
    """What a worker does: the training in `folder`, unless it is finished.  Returns the error, empty if there is none.

    Errors come back as text, for an exception may be of a class that cannot travel.
    """
    if stop.exists():
        return "stopped before it began"
    try:
        # Two studies, or one started twice, may come to the same training: the later one finds it finished.
        with FileLock(f"{folder}.lock"):
            if finished(task, folder.parents[1]) is None:
                folder.mkdir(exist_ok=True)
                (folder / ERROR).unlink(missing_ok=True)
                train(task.settings, folder, resume=True, stop=stop.exists)
    except Exception as error:
        with suppress(OSError):
            (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        message = " ".join(str(error).split())
        return f"{type(error).__name__}: {message}" if message else type(error).__name__
    return ""


def _outcome(future: Future, task: Task, out: Path) -> Outcome:
    try:
        error = future.result()
    except CancelledError:
        raise ClusterError("the connection to the scheduler is lost; what is finished is kept") from None
    except Exception as raised:  # such as a worker that died, or cannot import the training
        error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"
    if error:
        return Outcome(task, None, error)
    if result := finished(task, out):
        return Outcome(task, result)
    missing = out / RUNS / task.folder / RESULT
    return Outcome(task, None, f"{missing} is not there, or not finished: do the workers share this file system?")


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    # What a worker says of a training that failed is in its outcome.
    for name in ("distributed", "distributed.client"):  # the second has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        if scheduler is not None:
            client = stack.enter_context(_connected(scheduler))
        else:
            environment = {"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}
            with _no_interrupts(), dask.config.set(environment):
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=":0",  # any port: the usual one may be another's
                    silence_logs=logging.CRITICAL,
                    memory_limit=0,  # a training that needs much is not to be killed for its share of the memory
                )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


def _connected(scheduler: str) -> Client:
    from distributed import Client

    _check_scheduler(scheduler)
    try:
        client = Client(scheduler, timeout=TIMEOUT)
    except OSError as error:
        raise ClusterError(f"the scheduler {scheduler} does not answer ({error})") from None
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError:
        client.close()
        start = f"start some with `dask worker {scheduler}`"
        raise ClusterError(f"the scheduler {scheduler} has no workers: {start}") from None
    return client


def _check_scheduler(address: str) -> None:
    """Raises ClusterError unless something at the address speaks first, as a scheduler does: a client that fails waits
    for long and leaves a mess.
    """
    from distributed.comm import parse_address, parse_host_port

    try:
        scheme, place = parse_address(address)
        with socket.create_connection(parse_host_port(place), TIMEOUT) as connection:
            if scheme == "tcp" and not connection.recv(1):
                raise OSError("it hangs up")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClusterError(
            f"there is no scheduler at {address} ({reason}): give the address of one, such as tcp://host:8786"
        ) from None


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C: it goes to them too, and is for this process to act upon."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(f"{folder}: cannot be made a directory ({error.strerror})") from None
