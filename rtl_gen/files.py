"""Files that are either there whole or not at all, and a cache of built things on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

BUILD_ROOT = Path(__file__).parents[1] / "build"
"""Where caches are kept, unless the environment variable GRADSIEVE_BUILD names another folder."""


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`; on any failure the old file, or none, is left.  Raises OSError."""
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


def build_root() -> Path:
    """The folder of all caches."""
    return Path(os.environ.get("GRADSIEVE_BUILD") or BUILD_ROOT)


def cached(kind: str, key: str, build: Callable[[Path], None], root: Path | None = None) -> Path:
    """The folder `root/kind/key`, filled by `build(folder)` unless an earlier call has filled it.

    `key` must name everything that the content depends on (a digest).  Processes that ask for one key at a time wait
    for one of them to build it; a build that fails or is killed leaves nothing that a later call would take for whole.
    """
    base = (build_root() if root is None else root) / kind
    folder = base / key
    base.mkdir(parents=True, exist_ok=True)
    with FileLock(base / f"{key}.lock"):
        if not folder.is_dir():
            partial = base / f"{key}.partial"
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            try:
                build(partial)
                partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return folder
