"""The simulated devices of tests/fpga, and one thread: bits must not depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.fpga.conftest import devices

__all__ = ["devices"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
