"""The wheel and the sdist: `gradsieve` and nothing else, in the company of whatever else is installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gradsieve.rtl_gen.files import build_root

ROOT = Path(__file__).parents[2]
FOREIGN = ("hw", "golden", "rtl_gen", "tb", "fpga", "training", "tests")
"""Packages of somebody else, installed beside."""
BUILD = "import sys; from setuptools import build_meta; print(build_meta.{}(sys.argv[1]))"


@contextmanager
def stale_files() -> Iterator[None]:
    """What an earlier build might have left in the folder that setuptools builds in by default."""
    planted = [ROOT / "build" / "lib" / place / "stale_of_a_test.py" for place in ("hw", "gradsieve", "gradsieve/hw")]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError\n")
    try:
        yield
    finally:
        for path in planted:
            path.unlink()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    with stale_files():
        for kind in ("build_wheel", "build_sdist"):
            command = [sys.executable, "-c", BUILD.format(kind), str(folder)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return folder


def sources() -> set[str]:
    """Every file of the packages, as git has them or would."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0
    found = {p for p in listed.stdout.splitlines() if (ROOT / p).is_file()}
    folders = {*FOREIGN[:-1]}
    return {
        p if p.startswith("gradsieve/") else f"gradsieve/{p}"
        for p in found
        if p.split("/")[0] in folders | {"gradsieve"}
    }


def test_wheel_and_sdist_hold_the_package_and_nothing_else(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n.split("/")[0] for n in names} == {"gradsieve", wheel.name.split("-py3")[0] + ".dist-info"}
    assert {n for n in names if n.startswith("gradsieve/")} == sources()
    top = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        members = [m for m in archive.getmembers() if not m.isdir()]
    assert all(m.isfile() for m in members)  # no links, which would lead nowhere
    inside = {m.name.removeprefix(f"{top}/") for m in members}
    assert {n for n in inside if n.startswith("gradsieve/")} == sources()
    assert not [n for n in inside if n.split("/")[0] in FOREIGN and n.split("/")[0] != "tests"]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_installed_wheel_works_beside_foreign_packages(built: Path, tmp_path: Path) -> None:
    """Generates, benches, verifies a block and trains; where it is installed nothing changes by that."""
    env = tmp_path / "env"
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True, timeout=300)
    python = env / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, env=outside, check=True, capture_output=True, timeout=300)
    home = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    # third-party packages by a line of a .pth file, whose own .pth files (of the editable install) are not read
    (home / "third_party.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for name in FOREIGN:
        (home / name).mkdir()
        (home / name / "__init__.py").write_text(f"whose = 'somebody else, {name}'\n")
    work = tmp_path / "work"
    (work / "training").mkdir(parents=True)
    (work / "training" / "__init__.py").write_text("mine = True\n")
    (work / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    before = digests(home)
    scripts = os.pathsep.join([str(env / "bin"), sysconfig.get_path("scripts"), os.environ["PATH"]])
    outside |= {"PATH": scripts, "GRADSIEVE_BUILD": str(build_root())}  # simulators of this session are used again

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=work, env=outside, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    where = "import gradsieve.hw.config as c, training, hw; print(c.__file__, training.mine, hw.whose)"
    assert run(str(python), "-c", where).strip() == f"{home / 'gradsieve/hw/config.py'} True somebody else, hw"
    run("gradsieve", "generate", "--preset", "tiny", "-o", "tiny")
    assert (work / "tiny" / "gradsieve_tiny.v").is_file()
    assert "0" in run("gradsieve", "bench", "--preset", "tiny", "--kept", "1,0.5")
    assert "1 of 1 benches passed" in run("gradsieve", "verify", "--preset", "tiny", "--block", "counters")
    run("gradsieve", "train", "--text", "text.txt", "--method", "row", "--target", "0.3", "--steps", "3", "-o", "out")
    assert (work / "out" / "report.html").is_file()
    after = digests(home)
    assert after.keys() == before.keys()
    assert after == before


@pytest.mark.heavy
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize(
    "extras", [[], ["sim"], ["fpga"], ["studies"], ["docs"], ["dev"]], ids=lambda e: "".join(e) or "core"
)
def test_requirements_resolve(resolution: str, extras: list[str], tmp_path: Path) -> None:
    """At the lowest versions that are allowed, and at the newest; for Python 3.11."""
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--python-version",
        "3.11",
        "--resolution",
        resolution,
        "pyproject.toml",
    ]
    command += [part for extra in extras for part in ("--extra", extra)]
    command += ["--output-file", str(tmp_path / "pins.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "torch==" in (tmp_path / "pins.txt").read_text()
