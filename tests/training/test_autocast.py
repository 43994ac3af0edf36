"""SievedLSTM under autocast: one dtype, torch.nn.LSTM's, whoever computes the pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from gradsieve.training.backends import GoldenBackend
from tests.training.pairs import COARSE, PATHS, I, pair


@pytest.mark.parametrize("path", PATHS)
def test_autocast(path: str) -> None:
    """Under autocast the passes run, and gradients come in the dtypes of the parameters."""
    torch.manual_seed(0)
    _, ours = pair(path, double=False, num_layers=2)
    x = torch.randn(4, 3, I, requires_grad=True)
    plain = torch.autograd.grad(ours(x)[0].float().pow(2).sum(), [x, *ours.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = ours(x)
        half = ours(x.bfloat16())[0]
        found = torch.autograd.grad(y.float().pow(2).sum(), [x, *ours.parameters()])
    torch.testing.assert_close(half.float(), y.float(), **COARSE)
    torch.testing.assert_close(found, plain, **COARSE)


@pytest.mark.parametrize("path", [*PATHS, "golden"])
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_dtypes_are_those_of_torch(path: str, parameters: torch.dtype) -> None:
    theirs, ours = pair("sieved" if path == "golden" else path, double=False)
    theirs.to(parameters), ours.to(parameters)
    if path == "golden":
        ours.backend = GoldenBackend()
    packed = pack_sequence([torch.randn(n, I) for n in (3, 2)])
    dtype = torch.bfloat16  # the only one of which PyTorch has an LSTM on CPUs
    inputs = [torch.randn(4, 3, I), torch.randn(4, 3, I).to(dtype), torch.randn(4, I), packed, packed.to(dtype)]
    for x in inputs:
        for gradients in (True, False):
            with torch.autocast("cpu", dtype=dtype), torch.set_grad_enabled(gradients):
                (a, (h0, c0)), (b, (h1, c1)) = theirs(x), ours(x)
            a, b = (v.data if hasattr(v, "batch_sizes") else v for v in (a, b))
            assert (b.dtype, h1.dtype, c1.dtype) == (a.dtype, h0.dtype, c0.dtype)
            torch.testing.assert_close(b.float(), a.float(), **COARSE)


def test_float64_stays() -> None:
    """PyTorch's own pass refuses it under autocast, which leaves float64 alone everywhere else."""
    _, ours = pair("sieved")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, (h, c) = ours(torch.randn(4, 3, I).double())
    assert y.dtype == h.dtype == c.dtype == torch.float64


@pytest.mark.parametrize(("data", "state"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_packed_input_with_a_state_of_another_dtype(data: torch.dtype, state: torch.dtype) -> None:
    theirs, ours = pair("sieved", double=False)
    x = pack_sequence([torch.randn(n, I) for n in (3, 2)]).to(data)
    hx = (torch.randn(1, 2, 4, dtype=state), torch.randn(1, 2, 4, dtype=state))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (a, (h0, c0)), (b, (h1, c1)) = theirs(x, hx), ours(x, hx)
    assert (b.data.dtype, h1.dtype, c1.dtype) == (a.data.dtype, h0.dtype, c0.dtype)
