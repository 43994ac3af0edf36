"""Sieved passes on a GPU: the numbers of the CPU's, and a warning that nobody has measured their speed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from gradsieve.training.backends import float_backend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import ElementSieve, GradientSieve, RowSieve, StochasticSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_one_warning_for_each_device_that_was_not_measured() -> None:
    float_backend._warn_of_speed.cache_clear()
    with pytest.warns(UserWarning, match=r"on cuda:1 run in PyTorch's operations .* for study, not for speed"):
        float_backend._warn_of_speed(torch.device("cuda:1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device in ("cuda:1", "cpu", "meta"):
            float_backend._warn_of_speed(torch.device(device))
    float_backend._warn_of_speed.cache_clear()


@needs_cuda
@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:sieved passes on cuda")
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("sieve", [RowSieve(tau=0.01), ElementSieve(tau=0.01), StochasticSieve(tau=0.01)], ids=repr)
def test_as_on_the_cpu(sieve: GradientSieve, dropped: bool) -> None:
    """In float64, where no gate gradient is so near tau that the order of sums decides."""
    torch.manual_seed(1)
    host = SievedLSTM(12, 20, 2, bidirectional=True, sieve=sieve).double()
    if dropped:
        host.column_dropout = StructuredDropout(input=0.5, hidden=0.5, columns=4)
    there = copy.deepcopy(host).cuda()
    x = torch.randn(7, 9, 12, dtype=torch.float64)
    results = []
    for lstm in (host, there):
        torch.manual_seed(2)
        y, _ = lstm(x.to(lstm.weight_ih_l0.device))
        y.square().sum().backward()
        results.append([y.detach().cpu(), *(p.grad.cpu() for p in lstm.parameters() if p.grad is not None)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)
    assert len(results[0]) == 17
