"""Files that are either there whole or not at all, folders with one writer, and a cache of built things on disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from gradsieve.rtl_gen.verilator import ToolError

VARIABLE = "GRADSIEVE_BUILD"
"""The environment variable that names the folder of all caches."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CacheError(ToolError):
    """The folder of the caches cannot be used; the message names the variable to set."""


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`; on any failure the old file, or none, is left.  Raises OSError.

    What is there and no regular file, such as a device or a pipe, is written to in place.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def claimed(folder: Path, failure: type[Exception], what: str = "") -> Iterator[None]:
    """Make the folder, and let no other process, nor another thread, claim it while the block lasts.

    With `what` only this part of the folder is claimed.  A process that is killed gives up its claims.  A folder that
    was made and is empty at the end is removed.  Raises `failure`, naming the folder, if it is claimed already or
    cannot be made or written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / f".{what or 'gradsieve'}.lock", blocking=False)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(f"{folder}: cannot be made a directory ({error.strerror})") from None
        try:
            lock.acquire()
        except Timeout:
            raise failure(
                f"{folder / what} must not be in use, got one that another gradsieve is writing: "
                "wait until it has ended, or name another directory"
            ) from None
        except OSError as error:
            raise failure(f"{folder}: cannot be written ({error.strerror})") from None
        try:
            yield
        finally:
            # while it is held: whoever has opened it meanwhile sees that it is gone, and opens another
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    finally:
        for path in made:  # innermost first; stops at the first that is not empty
            try:
                path.rmdir()
            except OSError:
                break


def build_root() -> Path:
    """The folder of all caches: that of GRADSIEVE_BUILD, by default `gradsieve` in the user's cache folder.

    A relative GRADSIEVE_BUILD is one of the working directory of the first call: from then on the variable holds the
    whole path, for this process and those that it starts.  Raises CacheError if there is no home folder to look in.
    """
    given = os.environ.get(VARIABLE)
    try:
        if not given:
            return user_cache_path("gradsieve", appauthor=False)
        folder = Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise CacheError(
            f"the cache folder must be one that can be written, got {given or '~/.cache/gradsieve'} "
            f"({str(error).rstrip('.')}): set {VARIABLE} to another"
        ) from None
    os.environ[VARIABLE] = str(folder)
    return folder


def cache_folder(kind: str, root: Path | None = None) -> Path:
    """The folder `root/kind`, made if it is not there.  Raises CacheError if it cannot be written."""
    base = (build_root() if root is None else root) / kind
    try:
        _try(base)
    except OSError as error:
        raise _refused(base, error) from None
    return base


def cached(kind: str, key: str, build: Callable[[Path], None], root: Path | None = None) -> Path:
    """The folder `root/kind/key`, filled by `build(folder)` unless an earlier call has filled it.

    `key` must name everything that the content depends on (a digest).  Processes that ask for one key at a time wait
    for one of them to build it; a build that fails or is killed leaves nothing that a later call would take for whole.
    Raises CacheError if the folder cannot be written.
    """
    folder = (build_root() if root is None else root) / kind / key
    if os.path.isdir(folder):  # also where it can only be read
        return folder
    base = cache_folder(kind, root)
    try:
        with FileLock(base / f"{key}.lock"):
            if not folder.is_dir():
                _fill(folder, base / f"{key}.partial", build)
    except OSError as error:
        ours = str(error.filename).startswith(str(base)) and not isinstance(error, FileNotFoundError)
        if ours or error.errno in _FULL:
            raise _refused(base, error) from None
        raise
    return folder


def _fill(folder: Path, partial: Path, build: Callable[[Path], None]) -> None:
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        build(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def tool_caches(name: str) -> dict[str, str]:
    """Environment variables for a program that keeps what it compiles in the folder `name` of the user's cache folder.

    There are none unless that folder cannot be written: then it is one among our caches.  Raises CacheError if that
    cannot be written either.
    """
    try:
        _try(user_cache_path() / name)
    except OSError:
        return {"XDG_CACHE_HOME": str(cache_folder("tools"))}
    except RuntimeError:  # there is no home folder, and some programs do not start without one
        return dict.fromkeys(("XDG_CACHE_HOME", "HOME"), str(cache_folder("tools")))
    return {}


def _try(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _refused(folder: Path, error: OSError) -> CacheError:
    return CacheError(
        f"the cache folder must be one that can be written, got {folder} ({error.strerror}): set {VARIABLE} to another"
    )
