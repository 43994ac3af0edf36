"""How the compiled passes come to be: built once, on first use, by the compiler that is there, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import RowSieve
from gradsieve.training.native import library

ROOT = Path(__file__).parents[3]
STEP = """
import torch
from gradsieve import RowSieve, SievedLSTM
torch.manual_seed(1)
lstm = SievedLSTM(20, 24, sieve=RowSieve(tau=0.01))
x = torch.randn(5, 9, 20)
lstm(x)[0].square().sum().backward()
print(torch.backends.cpu.get_cpu_capability(), lstm.take_statistics()[0].gemm_seconds is not None)
print(*(f"{p.grad.double().square().sum():.9e}" for p in lstm.parameters()))
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before the first use."""
    monkeypatch.setattr(library, "_loaded", None)


def step(seed: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    lstm = SievedLSTM(20, 24, sieve=RowSieve(tau=0.01))
    lstm(torch.randn(5, 9, 20))[0].square().sum().backward()
    gradients = [p.grad for p in lstm.parameters() if p.grad is not None]
    assert len(gradients) == 4
    return gradients


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    """The program STEP in a process of its own."""
    env = os.environ | environment
    return subprocess.run([sys.executable, "-c", STEP], env=env, cwd=ROOT, capture_output=True, text=True, check=True)


def test_without_a_compiler_one_warning_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = step()
    monkeypatch.setattr(library, "_loaded", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(UserWarning, match=r"a C\+\+ compiler is not installed, and the compiled passes need it") as seen:
        found = step()
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))  # it did take another way


def test_a_build_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADSIEVE_BUILD", str(tmp_path))
    monkeypatch.setattr(library, "_flags", lambda: ("-DWIDTH=?",))
    with pytest.warns(UserWarning, match=r"cannot be used: \S+ failed with status 1: .*error: ") as seen:
        step()
    assert len(seen) == 1
    assert not list(tmp_path.glob("native/*/"))  # nothing half built


def test_built_on_first_use_by_one_of_two_processes(tmp_path: Path) -> None:
    env = os.environ | {"GRADSIEVE_BUILD": str(tmp_path)}
    idle = "import gradsieve; gradsieve.SievedLSTM(3, 4)"
    subprocess.run([sys.executable, "-c", idle], env=env, cwd=ROOT, check=True)
    assert not list(tmp_path.iterdir())  # an import and a module build nothing
    both = [
        subprocess.Popen(
            [sys.executable, "-c", STEP], env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0] and " True\n" in said[0][0]
    assert sorted("building SievedLSTM's passes" in err for _, err in said) == [False, True]
    assert len(list(tmp_path.glob("native/*/passes.so"))) == 1


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_other_capabilities_compute_the_same(capability: str) -> None:
    """Vectors of other widths, as PyTorch is told by ATEN_CPU_CAPABILITY: the same numbers to float accuracy."""
    best, other = run(), run(ATEN_CPU_CAPABILITY=capability)
    (name, built), numbers = (line.split() for line in other.stdout.splitlines())
    assert built == "True" and name.lower() == capability
    expected = best.stdout.splitlines()[1].split()
    for a, b in zip(numbers, expected, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_it_does_not_serve(dtype: torch.dtype) -> None:
    assert library.serves(torch.zeros(1)) and library.serves(torch.zeros(1).double())
    assert not library.serves(torch.zeros(1, dtype=dtype))
    assert not library.serves(torch.zeros(1), torch.zeros(1).double())
    assert not library.serves(torch.zeros(1, device="meta"))
