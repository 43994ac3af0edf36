"""Forward passes that run twice, and graphs that are used twice: the gradients are those of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradsieve.training.backends import PROBE, FloatBackend, GoldenBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import DenseSieve, GradientSieve, RowSieve, StochasticSieve
from gradsieve.training.methods.structured_dropout import ColumnDropout, StructuredDropout

LAYERS: dict[str, Callable[[], SievedLSTM]] = {
    "dropout of columns": lambda: SievedLSTM(6, 8, column_dropout=StructuredDropout(0.5, 0.5, 2)),
    "and a sieve": lambda: SievedLSTM(
        6, 8, 2, bidirectional=True, column_dropout=StructuredDropout(0.5, 0.5, 2), sieve=RowSieve(tau=0.05)
    ),
    "golden": lambda: SievedLSTM(
        6, 8, column_dropout=StructuredDropout(0.5, 0.5, 16), sieve=RowSieve(tau=0.05), backend=GoldenBackend()
    ),
    "dropout between layers": lambda: SievedLSTM(6, 8, 2, dropout=0.5, sieve=RowSieve(tau=0.05)),
    "between plain layers": lambda: SievedLSTM(6, 8, 2, dropout=0.5, sieve=DenseSieve()),
    "batch first": lambda: SievedLSTM(6, 8, 3, batch_first=True, dropout=0.5, sieve=RowSieve(tau=0.05)),
}


def gradients(model: nn.Module, x: Tensor, run: Callable[..., Tensor]) -> list[Tensor]:
    """The loss, and its gradients by x and every parameter."""
    torch.manual_seed(11)
    y = run(model, x)
    loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    return [loss.detach(), *torch.autograd.grad(loss, [x, *model.parameters()])]


def output(module: nn.Module, x: Tensor) -> Tensor:
    result = module(x)
    return result[0] if isinstance(result, tuple) else result


def checkpointed(module: nn.Module, x: Tensor, reentrant: bool) -> Tensor:
    return checkpoint(output, module, x, use_reentrant=reentrant)


def accumulated(model: nn.Module, x: Tensor, run: Callable[..., Tensor]) -> list[Tensor]:
    """As `gradients`, by backward(): the graph of a reentrant checkpoint ends where it begins."""
    torch.manual_seed(11)
    model.zero_grad()
    x.grad = None
    y = run(model, x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    found = [x.grad, *(p.grad for p in model.parameters())]
    assert all(g is not None for g in found)
    return [y.detach(), *(g.clone() for g in found if g is not None)]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_checkpointing_gives_the_gradients_of_one_pass(name: str, reentrant: bool) -> None:
    torch.manual_seed(1)
    lstm, x = LAYERS[name](), torch.randn(5, 5, 6, requires_grad=True)
    plain = accumulated(lstm, x, output)
    again = accumulated(lstm, x, partial(checkpointed, reentrant=reentrant))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)  # float32: PyTorch's pass and ours round differently
    other = accumulated(lstm, x, output)
    assert torch.equal(other[0], plain[0])
    torch.manual_seed(12)
    assert not torch.equal(output(lstm, x), plain[0])  # so the masks of another seed do matter


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_module_of_dropout_alone(reentrant: bool) -> None:
    module, x = nn.Sequential(ColumnDropout(0.5, columns=2), nn.Linear(6, 3)), torch.randn(5, 4, 6, requires_grad=True)
    plain = accumulated(module, x, output)
    for a, b in zip(plain, accumulated(module, x, partial(checkpointed, reentrant=reentrant)), strict=True):
        assert torch.equal(a, b)


def functional(module: nn.Module, parameters: Iterable[tuple[str, Tensor]], x: Tensor) -> Tensor:
    return torch.func.functional_call(module, dict(parameters), (x,))[0]


@pytest.mark.parametrize("name", LAYERS)
def test_functional_call(name: str) -> None:
    """With other weights than the module's own, checkpointed or not."""
    torch.manual_seed(2)
    lstm, other = LAYERS[name](), LAYERS[name]()
    x = torch.randn(5, 5, 6, requires_grad=True)
    plain = gradients(other, x, output)
    for wrap in (functional, partial(checkpoint, functional, use_reentrant=False)):
        torch.manual_seed(11)
        y = wrap(lstm, list(other.named_parameters()), x)
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
        found = [loss.detach(), *torch.autograd.grad(loss, [x, *other.parameters()])]
        for a, b in zip(plain, found, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_graph_used_twice(name: str) -> None:
    torch.manual_seed(3)
    lstm, x = LAYERS[name](), torch.randn(5, 5, 6, requires_grad=True)
    y = output(lstm, x)
    loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    wanted = [x, *lstm.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    lstm(torch.randn(5, 5, 6))[0].sum().backward()  # another pass in between
    for a, b in zip(first, torch.autograd.grad(loss, wanted), strict=True):
        assert torch.equal(a, b)


def test_passes_without_gradients_draw_dropout_as_those_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same code: cuDNN draws in a way of its own, and a reentrant checkpoint runs its first pass without."""
    calls = []
    own = SievedLSTM._own
    monkeypatch.setattr(SievedLSTM, "_own", lambda self, *rest: (calls.append(1), own(self, *rest))[1])
    lstm = SievedLSTM(6, 8, 2, dropout=0.5, sieve=RowSieve(tau=0.05))
    for training, expected in ((True, 1), (False, 0)):
        calls.clear()
        with torch.no_grad():
            lstm.train(training)(torch.randn(5, 4, 6))
        assert len(calls) == expected


def test_the_stochastic_sieve_draws_in_the_backward_pass() -> None:
    """So a graph used twice draws twice; from `seed` on the draws repeat, whatever PyTorch's own random numbers are."""
    x, found = torch.randn(5, 4, 6), []
    weights = SievedLSTM(6, 8).state_dict()
    for _ in range(2):
        lstm = SievedLSTM(6, 8, sieve=StochasticSieve(tau=0.5), backend=FloatBackend(lanes=2), seed=5)
        lstm.load_state_dict(weights)
        y = lstm(x)[0].sum()
        found.append([torch.autograd.grad(y, [*lstm.parameters()], retain_graph=True)[0] for _ in range(2)])
        torch.rand(3)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.parametrize("sieve", [RowSieve(tau=1e-4), StochasticSieve(tau=1e-4), RowSieve(target=0.9)], ids=repr)
def test_a_checkpoint_s_second_pass_takes_the_way_of_the_first(sieve: GradientSieve) -> None:
    """Also where passes may be left to PyTorch: under a checkpoint none is, as what pays may change in between."""
    lstm = SievedLSTM(6, 8, sieve=sieve, backend=FloatBackend(dense_where_faster=True))
    for _ in range(2 * PROBE + 4):
        checkpoint(output, lstm, torch.randn(5, 3, 6), use_reentrant=False).sum().backward()
    assert not any(s.left_dense for s in lstm.take_statistics())
