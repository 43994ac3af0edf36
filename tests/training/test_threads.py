"""Backward passes in several threads at once: of one module, of modules that share a backend, on one device."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from gradsieve.fpga.device import Device
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import Masks, Sieve, Tape, Weights
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.training.backends import Backend, DeviceBackend, FloatBackend, GoldenBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import RowSieve

THREADS, PASSES = 3, 20
Case = tuple[Weights, Tape, Sieve, Masks]


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def gradients(lstm: SievedLSTM, x: Tensor) -> list[Tensor]:
    y = lstm(x)[0]
    return list(torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), list(lstm.parameters())))


def check(lstms: list[SievedLSTM], passes: int, sizes: tuple[int, int, int]) -> None:
    """The gradients of all modules, each in a thread of its own, all at once, are those of one after the other."""
    inputs = [torch.randn(sizes) for _ in lstms]
    expected = [gradients(*pair) for pair in zip(lstms, inputs, strict=True)]
    barrier = threading.Barrier(len(lstms))

    def work(n: int) -> int:
        torch.set_num_threads(1)
        barrier.wait()
        return sum(
            not all(torch.equal(a, b) for a, b in zip(gradients(lstms[n], inputs[n]), expected[n], strict=True))
            for _ in range(passes)
        )

    with ThreadPoolExecutor(len(lstms)) as pool:
        wrong = list(pool.map(work, range(len(lstms))))
    assert wrong == [0] * len(lstms)


@pytest.mark.parametrize("shared", ["module", "backend"])
@pytest.mark.parametrize("backend", [FloatBackend(lanes=4), FloatBackend(), GoldenBackend()], ids=repr)
def test_threads_do_not_disturb_each_other(backend: Backend, shared: str) -> None:
    torch.manual_seed(1)
    lstms = [SievedLSTM(24, 32, sieve=RowSieve(tau=0.02), backend=backend) for _ in range(THREADS)]
    if isinstance(backend, GoldenBackend):
        for lstm in lstms:  # the scale is steered by every pass
            lstm(torch.randn(2, 2, 24))[0].sum().backward()
    check(lstms if shared == "backend" else lstms[:1] * THREADS, PASSES, (6, 8, 24))


def test_layers_in_threads_share_a_device(devices: Callable[[EngineConfig], Device]) -> None:
    torch.manual_seed(2)
    device = devices(preset("tiny"))
    lstms = [SievedLSTM(5, 6, sieve=RowSieve(tau=0.02), backend=DeviceBackend(device)) for _ in range(THREADS)]
    check(lstms, 4, (3, 4, 5))


def test_threads_share_a_device_without_a_layer(devices: Callable[[EngineConfig], Device]) -> None:
    config = preset("tiny")
    device, cases = devices(config), [random_case(config, seed) for seed in range(THREADS)]

    def wrong(case: Case) -> int:
        expected = backward(config, *case)
        return sum(device.backward(*case).mismatches(expected) for _ in range(4))

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(wrong, cases)) == [0] * THREADS
