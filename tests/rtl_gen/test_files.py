"""Whole files, folders with one writer, and the folder of the caches."""

from __future__ import annotations

import errno
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gradsieve.rtl_gen import files
from gradsieve.rtl_gen.files import (
    CacheError,
    build_root,
    cache_folder,
    cached,
    claimed,
    tool_caches,
    write_text,
)

ROOT = Path(__file__).parents[2]
MUST = "the cache folder must be one that can be written, got "


def fill(folder: Path) -> None:
    (folder / "made").write_text("made")


# where the caches are


def test_caches_are_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(files.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cached("kind", "key", fill)
    assert folder == tmp_path / "cache" / "gradsieve" / "kind" / "key"
    assert files.VARIABLE not in os.environ


def test_a_relative_folder_is_one_of_the_first_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(files.VARIABLE, "my cache")
    monkeypatch.chdir(tmp_path)
    first = cached("kind", "key", fill)
    assert first == tmp_path / "my cache" / "kind" / "key"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert cached("kind", "key", lambda folder: pytest.fail("it is there")) == first
    script = "from gradsieve.rtl_gen.files import build_root; print(build_root())"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "my cache")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(files.VARIABLE, "~/mine")
    assert build_root() == tmp_path / "mine"


@pytest.mark.parametrize("value", ["/dev/null", "/proc/nonexistent/x", "{file}", "{file}/below", "~nobody_at_all/x"])
def test_an_impossible_folder_is_one_line_that_names_the_variable(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    value = value.format(file=tmp_path / "file")
    monkeypatch.setenv(files.VARIABLE, value)
    with pytest.raises(CacheError) as error:
        cached("kind", "key", fill)
    assert str(error.value).startswith(MUST + value) and str(error.value).endswith(": set GRADSIEVE_BUILD to another")
    assert "\n" not in str(error.value)


def test_a_user_without_a_home_is_told_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in (files.VARIABLE, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(CacheError, match=r"could not determine the home directory.*: set GRADSIEVE_BUILD to another"):
        build_root()


def test_what_is_built_can_be_used_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached("kind", "key", fill, tmp_path)

    def read_only(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr(files, "_try", read_only)
    assert (cached("kind", "key", fill, tmp_path) / "made").read_text() == "made"
    with pytest.raises(CacheError, match="Read-only file system"):
        cached("kind", "other", fill, tmp_path)


def test_a_full_disk_is_told_and_other_errors_of_building_are_not_changed(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def missing(folder: Path) -> None:
        (folder / "result").read_text()

    with pytest.raises(CacheError, match="No space left on device"):
        cached("kind", "key", full, tmp_path)
    with pytest.raises(FileNotFoundError):
        cached("kind", "key", missing, tmp_path)
    (tmp_path / "kind" / "locked.lock").mkdir()
    with pytest.raises(CacheError, match=r"kind \(Is a directory\)"):
        cached("kind", "locked", fill, tmp_path)


def test_tools_keep_their_caches_where_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.VARIABLE, str(tmp_path / "ours"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert tool_caches("wasmtime") == {}
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tool_caches("wasmtime") == {"XDG_CACHE_HOME": str(tmp_path / "ours" / "tools")}
    assert os.access(cache_folder("tools"), os.W_OK)
    monkeypatch.setenv(files.VARIABLE, "/dev/null/x")
    with pytest.raises(CacheError, match=r"/dev/null/x/tools \(Not a directory\): set GRADSIEVE_BUILD"):
        tool_caches("wasmtime")


# one writer


@pytest.mark.parametrize("what", ["", "part"])
def test_a_folder_has_one_writer(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    refused = []

    def second() -> None:
        try:
            with claimed(folder, ValueError, what):
                pass
        except ValueError as error:
            refused.append(str(error))

    with claimed(folder, ValueError, what):
        second()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        with claimed(folder, ValueError, "other"):
            pass
    message = f"{folder / what} must not be in use, got one that another gradsieve is writing: wait until it has ended"
    assert [r.startswith(message) for r in refused] == [True, True]
    assert not (tmp_path / "a").exists()  # what was made and is empty
    folder.mkdir(parents=True)
    with claimed(folder, ValueError, what):
        pass
    assert list(folder.iterdir()) == []  # what was there stays


def test_a_killed_process_claims_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from gradsieve.rtl_gen.files import claimed\n"
        "with claimed(Path(sys.argv[1]), ValueError):\n print('claimed', flush=True); time.sleep(60)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match="must not be in use"), claimed(tmp_path, ValueError):
            pass
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".gradsieve.lock"]  # a stale one
    with claimed(tmp_path, ValueError):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_claimed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"file/below: cannot be made a directory \(Not a directory\)"),
        claimed(tmp_path / "file" / "below", ValueError),
    ):
        pass
    (tmp_path / ".gradsieve.lock").mkdir()
    with pytest.raises(ValueError, match=r"cannot be written \(Is a directory\)"), claimed(tmp_path, ValueError):
        pass


# files


def test_a_device_or_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    thread = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    thread.start()
    write_text(fifo, "text\n")
    thread.join(10)
    assert read == ["text\n"] and fifo.is_fifo()
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_text(full, "text\n")
    assert full.is_symlink()


# documentation


def test_every_variable_that_is_read_is_documented() -> None:
    """In docs/environment.md: what the sources take from the environment, and all of our own."""
    read = re.compile(r"\benv(?:iron)?(?:\.get\(|\[)\"([A-Z_]+)\"|\b(GRADSIEVE_[A-Z]+(?:_[A-Z]+)*)\b")
    sources = [*(ROOT / "gradsieve" / "cli").glob("*.py"), ROOT / "tests" / "conftest.py"]
    for folder in ("fpga", "golden", "hw", "rtl_gen", "tb", "training"):
        sources += (ROOT / folder).rglob("*.py")
    found = {a or b for path in sources for a, b in read.findall(path.read_text(encoding="utf-8"))}
    assert {"GRADSIEVE_BUILD", "GRADSIEVE_SEED", "CXX", "PATH"} <= found
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert [name for name in sorted(found) if f"`{name}`" not in page] == []
